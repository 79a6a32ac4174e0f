"""``python -m demo``: a real DAG sends a real batch to a real model on this machine, and lands real answers."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final

from demo.environment import DAG_ID, REVIEWS, Environment
from demo.nightly import NightlyRun
from demo.processes import Processes
from demo.report import read_report
from demo.screen import MODEL_NAMES, PROVIDER_NAMES, Screen, bar, size
from demo.stopping import DemoError, Stopped, only_one_demo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from demo.nightly import Event

_NEWLINE: Final = b"\n"
_NEXT: Final = """\
Next:  make demo-ui                              the same in Airflow's web interface
       example_dags/nightly_batch_inference.py   the DAG that just ran, yours to copy
       README.md, "Use it"                       the same DAG on {provider}: one connection, one model name"""


class Demo:
    """Turns the events of a run into lines on the screen."""

    def __init__(self, run: NightlyRun, screen: Screen, *, engine: str, provider: str) -> None:
        self._run = run
        self._screen = screen
        self._engine = engine
        self._provider = provider
        self._begun = time.monotonic()
        self._task, self._since = "", self._begun
        self._file_id = ""
        self._counts: dict[str, int] = {}
        self._quarter = 0  # of the batch, last printed where lines cannot change
        self._listening = self._ready = False

    def to_the_end(self) -> str:
        """Follow the run; returns its run id."""
        for event in self._run.events():
            self._show(event)
            if event["event"] == "ended":
                if event["state"] != "success":
                    raise DemoError(f"The DAG {DAG_ID} ended as {event['state']}.")
                return event["run_id"]
        raise AssertionError("events never end")

    def _show(self, event: Event) -> None:
        kind = event["event"]
        if kind == "stop":
            raise Stopped(int(event["signal"]))
        if kind == "gone":
            raise DemoError(f"{event['process']} ended before its time.")
        if kind == "broken":
            raise DemoError(f"The DAG cannot be loaded:\n{event['error']}")
        if kind == "failed":
            raise DemoError(f"The task {event['task']} failed: {event['error']}")
        if kind == "tick":
            self._tick()
        elif kind in ("listening", "ready"):
            self._started(event)
        elif kind == "running" and event["task"] != self._task:  # a deferred task runs twice
            self._task, self._since = event["task"], time.monotonic()
            self._tick()
        elif kind == "success":
            self._succeeded(event)

    def _started(self, event: Event) -> None:
        state = f"ready in {time.monotonic() - self._begun:.1f} s"
        if event["event"] == "listening":
            self._listening = True
            self._screen.fact("Real model", MODEL_NAMES[self._engine], state)
            spoken = "" if self._provider == "openai" else f", as {PROVIDER_NAMES[self._provider]}"
            self._screen.fact("Batch server", f"{self._run.url}{spoken}", "ready")
        else:
            self._ready = True
            self._screen.fact(f"Airflow {event['version']}", "SQLite, .airflow/", state)
        if self._listening and self._ready:
            self._screen.line()
            way = "" if self._provider == "openai" else f", through a connection of the type {self._run.conn_type}"
            self._screen.line(f"DAG {DAG_ID}{way}")
            self._run.begin()
            self._task, self._since = "", time.monotonic()

    def _tick(self) -> None:
        if self._task == "classify":
            self._counts = self._run.counts(self._file_id) or self._counts
            self._show_progress()
        elif self._task:
            self._screen.working(self._task, "…", self._since)
        elif self._listening and self._ready:
            self._screen.working("", "Airflow prepares the run", self._since)
        else:
            self._screen.working("", "starting", self._since)

    def _show_progress(self) -> None:
        self._screen.working(self._task, self._progress(), self._since)
        total = self._counts.get("total", 0)
        quarter = 4 * self._done // total if total else 0
        if quarter > self._quarter and not self._screen.live:
            self._quarter = quarter
            self._screen.task(self._task, self._progress(), time.monotonic() - self._since)

    @property
    def _done(self) -> int:
        return self._counts.get("completed", 0) + self._counts.get("failed", 0)

    def _progress(self) -> str:
        progress = bar(self._done, self._counts.get("total", 0))
        return f"{progress}  {self._counts.get('failed', 0)} failed" if progress else "…"

    def _succeeded(self, event: Event) -> None:
        if self._task == "create_file":
            self._file_id = event["value"]
        if self._task == "classify":
            self._counts = self._run.counts(self._file_id) or self._counts
        self._screen.task(self._task, self._detail(event["value"]), time.monotonic() - self._since)

    def _detail(self, value: str) -> str:
        if self._task == "build_requests":
            content = Path(value.removeprefix("file://")).read_bytes()
            return f"{content.count(_NEWLINE)} requests, {size(len(content))}"
        if self._task == "classify":
            return f"{_shortened_id(value)}  {self._progress()}"
        if self._task == "bill":
            return value
        return _shortened_id(value) if self._task == "create_file" else Path(value).name


def _shortened_id(identifier: str) -> str:
    identifier = identifier.rpartition("/")[2]  # Vertex AI's are whole paths
    return identifier if len(identifier) <= 16 else f"{identifier[:14]}…"


def show(environment: Environment, screen: Screen, *, engine: str, provider: str) -> None:
    """The whole demo.

    :raises DemoError: Something did not work, or its results say nothing about a model.
    :raises Stopped: A signal asked to end; nothing that was started is left then.
    """
    events: SimpleQueue[Event] = SimpleQueue()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda caught, _frame: events.put({"event": "stop", "signal": str(int(caught))}))
    begun = time.monotonic()
    with environment.log_file.open("wb") as log, Processes() as processes:
        run = NightlyRun(environment, processes, events, engine=engine, provider=provider, log=log)
        output = run.output(Demo(run, screen, engine=engine, provider=provider).to_the_end())
    labelled = output / "reviews_labelled.csv"
    report = read_report(reviews=REVIEWS, labelled=labelled, results=output / "results.jsonl")
    screen.line()
    screen.report(report)
    screen.line(f"{time.monotonic() - begun:.0f} s in all · {os.path.relpath(labelled)}")
    screen.line()
    for line in _NEXT.format(provider=PROVIDER_NAMES[provider]).splitlines():
        screen.line(line)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exits with 0, with 1 and a reason, or with 128 and the number of the signal that ended it."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--engine", choices=sorted(MODEL_NAMES), default="local", help="default: %(default)s")
    parser.add_argument(
        "--provider", choices=sorted(PROVIDER_NAMES), default="openai", help="whose API to speak (default: %(default)s)"
    )
    parser.add_argument("--home", type=Path, help="Airflow home of the demo (default: .airflow in the checkout)")
    options = parser.parse_args(arguments)
    environment = Environment(options.home.resolve()) if options.home else Environment()
    screen = Screen()
    return only_one_demo(
        environment, screen, lambda: show(environment, screen, engine=options.engine, provider=options.provider)
    )


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr] # bars and ticks, in any locale
    sys.exit(main())
