"""One run of the nightly DAG on a batch server of its own, as a stream of events."""

from __future__ import annotations

import json
import os
import threading
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, BinaryIO, Final

from demo.batch_server import BatchServer
from demo.environment import DAG_ID, PYTHON, inherited
from demo.processes import pipe_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from demo.environment import Environment
    from demo.processes import Processes

_TICK_SECONDS: Final = 0.25

Event = dict[str, str]
"""``event`` says what happened: ``listening``, ``ready``, ``running``, ``success``, ``failed``, ``broken``, ``ended``,
``gone`` (a process ended), ``stop`` (a signal), or ``tick`` (nothing happened for a moment)."""


class NightlyRun:
    """Starts the server and Airflow side by side, and lets the DAG begin when both are ready.

    Signal handlers may put ``stop`` into ``events``: a ``SimpleQueue`` is made for that.
    """

    def __init__(
        self,
        environment: Environment,
        processes: Processes,
        events: SimpleQueue[Event],
        *,
        engine: str,
        provider: str,
        log: BinaryIO,
    ) -> None:
        self.url = ""
        self._environment = environment
        self._events = events
        self._server = BatchServer(environment, processes, engine=engine, provider=provider, log=log)
        self.conn_type = self._server.conn_type
        reader, writer = os.pipe()
        try:
            self._airflow = processes.start(
                [*PYTHON, str(Path(__file__).with_name("dag_run.py")), str(writer)],
                env={**inherited(), **environment.airflow_variables()},
                log=log,
                told=writer,
            )
        finally:
            os.close(writer)
        threading.Thread(target=self._read_server, daemon=True).start()
        threading.Thread(target=self._read_airflow, args=(reader,), daemon=True).start()

    def begin(self) -> None:
        """Let the DAG begin."""
        order = {"connection": self._server.connection(self.url), "output": self._environment.output.as_uri()}
        with suppress(BrokenPipeError):  # it has ended, which its own event tells
            pipe_of(self._airflow.stdin).write(json.dumps(order).encode() + b"\n")
            pipe_of(self._airflow.stdin).flush()

    def events(self) -> Iterator[Event]:
        """What happens, as it happens; the caller decides when it has seen enough."""
        while True:
            try:
                event = self._events.get(timeout=_TICK_SECONDS)
            except Empty:
                event = {"event": "tick"}
            if event["event"] == "listening":
                self.url = event["url"]
            yield event

    def counts(self, input_file_id: str) -> dict[str, int]:
        """``total``, ``completed`` and ``failed`` of the batch made from a file; empty while there is none."""
        return self._server.counts(self.url, input_file_id)

    def output(self, run_id: str) -> Path:
        return self._environment.output / run_id

    def _read_server(self) -> None:
        if url := self._server.wait_until_listening():
            self._events.put({"event": "listening", "url": url})
            self._server.wait_until_gone()
        self._events.put({"event": "gone", "process": "The batch server"})

    def _read_airflow(self, reader: int) -> None:
        with os.fdopen(reader, encoding="utf-8") as lines:
            for line in lines:
                self._events.put(json.loads(line))
        self._events.put({"event": "gone", "process": f"Airflow, which runs {DAG_ID},"})
