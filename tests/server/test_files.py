"""Files: what an upload may be, how long a file lives, how lists page, and what is left after a delete."""

from __future__ import annotations

import http.client
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from support.batch_server import Client, Serve, chat_line, chats, jsonl

from airflow_provider_llmbatch.models import File
from airflow_provider_llmbatch.server.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_DAY = 86_400
_PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
_PURPOSE = b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'


def test_a_file_for_a_batch_lives_thirty_days_and_any_other_for_ever(client: Client) -> None:
    batch, other = client.file(b"x"), client.file(b"x", purpose="user_data")
    assert batch["expires_at"] - batch["created_at"] == 30 * _DAY
    assert other["expires_at"] is None


def test_a_file_lives_as_long_as_its_upload_says(client: Client) -> None:
    lifetime = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    file = client.file(b"x", **lifetime)
    assert file["expires_at"] - file["created_at"] == 3600


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"purpose": ""}, "purpose"),
        ({"purpose": "poetry"}, "purpose"),
        ({"purpose": "batch_output"}, "purpose"),
        ({"expires_after[anchor]": "created_at"}, "expires_after.seconds"),
        ({"expires_after[seconds]": "3600"}, "expires_after.anchor"),
        ({"expires_after[anchor]": "last_active_at", "expires_after[seconds]": "3600"}, "expires_after.anchor"),
        *(
            ({"expires_after[anchor]": "created_at", "expires_after[seconds]": seconds}, "expires_after.seconds")
            for seconds in ("3599", "2592001", "1" + "0" * 5000, "-3600", "3600.0", "\u0664\u0664\u0664\u0664", "")
        ),
        ({"name": "in.txt"}, "file"),
    ],
)
def test_an_upload_that_asks_for_what_there_is_not_is_refused(
    client: Client, fields: dict[str, str], param: str
) -> None:
    refused = client.upload(b"x", **fields)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data", b""),
        ("multipart/form-data; boundary=b", b""),
        ("multipart/form-data; boundary=b", b"no form"),
        ("multipart/form-data; boundary=b", _PURPOSE + b"--b--"),
        ("multipart/form-data; boundary=b", _PURPOSE + _PART + b"cut off"),
        ("multipart/form-data; boundary=b", _PURPOSE + _PART + b"one\r\n" + _PART + b"two\r\n--b--"),
    ],
    ids=["json", "no boundary", "empty", "no form", "no file", "cut off", "two files"],
)
def test_an_upload_that_is_no_whole_form_leaves_nothing(
    serve: Serve, tmp_path: Path, content_type: str, body: bytes
) -> None:
    client = serve()
    refused = client.http.post("/files", content=body, headers={"Content-Type": content_type})
    assert (refused.status_code, refused.json()["error"]["type"]) == (400, "invalid_request_error")
    assert _kept(tmp_path / "data") == []
    assert client.http.get("/files").json()["data"] == []


def _kept(folder: Path) -> list[Path]:
    return [path for name in ("files", "uploads") for path in (folder / name).iterdir()]


def test_a_file_may_be_as_large_as_the_limit_and_no_larger(serve: Serve, tmp_path: Path) -> None:
    client = serve(max_upload_bytes=100_000)
    assert client.file(b"x" * 100_000)["bytes"] == 100_000
    for size in (100_001, 300_000):
        refused = client.upload(b"x" * size)
        assert (refused.status_code, refused.json()["error"]["param"]) == (413, "file")
    assert len(_kept(tmp_path / "data")) == 1


def test_a_body_of_unknown_length_is_read_no_further_than_the_limit(serve: Serve, tmp_path: Path) -> None:
    client = serve(max_upload_bytes=3_000_000)
    largest = 0

    def endless() -> Iterator[bytes]:
        nonlocal largest
        yield _PART
        for _ in range(2_000):  # 2 GB: the server hangs up long before
            largest = max([largest, *(path.stat().st_size for path in _kept(tmp_path / "data"))])
            yield b"x" * 1_000_000

    connection = http.client.HTTPConnection(urlsplit(str(client.http.base_url)).netloc, timeout=20)
    headers = {
        "Authorization": client.http.headers["authorization"],
        "Content-Type": "multipart/form-data; boundary=b",
        "Transfer-Encoding": "chunked",
    }
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        connection.request("POST", "/v1/files", body=endless(), headers=headers, encode_chunked=True)
    answer = connection.getresponse()
    assert (answer.status, answer.headers["connection"]) == (413, "close")
    connection.close()
    assert largest <= 3_000_000 + 1024 * 1024
    assert _kept(tmp_path / "data") == []


