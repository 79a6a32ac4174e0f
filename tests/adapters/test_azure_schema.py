"""What the adapter puts on the wire: Azure's official schema accepts it, and names all but what its guide adds."""

from __future__ import annotations

import email
import io
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

import pytest
from support.azure_answers import GUIDES, PROCESSED, answer
from support.fault_proxy import Answer

if TYPE_CHECKING:
    from adapters.conftest import ConnectAzure
    from openapi_core import OpenAPI
    from support.fault_proxy import FaultProxy, RecordedRequest

_SPECIFICATION = Path(__file__).parents[3] / "shared" / "specs" / "azure-openai-2024-10-21.openapi3.yaml"
# In the specification of 2025-04-01-preview and in the guide of 2026-03-19, but not yet in this version.
_FROM_LATER_VERSIONS = {"expires_after.anchor", "expires_after.seconds", "output_expires_after"}
_DAY = 86_400


@pytest.fixture(scope="module")
def official() -> OpenAPI:
    if not _SPECIFICATION.is_file():
        assert os.environ.get("CI") != "true", f"{_SPECIFICATION} must be there in CI"
        pytest.skip("Azure's OpenAPI description is not beside the checkout")
    from openapi_core import OpenAPI

    return OpenAPI.from_file_path(str(_SPECIFICATION))


@pytest.fixture
def sent(connect_azure: ConnectAzure, canned: FaultProxy) -> list[RecordedRequest]:
    """One of every call that the adapter can make, with all that it can carry."""
    for method, path, given in (
        ("POST", "/files$", answer({"id": "file-1"}, 201)),
        ("GET", "/files/file-1$", PROCESSED),
        ("GET", "/files$", answer({"data": []})),
        ("GET", "/content$", Answer(200, b"{}\n")),
        ("DELETE", "/files/file-1$", answer({"id": "file-1", "deleted": True})),
        ("POST", "/batches$", answer(GUIDES, 201)),
        ("GET", "/batches$", answer({"data": []})),
        ("GET", "/batches/batch_1$", answer(GUIDES)),
        ("POST", "/cancel$", answer(GUIDES)),
    ):
        canned.rule(method, path, given, times=None)
    adapter = connect_azure(api_version="2024-10-21")
    adapter.create_file(io.BytesIO(b"{}\n"), filename="a.jsonl")
    adapter.retrieve_file("file-1")
    list(adapter.list_files(purpose="batch", limit=3))
    b"".join(adapter.file_content("file-1"))
    adapter.create_batch("file-1", endpoint="/v1/chat/completions")
    metadata = {"team": "search"}
    adapter.create_batch("file-1", endpoint="/v1/responses", metadata=metadata, output_expires_after=14 * _DAY)
    adapter.retrieve_batch("batch_1")
    list(adapter.list_batches(after="batch_1", limit=3))
    adapter.cancel_batch("batch_1")
    adapter.delete_file("file-1")
    return canned.requests


def _part_names(request: RecordedRequest) -> set[str]:
    head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
    parts = [part for part in email.message_from_bytes(head + request.body).walk() if not part.is_multipart()]
    return {str(part.get_param("name", header="content-disposition")) for part in parts}


def test_azures_schema_accepts_every_call(sent: list[RecordedRequest], official: OpenAPI) -> None:
    from openapi_core.testing import MockRequest

    called = set()
    for request in sent:
        path, _, query = request.path.partition("?")
        content_type = request.headers.get("content-type", "")
        if not content_type.startswith("multipart/form-data"):  # openapi-core cannot read parts: see below
            official.validate_request(
                MockRequest(
                    "https://example.openai.azure.com",
                    request.method.lower(),
                    path,
                    args=dict(parse_qsl(query)),
                    headers={"api-key": request.headers["api-key"]},
                    data=request.body or None,
                    content_type=content_type,
                )
            )
        called.add((request.method, path.split("/")[2], path.count("/")))
    assert called == {
        ("POST", "files", 2),
        ("GET", "files", 2),
        ("GET", "files", 3),
        ("GET", "files", 4),
        ("DELETE", "files", 3),
        ("POST", "batches", 2),
        ("GET", "batches", 2),
        ("GET", "batches", 3),
        ("POST", "batches", 4),
    }


def test_no_call_carries_anything_that_no_version_of_the_schema_names(
    sent: list[RecordedRequest], official: OpenAPI
) -> None:
    # A schema without additionalProperties: false accepts anything, and openapi-core any query.
    paths = official.spec / "paths"
    carried: set[str] = set()
    for request in sent:
        path, _, query = request.path.partition("?")
        where = path.removeprefix("/openai").replace("file-1", "{file-id}").replace("batch_1", "{batch-id}")
        operation = paths / where / request.method.lower()
        named = {parameter.get("name", "api-version") for parameter in (operation / "parameters").read_value()}
        assert {name for name, _ in parse_qsl(query)} <= named, request.path
        assert "api-version" in query
        if where == "/batches" and request.method == "POST":
            known = (official.spec / "components" / "schemas" / "BatchCreateRequest" / "properties").read_value()
            carried |= json.loads(request.body).keys() - known.keys()
        elif where == "/files" and request.method == "POST":
            schema = operation / "requestBody" / "content" / "multipart/form-data" / "schema"
            assert set((schema / "required").read_value()) <= _part_names(request)
            carried |= _part_names(request) - (schema / "properties").read_value().keys()
    assert carried == _FROM_LATER_VERSIONS
