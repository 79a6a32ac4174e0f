"""``kill -9`` at any point of a batch: the next server on the folder finishes it, and asks again only what it must."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from support.batch_server import Client, chat_line, jsonl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SCRIPT = Path(__file__).with_name("lives.py")
_KEY = "sk-lives-0123456789"
_CONCURRENCY = 4


@contextmanager
def _lives(folder: Path, plan: list[list[Any] | None]) -> Iterator[Client]:
    process = subprocess.Popen(
        [sys.executable, str(_SCRIPT), str(folder), _KEY, json.dumps(plan)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # the lives are its children, and end with it
    )
    assert process.stdout is not None
    try:
        port = process.stdout.readline().strip()
        assert port, process.poll()
        client = Client(f"http://127.0.0.1:{port}/v1", _KEY)
        with client.http:
            yield client
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def _created(client: Client, content: bytes) -> dict[str, Any]:
    """Create a batch, and find it if the answer was lost."""
    file = client.file(content)
    try:
        batch: dict[str, Any] = client.create(file["id"]).json()
    except httpx.TransportError:
        [batch] = _patiently(lambda: client.http.get("/batches").json()["data"])
    return batch


def _patiently(call: Callable[[], Any]) -> Any:
    """Ask until a life is long enough to answer."""
    for _ in range(2_000):
        try:
            return call()
        except httpx.TransportError:
            continue
    raise AssertionError("no life was long enough")


def _input(requests: int) -> bytes:
    """Every tenth request is refused by the engine."""
    refused = {"body": {"model": "echo", "messages": []}}
    return jsonl(chat_line(f"r{n}", f"hello {n}", **({} if n % 10 else refused)) for n in range(requests))


def _check_results(client: Client, batch: dict[str, Any], requests: int) -> None:
    good, bad = ([line["custom_id"] for line in client.lines(batch[f"{kind}_file_id"])] for kind in ("output", "error"))
    assert sorted(good + bad) == sorted(f"r{n}" for n in range(requests))
    assert sorted(bad) == sorted(f"r{n}" for n in range(0, requests, 10))
    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": requests, "completed": len(good), "failed": len(bad)}
    assert batch["usage"]["total_tokens"] == 4 * len(good)  # "hello", a number, and both again
    names = ("created_at", "in_progress_at", "finalizing_at", "completed_at")
    assert [batch[name] for name in names] == sorted(batch[name] for name in names)
    listed = client.http.get("/files").json()["data"]
    assert {file["id"] for file in listed} == {batch[f"{kind}_file_id"] for kind in ("input", "output", "error")}
    for file in listed:
        assert len(client.http.get(f"/files/{file['id']}/content").content) == file["bytes"]


def _check_calls(log: Path, kills: int) -> None:
    """Only what was in flight at a kill was asked again, once for each kill."""
    calls = [json.loads(line) for line in log.read_text().splitlines()]
    in_flight: set[str] = set()
    seen: set[str] = set()
    seen_kills = 0
    for call in calls:
        if "killed" in call:
            in_flight = set(call["killed"])
            assert len(in_flight) <= _CONCURRENCY
            seen -= in_flight
            seen_kills += 1
        else:
            assert call["asked"] not in seen, f"{call['asked']} had been answered"
            seen.add(call["asked"])
    assert seen_kills == kills


@pytest.mark.parametrize("seed", [1, 2])
def test_a_server_killed_ten_times_in_the_middle_answers_each_request_once(tmp_path: Path, seed: int) -> None:
    pick = random.Random(seed)
    plan: list[list[Any] | None] = [["call", pick.randint(1, 25)] for _ in range(10)]
    with _lives(tmp_path, [*plan, None]) as client:
        batch = _created(client, _input(300))
        _check_results(client, _patiently(lambda: client.ended(batch)), 300)
    _check_calls(tmp_path / "calls.jsonl", kills=10)


# The steps of a batch without a failed request: check the input, save it as begun, close the answers, save it as
# finalizing, make the output file (add it, move it), remove the empty error file, save the end.
_STEPS = 8


def test_a_server_killed_at_each_step_does_it_once(tmp_path: Path) -> None:
    plan: list[list[Any] | None] = [
        ["step", step, when] for step in range(1, _STEPS + 1) for when in ("before", "after")
    ]
    names = [f"{step}-{when}" for _, step, when in filter(None, plan)]
    with _lives(tmp_path, [*plan, None]) as client:
        for number, name in enumerate(names, start=1):
            _check_one_kill(client, tmp_path, name, batches=number)
    _check_calls(tmp_path / "calls.jsonl", kills=len(names))


def _check_one_kill(client: Client, folder: Path, name: str, *, batches: int) -> None:
    """Make a batch, in whose course the server is killed, and look what became of it in the next life."""
    ids = sorted(f"{name}-{n}" for n in range(20))
    batch = _created(client, jsonl(map(chat_line, ids)))
    while f'"killed at": "{name}"' not in (folder / "calls.jsonl").read_text():
        time.sleep(0.005)
    batch = _patiently(lambda: client.ended(batch))
    assert (batch["status"], batch["error_file_id"]) == ("completed", None)
    assert sorted(line["custom_id"] for line in client.lines(batch["output_file_id"])) == ids
    file = client.http.get(f"/files/{batch['output_file_id']}").json()
    assert file["bytes"] == len(client.http.get(f"/files/{file['id']}/content").content)
    assert len(client.http.get("/files").json()["data"]) == 2 * batches
    assert list((folder / "data" / "work").iterdir()) == []
