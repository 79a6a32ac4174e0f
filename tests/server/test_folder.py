"""The data folder: nobody else's to read, no id leads out of it, and no second server works in it."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from support.batch_server import Client, Serve, chats
from support.server import running_server

from airflow_provider_llmbatch.server.__main__ import main
from airflow_provider_llmbatch.server.store import FolderInUseError, Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_COMMAND = ("-m", "airflow_provider_llmbatch.server", "--engine", "echo", "--port", "0")


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("open_umask")
def test_nobody_else_may_read_what_is_kept(serve: Serve, tmp_path: Path) -> None:
    client = serve()
    client.run(chats("a"))
    kept = [tmp_path / "data", *(tmp_path / "data").rglob("*")]
    modes = {str(path.relative_to(tmp_path)): path.stat().st_mode & 0o777 for path in kept}
    assert sum(path.is_file() for path in kept) >= 4  # the input, the output, the rows, the lock
    assert {name: oct(mode) for name, mode in modes.items() if mode & 0o077} == {}


def test_a_folder_that_was_open_is_closed(tmp_path: Path) -> None:
    (folder := tmp_path / "data").mkdir(mode=0o755)
    Store(folder).close()
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "hostile",
    [
        *(
            "../server.sqlite",
            "..%2fserver.sqlite",
            "..%2Fserver.sqlite",
            "%2e%2e%2fserver.sqlite",
            "..%5cserver.sqlite",
        ),
        *("/etc/passwd", "%2fetc%2fpasswd", "file-1%00", "%00", "%ff", "..", ".", "*", "'%20OR%201=1", "%ed%a0%80"),
        "x" * 5000,
    ],
)
def test_no_id_leads_anywhere(client: Client, hostile: str) -> None:
    plain = client.http.get("/files").json()
    for method, path in (
        ("GET", f"/v1/files/{hostile}"),
        ("GET", f"/v1/files/{hostile}/content"),
        ("DELETE", f"/v1/files/{hostile}"),
        ("GET", f"/v1/batches/{hostile}"),
        ("POST", f"/v1/batches/{hostile}/cancel"),
    ):
        status, body = _sent_raw(client, method, path)
        assert status in (404, 405), (method, path, body)
        assert json.loads(body)["error"]["type"] == "invalid_request_error"
    assert client.create(hostile).status_code == 400
    assert client.http.get("/files").json() == plain


def _sent_raw(client: Client, method: str, path: str) -> tuple[int, bytes]:
    """What a client answers that does not tidy paths up before it sends them."""
    address = client.http.base_url
    with socket.create_connection((address.host, address.port or 0), timeout=20) as connection:
        key = client.http.headers["authorization"]
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode())
        answer = http.client.HTTPResponse(connection, method=method)
        answer.begin()
        return answer.status, answer.read()


@pytest.mark.parametrize("name", ["../../escaped.jsonl", "/escaped.jsonl", "a\\\\..\\\\b.jsonl", "ä\u2028.jsonl"])
def test_a_file_name_is_only_a_name(serve: Serve, tmp_path: Path, name: str) -> None:
    file = serve().upload(b"x", name=name).json()
    assert file["filename"] == name
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size == 1]
    assert kept == [tmp_path / "data" / "files" / file["id"]]


def test_a_store_is_held_by_one(tmp_path: Path) -> None:
    first = Store(tmp_path)
    with pytest.raises(FolderInUseError, match=str(tmp_path)):
        Store(tmp_path)
    first.close()
    Store(tmp_path).close()


def test_a_second_server_on_the_folder_is_refused_and_a_killed_one_leaves_it(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        second = subprocess.run(
            [sys.executable, *_COMMAND, "--data", str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (second.returncode, second.stdout) == (2, "")
        assert second.stderr == f"The data folder {tmp_path} cannot be used (another llmbatch-server uses it).\n"
        server.process.kill()
        server.process.wait()
        with running_server(tmp_path):
            pass


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.invalid"])  # noqa: S104 - refused
def test_the_well_known_key_is_for_loopback_only(
    tmp_path: Path, host: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LLMBATCH_SERVER_API_KEY", raising=False)
    assert main(["--engine", "echo", "--port", "0", "--data", str(tmp_path / "data"), "--host", host]) == 2
    assert "LLMBATCH_SERVER_API_KEY" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_only_whole_uploads_and_what_is_named_are_kept_over_a_start(tmp_path: Path) -> None:
    Store(tmp_path).close()
    (tmp_path / "uploads" / "file-half").write_bytes(b"x")
    (tmp_path / "files" / "file-orphan").write_bytes(b"x")
    (tmp_path / "files" / "somebody else's").write_bytes(b"x")
    Store(tmp_path).close()
    kept = [path.name for name in ("uploads", "files") for path in (tmp_path / name).iterdir()]
    assert kept == ["somebody else's"]
