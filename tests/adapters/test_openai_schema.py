"""What the adapter puts on the wire: OpenAI's official schema accepts it, and it is exactly what was asked for."""

from __future__ import annotations

import email
import io
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

import pytest
from support.adapter_contract import chat_line, unique_name, until_ended

if TYPE_CHECKING:
    from collections.abc import Iterator

    from adapters.conftest import Connect
    from openapi_core import OpenAPI
    from support.fault_proxy import FaultProxy, RecordedRequest

_SPECIFICATION = Path(__file__).parents[3] / "shared" / "specs" / "openai.yaml"


@pytest.fixture(scope="module")
def official() -> OpenAPI:
    if not _SPECIFICATION.is_file():
        assert os.environ.get("CI") != "true", f"{_SPECIFICATION} must be there in CI"
        pytest.skip("OpenAI's OpenAPI description is not beside the checkout")
    from openapi_core import OpenAPI

    return OpenAPI.from_file_path(str(_SPECIFICATION))


@pytest.fixture
def sent(connect: Connect, faulty: FaultProxy) -> list[RecordedRequest]:
    """One of every call that the adapter can make, with all that it can carry."""
    adapter = connect(faulty.url)
    file = adapter.create_file(io.BytesIO(chat_line("a", "hello")), filename=unique_name(), expires_after=3_600)
    bare = adapter.create_batch(file.id, endpoint="/v1/chat/completions")
    adapter.create_batch(
        file.id, endpoint="/v1/chat/completions", metadata={"team": "search"}, output_expires_after=86_400
    )
    until_ended(adapter, bare.id)
    adapter.cancel_batch(bare.id)
    list(adapter.list_batches(after=bare.id, limit=3))
    adapter.retrieve_file(file.id)
    list(adapter.list_files(purpose="batch", limit=3))
    b"".join(adapter.file_content(file.id))
    adapter.delete_file(file.id)
    return faulty.requests


def _parts(request: RecordedRequest) -> Iterator[tuple[str | None, str | None, bytes]]:
    """Name, file name and content of each part of a multipart body."""
    head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
    for part in email.message_from_bytes(head + request.body).walk():
        if not part.is_multipart():
            content = part.get_payload(decode=True)
            assert isinstance(content, bytes)
            name = part.get_param("name", header="content-disposition")
            assert name is None or isinstance(name, str)
            yield name, part.get_filename(), content


def test_openais_schema_accepts_every_call(sent: list[RecordedRequest], official: OpenAPI) -> None:
    from openapi_core.testing import MockRequest

    called = set()
    for request in sent:
        path, _, query = request.path.partition("?")
        content_type = request.headers.get("content-type", "")
        is_upload = content_type.startswith("multipart/form-data")  # openapi-core cannot read parts: see below
        if not is_upload:
            official.validate_request(
                MockRequest(
                    "https://api.openai.com",
                    request.method.lower(),
                    path,
                    args=dict(parse_qsl(query)),
                    headers={"Authorization": request.headers["authorization"]},
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


def test_no_call_carries_anything_that_the_schema_does_not_name(sent: list[RecordedRequest], official: OpenAPI) -> None:
    # A schema without additionalProperties: false accepts anything, and openapi-core any query.
    schemas = official.spec / "components" / "schemas"
    for request in sent:
        path, _, query = request.path.partition("?")
        if path in ("/v1/files", "/v1/batches"):
            parameters = (official.spec / "paths" / path.removeprefix("/v1") / "get" / "parameters").read_value()
            assert {name for name, _ in parse_qsl(query)} <= {parameter["name"] for parameter in parameters}
        else:
            assert query == ""
        if (request.method, path) == ("POST", "/v1/batches"):
            properties = (schemas / "CreateBatchRequest" / "properties").read_value()
            assert json.loads(request.body).keys() <= properties.keys()
        if (request.method, path) == ("POST", "/v1/files"):
            properties = (schemas / "CreateFileRequest" / "properties").read_value()
            assert {(name or "").partition("[")[0] for name, _, _ in _parts(request)} <= properties.keys()


def test_a_file_travels_as_parts_with_its_name_its_purpose_and_its_expiry(connect: Connect, faulty: FaultProxy) -> None:
    content = chat_line("a", "line\r\nbreaks")
    name = unique_name()
    file = connect(faulty.url).create_file(io.BytesIO(content), filename=name, purpose="batch", expires_after=7_200)
    [request] = faulty.requests
    assert list(_parts(request)) == [
        ("purpose", None, b"batch"),
        ("expires_after[anchor]", None, b"created_at"),
        ("expires_after[seconds]", None, b"7200"),
        ("file", name, content),
    ]
    assert int(request.headers["content-length"]) == request.body_bytes
    assert file.expires_at is not None
    assert file.created_at is not None
    assert file.expires_at - file.created_at == 7_200


def test_a_file_without_an_expiry_sends_none(connect: Connect, faulty: FaultProxy) -> None:
    connect(faulty.url).create_file(io.BytesIO(b"{}\n"), filename="a.txt", purpose="user_data")
    assert list(_parts(faulty.requests[0])) == [("purpose", None, b"user_data"), ("file", "a.txt", b"{}\n")]


def test_a_file_name_cannot_end_its_header(connect: Connect, faulty: FaultProxy) -> None:
    hostile = 'a"\r\nX-Injected: 1\r\n\r\n.jsonl'
    connect(faulty.url).create_file(io.BytesIO(b"{}\n"), filename=hostile)
    assert list(_parts(faulty.requests[0]))[-1] == ("file", "a%22%0D%0AX-Injected: 1%0D%0A%0D%0A.jsonl", b"{}\n")


def test_a_batch_travels_with_what_was_asked_for_and_nothing_else(sent: list[RecordedRequest]) -> None:
    bare, full = [json.loads(r.body) for r in sent if (r.method, r.path) == ("POST", "/v1/batches")]
    asked = {
        "input_file_id": bare["input_file_id"],
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    assert bare == asked
    assert full == {
        **asked,
        "metadata": {"team": "search"},
        "output_expires_after": {"anchor": "created_at", "seconds": 86_400},
    }


def test_listings_ask_for_no_more_than_their_limit(sent: list[RecordedRequest]) -> None:
    batches, files = [r.path for r in sent if r.method == "GET" and r.path.partition("?")[0].count("/") == 2]
    after = dict(parse_qsl(batches.partition("?")[2]))["after"]
    assert batches == f"/v1/batches?after={after}&limit=3"
    assert files == "/v1/files?purpose=batch&limit=3"


def test_each_call_carries_the_key_and_the_headers_of_the_connection(connect: Connect, faulty: FaultProxy) -> None:
    adapter = connect(faulty.url, organization="org-1", project="proj_2", headers={"X-Team": "search"})
    file = adapter.create_file(io.BytesIO(chat_line("a", "hello")), filename=unique_name())
    b"".join(adapter.file_content(file.id))
    adapter.create_batch(file.id, endpoint="/v1/chat/completions")
    names = ("authorization", "openai-organization", "openai-project", "x-team")
    assert [[r.headers.get(name) for name in names] for r in faulty.requests] == [
        ["Bearer sk-test-0123456789", "org-1", "proj_2", "search"]
    ] * 3
    assert all(r.headers["user-agent"].startswith("airflow-provider-llmbatch/") for r in faulty.requests)


def test_a_connection_without_them_sends_no_organization_and_no_project(connect: Connect, faulty: FaultProxy) -> None:
    connect(faulty.url).ping()
    assert not {"openai-organization", "openai-project"} & faulty.requests[0].headers.keys()
