"""The server's memory does not grow with a file: upload, batch and download, in a process of its own."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.batch_server import Client, chat_line
from support.server import running_server

if TYPE_CHECKING:
    from collections.abc import Iterator

_LINES = 1_000
_LINE_BYTES = 50_000
_GROWTH = 32 * 1024 * 1024  # bytes; 64 requests are at the engine at once, and as many answers


def _peak(pid: int) -> int:
    """The most memory that a process ever had, in bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_a_large_file_is_nowhere_whole_in_memory(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    with source.open("w") as stream:
        for n in range(_LINES):
            stream.write(json.dumps(chat_line(f"r{n}", "x" * _LINE_BYTES)) + "\n")
    with running_server(tmp_path / "data") as server:
        client = Client(server.url, server.api_key)
        with client.http, source.open("rb") as stream:
            client.run(b'{"warm": "up"}\n')
            before = _peak(server.pid)
            file = client.http.post("/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", stream)}).json()
            batch = client.ended(client.create(file["id"]).json())
            assert batch["request_counts"] == {"total": _LINES, "completed": _LINES, "failed": 0}
            assert sum(map(len, _content(client, batch["output_file_id"]))) > _LINES * _LINE_BYTES
            assert _peak(server.pid) - before < _GROWTH


def _content(client: Client, file_id: str) -> Iterator[bytes]:
    with client.http.stream("GET", f"/files/{file_id}/content") as answer:
        yield from answer.iter_bytes()
