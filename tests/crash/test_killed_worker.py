"""Workers are really killed, at every step between two side effects; the provider must hold one file and one batch."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.server import running_server

from airflow_provider_llmbatch.adapters.openai import OpenAIAdapter, OpenAISettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.server import RunningServer

WORKER = Path(__file__).parent / "worker.py"
STEPS = 16  # of a worker that nobody kills: before and after each of eight calls
FEWEST_STEPS = 10  # of one that finds everything done by an earlier try
SEEDS = 12  # three kills each: with those at single steps 52 in all


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An input of its own for each test, so that its file can be told from those of others."""
    path = tmp_path / "requests.jsonl"
    body = {"model": "m", "messages": [{"role": "user", "content": tmp_path.name}]}
    line = {"custom_id": "r-1", "method": "POST", "url": "/v1/chat/completions", "body": body}
    path.write_text(json.dumps(line) + "\n")
    return path


@dataclass(frozen=True)
class Done:
    """What became of a worker."""

    returncode: int
    stdout: str
    stderr: str


class Workers:
    """Each in a process of its own, forked from one that has imported everything."""

    def __init__(self, server: RunningServer, process: subprocess.Popen[str]) -> None:
        self._server = server
        self._process = process

    def work(self, source: Path, *, try_number: int, kill_at: int = 0) -> Done:
        ledger = source.with_name("ledger.json")
        order = [self._server.url, self._server.api_key, str(ledger), str(source), str(try_number), str(kill_at)]
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        return Done(code, ledger.with_name("stdout").read_text(), ledger.with_name("stderr").read_text())


@pytest.fixture(scope="module")
def workers(server: RunningServer) -> Iterator[Workers]:
    path = os.pathsep.join([str(WORKER.parents[1]), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        [sys.executable, str(WORKER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    ) as process:
        yield Workers(server, process)


def made_from(server: RunningServer, source: Path) -> tuple[list[str], list[str]]:
    """The ids of the files and of the batches that the server holds for an input."""
    adapter = OpenAIAdapter(OpenAISettings(api_key=server.api_key, base_url=server.url))
    content = source.read_bytes()
    files = [f.id for f in adapter.list_files(purpose="batch") if b"".join(adapter.file_content(f.id)) == content]
    batches = [batch.id for batch in adapter.list_batches() if batch.input_file_id in files]
    adapter.close()
    return files, batches


def test_a_worker_that_nobody_kills_takes_the_steps_that_the_others_are_killed_at(
    server: RunningServer, workers: Workers, source: Path
) -> None:
    done = workers.work(source, try_number=1)
    batch_id, steps = done.stdout.split()
    files, batches = made_from(server, source)
    assert (len(files), batches, int(steps)) == (1, [batch_id], STEPS), done.stderr


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_after_a_kill_at_any_step_the_retry_ends_with_one_batch(
    server: RunningServer, workers: Workers, source: Path, step: int
) -> None:
    killed = workers.work(source, try_number=1, kill_at=step)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    retried = workers.work(source, try_number=2)
    assert retried.returncode == 0, retried.stderr
    files, batches = made_from(server, source)
    assert (len(files), batches) == (1, [retried.stdout.split()[0]]), retried.stderr


@pytest.mark.parametrize("seed", range(SEEDS))
def test_after_three_kills_in_a_row_there_is_still_one_batch(
    server: RunningServer, workers: Workers, source: Path, seed: int
) -> None:
    dice = random.Random(seed)
    for try_number in (1, 2, 3):
        killed = workers.work(source, try_number=try_number, kill_at=dice.randint(1, FEWEST_STEPS))
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    last = workers.work(source, try_number=4)
    assert last.returncode == 0, last.stderr
    files, batches = made_from(server, source)
    assert (len(files), batches) == (1, [last.stdout.split()[0]]), last.stderr
