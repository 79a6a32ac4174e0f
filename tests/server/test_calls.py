"""How calls are refused: OpenAI's body, its codes, and no way past the key."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from support.batch_server import CHAT, Client, Serve, chats

from airflow_provider_llmbatch.server.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable


def _refused(answer: httpx.Response) -> tuple[int, str | None, str | None]:
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == ("server_error" if answer.status_code >= 500 else "invalid_request_error")
    assert error["message"]
    return answer.status_code, error["code"], error["param"]


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda c: c.get("/nothing"), (404, "unknown_url", None)),
        (lambda c: c.get(c.base_url.join("/")), (404, "unknown_url", None)),
        (lambda c: c.get(c.base_url.join("/docs")), (404, "unknown_url", None)),
        (lambda c: c.put("/files"), (405, "method_not_supported", None)),
        (lambda c: c.delete("/batches/batch_1"), (405, "method_not_supported", None)),
        (lambda c: c.get("/files/file-unknown"), (404, None, "id")),
        (lambda c: c.get("/files/file-unknown/content"), (404, None, "id")),
        (lambda c: c.delete("/files/file-unknown"), (404, None, "id")),
        (lambda c: c.get("/batches/batch_unknown"), (404, None, "batch_id")),
        (lambda c: c.post("/batches/batch_unknown/cancel"), (404, None, "batch_id")),
        (lambda c: c.get("/batches?after=batch_unknown"), (400, "invalid_value", "after")),
        (lambda c: c.get("/files?after=file-unknown"), (400, "invalid_value", "after")),
        (lambda c: c.get("/batches?limit=0"), (400, "integer_below_min_value", "limit")),
        (lambda c: c.get("/batches?limit=101"), (400, "integer_above_max_value", "limit")),
        (lambda c: c.get("/files?limit=10001"), (400, "integer_above_max_value", "limit")),
        (lambda c: c.get("/files?limit=many"), (400, "invalid_value", "limit")),
        (lambda c: c.get("/files?order=random"), (400, "invalid_value", "order")),
    ],
)
def test_a_call_that_cannot_be_answered_is_refused_as_openai_does(
    client: Client, call: Callable[[httpx.Client], httpx.Response], expected: tuple[int, str | None, str | None]
) -> None:
    assert _refused(call(client.http)) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{", (400, None, None)),
        (b"\xff", (400, None, None)),
        (b"[]", (400, None, None)),
        (b"{}", (400, "missing_required_parameter", "input_file_id")),
        (b'{"input_file_id": "\\ud800", "endpoint": "e", "completion_window": "24h"}', (400, None, None)),
        (b'{"metadata": {"\\ud800": "v"}}', (400, None, None)),
    ],
)
def test_a_body_that_is_no_batch_is_refused(
    client: Client, body: bytes, expected: tuple[int, str | None, str | None]
) -> None:
    answer = client.http.post("/batches", content=body, headers={"Content-Type": "application/json"})
    assert _refused(answer) == expected


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"endpoint": "/v1/audio"}, "endpoint"),
        ({"endpoint": None}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"metadata": {f"k{n}": "v" for n in range(17)}}, "metadata"),
        ({"metadata": {"k" * 65: "v"}}, "metadata"),
        ({"metadata": {"k": "v" * 513}}, "metadata"),
        ({"metadata": {"k": 1}}, "metadata.k"),
        ({"metadata": {"k": None}}, "metadata.k"),
        ({"metadata": ["k"]}, "metadata"),
        ({"output_expires_after": {"anchor": "created_at"}}, "output_expires_after.seconds"),
        ({"output_expires_after": {"anchor": "now", "seconds": 3600}}, "output_expires_after.anchor"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 3599}}, "output_expires_after.seconds"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 2_592_001}}, "output_expires_after.seconds"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": "3600"}}, "output_expires_after.seconds"),
    ],
)
def test_a_batch_that_asks_for_what_there_is_not_is_refused(client: Client, more: dict[str, Any], param: str) -> None:
    file = client.file(chats("a"))
    asked = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h", **more}
    before = client.http.get("/batches").json()
    status, _, refused_param = _refused(client.http.post("/batches", json=asked))
    assert (status, refused_param) == (400, param)
    assert client.http.get("/batches").json() == before


def test_metadata_at_its_limits_comes_back(client: Client) -> None:
    metadata = {f"{n:064}": "\u00e4" * 512 for n in range(16)}
    assert client.batch(chats("a"), metadata=metadata)["metadata"] == metadata


@pytest.mark.parametrize("purpose", ["user_data", "batch_output"])
def test_only_a_file_for_batches_becomes_one(client: Client, purpose: str) -> None:
    done = client.run(chats("a"))
    file_id = done["output_file_id"] if purpose == "batch_output" else client.file(b"x", purpose=purpose)["id"]
    status, _, param = _refused(client.create(file_id))
    assert (status, param) == (400, "input_file_id")


def test_batches_are_listed_newest_first_page_by_page(serve: Serve) -> None:
    client = serve()
    file_id = client.file(chats("a"))["id"]
    ids = [client.create(file_id).json()["id"] for _ in range(25)][::-1]

    def listed(**query: str | int) -> tuple[list[str], bool]:
        page = client.http.get("/batches", params=query).json()
        found = [batch["id"] for batch in page["data"]]
        edges = (found[0], found[-1]) if found else (None, None)
        assert (page["object"], page["first_id"], page["last_id"]) == ("list", *edges)
        return found, page["has_more"]

    assert listed() == (ids[:20], True)
    assert listed(after=ids[19]) == (ids[20:], False)
    assert listed(limit=100) == (ids, False)
    assert listed(limit=25) == (ids, False)
    assert listed(limit=1, after=ids[3]) == ([ids[4]], True)
    assert listed(after=ids[-1]) == ([], False)


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({}, None),
        ({"Authorization": "Bearer sk-wrong"}, "invalid_api_key"),
        ({"Authorization": "sk-server-0123456789"}, "invalid_api_key"),
        ({"Authorization": "Bearer x"}, "invalid_api_key"),
        ({"Authorization": b"Bearer \xe4\xff"}, "invalid_api_key"),
        ({"api-key": "sk-server-0123456789"}, None),
    ],
)
@pytest.mark.parametrize("path", ["/v1/files", "/v1/batches/batch_unknown", "/nothing", "/docs"])
def test_without_the_key_there_is_nothing_to_see(
    client: Client, path: str, given: dict[str, Any], code: str | None
) -> None:
    answer = httpx.get(client.http.base_url.join(path), headers=given, trust_env=False)
    assert _refused(answer) == (401, code, None)


def test_keys_are_compared_in_constant_time(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[Any, Any]] = []

    def compare(given: Any, expected: Any) -> bool:
        compared.append((given, expected))
        return False

    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert client.http.get("/files").status_code == 401  # the right key: nothing else decides
    assert compared == [(b"Bearer sk-server-0123456789",) * 2]


def test_a_fault_of_the_server_is_told_in_openais_shape(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Store, "files", broken)
    assert _refused(client.http.get("/files")) == (500, None, None)