def test_a_chunked_upload_within_the_limit_is_taken(client: Client) -> None:
    body = _PURPOSE + _PART + b"x" * 9 + b"\r\n--b--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    file = client.http.post("/files", content=(body[n : n + 7] for n in range(0, len(body), 7)), headers=headers).json()
    assert (file["bytes"], file["filename"]) == (9, "a.jsonl")
    assert client.http.get(f"/files/{file['id']}/content").content == b"x" * 9


def test_a_content_comes_back_byte_by_byte(client: Client) -> None:
    content = bytes(range(256)) * 5_000 + b"\r\n--b--\r\n"
    answer = client.http.get(f"/files/{client.file(content)['id']}/content")
    assert (answer.content, answer.headers["content-type"]) == (content, "application/octet-stream")


def test_files_are_listed_by_purpose_in_either_order_page_by_page(serve: Serve) -> None:
    client = serve()
    ids = [client.file(b"x", purpose=purpose)["id"] for purpose in ("batch", "user_data", "batch", "batch")]

    def listed(**query: str | int) -> tuple[list[str], bool]:
        page = client.http.get("/files", params=query).json()
        found = [file["id"] for file in page["data"]]
        assert (page["object"], page["first_id"], page["last_id"]) == (
            "list",
            *((found[0], found[-1]) if found else (None, None)),
        )
        return found, page["has_more"]

    assert listed() == (ids[::-1], False)
    assert listed(order="asc") == (ids, False)
    assert listed(order="desc", limit=3) == ([ids[3], ids[2], ids[1]], True)
    assert listed(after=ids[1]) == ([ids[0]], False)
    assert listed(after=ids[1], order="asc", limit=1) == ([ids[2]], True)
    assert listed(purpose="batch", after=ids[3], limit=1) == ([ids[2]], True)
    assert listed(purpose="user_data") == ([ids[1]], False)
    assert listed(purpose="vision") == ([], False)
    assert listed(after=ids[0]) == ([], False)


def test_a_deleted_file_is_gone_everywhere(serve: Serve, tmp_path: Path) -> None:
    client = serve()
    file = client.file(chats("a"))
    answer = client.http.delete(f"/files/{file['id']}")
    assert (answer.status_code, answer.json()) == (200, {"id": file["id"], "object": "file", "deleted": True})
    calls = [
        client.http.get(f"/files/{file['id']}"),
        client.http.get(f"/files/{file['id']}/content"),
        client.http.delete(f"/files/{file['id']}"),
    ]
    assert [call.status_code for call in calls] == [404, 404, 404]
    assert client.create(file["id"]).status_code == 400
    assert client.http.get("/files").json()["data"] == []
    assert _kept(tmp_path / "data") == []


def test_result_files_live_as_long_as_the_batch_says(client: Client) -> None:
    lifetime = {"anchor": "created_at", "seconds": 7200}
    content = jsonl([chat_line("a"), chat_line("refused", body={"model": "echo", "messages": []})])
    batch = client.run(content, output_expires_after=lifetime)
    files = [client.http.get(f"/files/{batch[name]}").json() for name in ("output_file_id", "error_file_id")]
    assert [file["purpose"] for file in files] == ["batch_output", "batch_output"]
    assert [file["expires_at"] - file["created_at"] for file in files] == [7200, 7200]
    plain = client.run(chats("a"))
    assert client.http.get(f"/files/{plain['output_file_id']}").json()["expires_at"] is None


def test_an_expired_file_is_gone_everywhere(tmp_path: Path) -> None:
    store = Store(tmp_path / "data")
    now = int(time.time())
    for file_id, expires_at in (("file-old", now), ("file-new", now + 100), ("file-eternal", None)):
        (part := store.uploads / file_id).write_bytes(b"x")
        store.add_file(File(id=file_id, purpose="batch", created_at=1, expires_at=expires_at), part)
    listed = store.files(purpose=None, after=None, limit=10, newest_first=False)
    assert [file.id for file in listed] == ["file-new", "file-eternal"]
    assert store.file("file-old") is None
    assert sorted(path.name for path in _kept(tmp_path / "data")) == ["file-eternal", "file-new"]
    store.close()
