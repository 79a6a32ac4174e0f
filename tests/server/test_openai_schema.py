"""What the server answers passes OpenAI's official schema."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.batch_server import CHAT, Client, chat_line, jsonl

if TYPE_CHECKING:
    import httpx
    from openapi_core import OpenAPI

_SPECIFICATION = Path(__file__).parents[3] / "shared" / "specs" / "openai.yaml"


@pytest.fixture(scope="module")
def official() -> OpenAPI:
    if not _SPECIFICATION.is_file():
        assert os.environ.get("CI") != "true", f"{_SPECIFICATION} must be there in CI"
        pytest.skip("OpenAI's OpenAPI description is not beside the checkout")
    from openapi_core import OpenAPI

    return OpenAPI.from_file_path(str(_SPECIFICATION))


def _without_nulls(body: Any) -> Any:
    """OpenAI answers null for what is not there yet, as the schema's examples do; the schema itself knows no null."""
    if isinstance(body, dict):
        return {name: _without_nulls(value) for name, value in body.items() if value is not None}
    return [_without_nulls(each) for each in body] if isinstance(body, list) else body


def _answers(client: Client) -> list[httpx.Response]:
    """One answer of every call, on batches in several states; no empty list, for which the schema has no ids."""
    uploaded = client.upload(jsonl([chat_line("a"), chat_line("b", body={"messages": [], "model": "echo"})]))
    file_id = uploaded.json()["id"]
    created = client.create(file_id, metadata={"team": "search"})
    client.ended(created.json())
    failed = client.run(b"not json\n")
    running = client.batch(jsonl(chat_line(str(n)) for n in range(5_000)))
    get = client.http.get
    return [
        uploaded,
        created,
        get(f"/batches/{created.json()['id']}"),
        get(f"/batches/{failed['id']}"),
        client.cancel(running),
        get("/batches", params={"limit": 2}),
        get(f"/batches/{client.ended(running)['id']}"),
        get(f"/files/{file_id}"),
        get("/files", params={"limit": 3}),
        client.http.delete(f"/files/{file_id}"),
    ]


def test_openais_schema_accepts_every_answer(client: Client, official: OpenAPI) -> None:
    from openapi_core.testing import MockRequest, MockResponse

    called = set()
    for answer in _answers(client):
        asked = answer.request
        body = answer.json()
        request = MockRequest(
            "https://api.openai.com",
            asked.method.lower(),
            asked.url.path,
            args=dict(asked.url.params),
            content_type=asked.headers.get("content-type", ""),
        )
        response = MockResponse(
            json.dumps(_without_nulls(body)).encode(),
            status_code=answer.status_code,
            content_type=answer.headers["content-type"],
        )
        official.validate_response(request, response)
        called.add((asked.method, asked.url.path.split("/")[2], asked.url.path.count("/")))
    assert called == {
        ("POST", "files", 2),
        ("GET", "files", 2),
        ("GET", "files", 3),
        ("DELETE", "files", 3),
        ("POST", "batches", 2),
        ("GET", "batches", 2),
        ("GET", "batches", 3),
        ("POST", "batches", 4),
    }


def test_no_object_has_a_field_that_the_schema_does_not_name(client: Client, official: OpenAPI) -> None:
    schemas = official.spec / "components" / "schemas"
    objects = {"OpenAIFile": client.file(b"x"), "Batch": client.run(jsonl([chat_line("a")]), endpoint=CHAT)}
    for name, found in objects.items():
        assert found.keys() <= (schemas / name / "properties").read_value().keys()
