"""What transfers and the server are measured with: a real server process with the engine ``echo``, and its inputs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "sk-benchmark-0123456789"
ENDPOINT = "/v1/chat/completions"
PROMPT_CHARACTERS = 4_000  # 200 MB are then some 48,000 requests: near both limits of a batch at OpenAI


@dataclass(frozen=True)
class Server:
    """:param url: Ends in ``/v1``."""

    url: str
    pid: int

    def client(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {KEY}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=600, trust_env=False)


@contextmanager
def running_server(folder: Path, *options: str) -> Iterator[Server]:
    """:param options: More of its command line."""
    command = [sys.executable, "-m", "airflow_provider_llmbatch.server", "--engine", "echo", "--port", "0", *options]
    environment = {**os.environ, "LLMBATCH_SERVER_API_KEY": KEY}
    server = subprocess.Popen(
        [*command, "--data", str(folder / "data")], stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert server.stdout is not None
        url = server.stdout.readline().removeprefix("Listening on ").strip()
        assert url, f"the server did not start: {server.wait()}"
        yield Server(url, server.pid)
    finally:
        server.kill()
        server.wait()


def upload(client: httpx.Client, source: Path) -> str:
    """The file's id."""
    with source.open("rb") as stream:
        files = {"file": ("input.jsonl", stream, "application/jsonl")}
        answer = client.post("files", data={"purpose": "batch"}, files=files).raise_for_status()
    assert answer.json()["bytes"] == source.stat().st_size, answer.text
    return answer.json()["id"]


def run_batch(client: httpx.Client, file_id: str, *, poll_seconds: float = 0.5) -> dict:
    """Create a batch, and return it when it has completed."""
    request = {"input_file_id": file_id, "endpoint": ENDPOINT, "completion_window": "24h"}
    batch = client.post("batches", json=request).raise_for_status().json()
    while batch["status"] != "completed":
        assert batch["status"] in ("validating", "in_progress", "finalizing"), batch
        time.sleep(poll_seconds)
        batch = client.get(f"batches/{batch['id']}").raise_for_status().json()
    return batch


def write_requests(path: Path, size: int) -> int:
    """Fill a file of exactly this size with requests; returns how many."""
    number = written = 0
    with path.open("wb") as stream:
        while written < size:
            line = request_line(number, "The parcel came late but whole. " * (PROMPT_CHARACTERS // 32))
            left = size - written - len(line)
            if left < len(line):  # the last line takes what is left
                line = request_line(number, "x" * (PROMPT_CHARACTERS + left))
                line = request_line(number, "x" * (PROMPT_CHARACTERS + left + size - written - len(line)))
            written += stream.write(line)
            number += 1
    assert path.stat().st_size == size
    return number


def request_line(number: int, text: str) -> bytes:
    body = {"model": "echo", "messages": [{"role": "user", "content": text}]}
    request = {"custom_id": f"row-{number}", "method": "POST", "url": ENDPOINT, "body": body}
    return json.dumps(request).encode() + b"\n"


def resident(pid: int | str = "self") -> float:
    return _memory("VmRSS", pid)


def highest(pid: int | str = "self") -> float:
    return _memory("VmHWM", pid)


def forget_highest(pid: int) -> None:
    """Let ``highest`` begin anew (Linux, ``man 5 proc``, ``clear_refs``)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _memory(name: str, pid: int | str) -> float:
    """Megabytes, from Linux's account of a process."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition(f"{name}:")[2].split()[0]) * 1024 / 1e6


def cpu_seconds(pid: int | str = "self") -> float:
    """Of a process and all its threads, in user mode and in the kernel (Linux, ``man 5 proc``, ``stat``)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
