"""The two campaigns: runs whose workers are killed, and runs whose calls are broken. Each is drawn by a seed, and must
end with the result set of a run that nobody disturbed, with no request asked more often.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crash.faces import Address, serving_face
from crash.faults import Proxies, draw_faults
from crash.scenarios import CountingEngine, Scenario
from crash.tries import FIRST_MAX_TRIES, run_of, to_its_end
from support.fault_proxy import fault_proxy
from support.upload_sessions import upload_sessions

from airflow_provider_llmbatch.adapters.http import TransportSettings
from airflow_provider_llmbatch.errors import LLMBatchError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from crash.faces import FaceName, RunningFace

    from airflow_provider_llmbatch.adapters.base import Adapter

WORKER = Path(__file__).with_name("run_worker.py")
MOST_TRIES = 12
MOST_KILLS = 4


@dataclass
class Report:
    """What a disturbed run came to, beside one that nobody disturbed.

    :param duplicates: Batches more than the undisturbed run made, and requests that were asked more often.
    :param lost: Rows that are not in the result set as they are in the other one.
    """

    seed: int
    tries: int = 0
    kills: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    duplicates: int = 0
    lost: int = 0
    rows: int = 0


class Provider:
    """A server of batches that counts what it is asked."""

    def __init__(self, face: RunningFace, adapter: Adapter, engine: CountingEngine) -> None:
        self.address = face.address
        self.storage = face.storage
        self._adapter = adapter
        self._engine = engine

    def asked_of(self, scenario: Scenario) -> dict[str, int]:
        return self._engine.asked_of(scenario)

    def batches_of(self, scenario: Scenario, *, since: int) -> int:
        """How many batches of a run there are.

        :param since: When it began, in seconds since 1970; the list is not read any further.
        """
        count = 0
        for batch in self._adapter.list_batches():
            count += (batch.metadata or {}).get("scenario") == scenario.name
            if batch.created_at is not None and batch.created_at < since:
                break
        return count


@contextmanager
def provider(folder: Path, face: FaceName = "openai") -> Iterator[Provider]:
    engine = CountingEngine()
    with serving_face(face, folder, engine) as running, closing(running.uncut.adapter()) as adapter:
        yield Provider(running, adapter, engine)


class Workers:
    """Tries of runs, each in a process of its own.

    :param log: What they say goes there.
    """

    def __init__(self, log: Path) -> None:
        self._log = log.open("w")
        tests = str(WORKER.parents[1])
        path = os.pathsep.join(filter(None, [tests, os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )

    def work(self, server: Provider, scenario: Scenario, folder: Path, **how: int | str) -> tuple[int, dict[str, Any]]:
        """The exit code of one try, and its report."""
        folder.mkdir(parents=True, exist_ok=True)
        report = folder / "report.json"
        report.write_text("{}")
        order = {
            "scenario": scenario.as_json(),
            "address": server.address.as_json(),
            "folder": str(folder),
            "report": str(report),
            **how,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        return code, json.loads(report.read_text())

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()
        self._log.close()


@contextmanager
def workers(log: Path) -> Iterator[Workers]:
    running = Workers(log)
    try:
        yield running
    finally:
        running.close()


@dataclass(frozen=True)
class Undisturbed:
    """How a run ends that nobody disturbs.

    :param results: The rows of its set.
    :param asked: How often each request was asked.
    :param steps: What its worker might have been killed at.
    """

    results: list[dict[str, Any]]
    asked: dict[str, int]
    batches: int
    steps: list[str]


def undisturbed(seed: int, name: str, server: Provider, crew: Workers, folder: Path) -> Undisturbed:
    scenario = Scenario.drawn(seed, name)
    begun = int(time.time())
    code, told = crew.work(server, scenario, folder / name)
    assert (code, told.get("error")) == (0, None), (seed, told)
    return Undisturbed(
        scenario.results(folder / name / "out"),
        server.asked_of(scenario),
        server.batches_of(scenario, since=begun),
        told["steps"],
    )


def killed_once(
    seed: int, step: int | str, alone: Undisturbed, server: Provider, crew: Workers, folder: Path
) -> Report:
    """One run whose worker is killed at a step, counted from 1 or the first of a name, and not again."""
    name = f"killed-{seed}-at-{step}".replace(" ", "-")
    return _crashed(Scenario.drawn(seed, name), seed, [step], alone, server, crew, folder)


def killed_often(seed: int, server: Provider, crew: Workers, folder: Path) -> Report:
    """One run whose worker is killed up to four times, and whose task a person clears now and then."""
    alone = undisturbed(seed, f"killed-{seed}-alone", server, crew, folder)
    dice = random.Random(f"kills {seed}")
    steps = [dice.randint(1, len(alone.steps)) for _ in range(dice.randint(1, MOST_KILLS))]
    return _crashed(Scenario.drawn(seed, f"killed-{seed}"), seed, steps, alone, server, crew, folder, clears=dice)


def _crashed(
    scenario: Scenario,
    seed: int,
    steps: Sequence[int | str],
    alone: Undisturbed,
    server: Provider,
    crew: Workers,
    folder: Path,
    clears: random.Random | None = None,
) -> Report:
    report = Report(seed, rows=len(scenario.rows))
    place = folder / scenario.name
    max_tries = FIRST_MAX_TRIES
    begun = int(time.time())
    for step in [*steps, 0]:
        report.tries += 1
        code, told = crew.work(server, scenario, place, try_number=report.tries, max_tries=max_tries, kill_at=step)
        if "killed" not in told:
            break
        report.kills.append(told["killed"])
        max_tries += clears is not None and clears.random() < 0.2
    assert code == 0, (seed, steps, report, code, told)
    _compare(report, server, scenario, place / "out", alone, since=begun)
    return report


def broken(seed: int, server: Provider, crew: Workers, folder: Path) -> Report:
    """One run whose calls are broken on the way to the provider, and which is retried as often as it takes."""
    alone = undisturbed(seed, f"broken-{seed}-alone", server, crew, folder)
    scenario = Scenario.drawn(seed, f"broken-{seed}")
    report = Report(seed, rows=len(scenario.rows))
    place = folder / scenario.name
    place.mkdir(parents=True)
    begun = int(time.time())
    with _proxies(server) as proxies, _impatient_adapter(server.address, proxies) as adapter:
        drawn = draw_faults(proxies, seed)
        end = None
        while end is None and report.tries < MOST_TRIES:
            report.tries += 1
            run = run_of(scenario.as_json(), adapter, place, try_number=report.tries)
            try:
                end = to_its_end(run, adapter.retrieve_batch)
            except LLMBatchError as error:
                if not error.retriable:
                    raise
        report.faults = drawn.struck()
    assert end is not None, (seed, report)
    _compare(report, server, scenario, place / "out", alone, since=begun)
    return report


@contextmanager
def _proxies(server: Provider) -> Iterator[Proxies]:
    with ExitStack() as stack:
        api = stack.enter_context(fault_proxy(server.address.url))
        if server.storage is None:
            yield Proxies(api)
            return
        # The emulator's own uploads do otherwise than Google's when something breaks.
        front = stack.enter_context(upload_sessions(server.storage))
        yield Proxies(api, stack.enter_context(fault_proxy(front.url)))


@contextmanager
def _impatient_adapter(address: Address, proxies: Proxies) -> Iterator[Adapter]:
    transport = TransportSettings(connect_timeout=2.0, timeout=2.0, max_attempts=3)
    behind = address.by_way_of(proxies.api.url, proxies.storage.url if proxies.storage else "")
    with closing(behind.adapter(transport)) as adapter:
        yield adapter


def _compare(
    report: Report, server: Provider, scenario: Scenario, output: Path, alone: Undisturbed, *, since: int
) -> None:
    asked = server.asked_of(scenario)
    report.duplicates += sum(asked[text] != times for text, times in alone.asked.items())
    report.duplicates += abs(server.batches_of(scenario, since=since) - alone.batches)
    report.lost += sum(ours != theirs for ours, theirs in zip(scenario.results(output), alone.results, strict=True))
    assert len(list((output / "data").iterdir())) == 1, (scenario, "a set that nobody published was left behind")
