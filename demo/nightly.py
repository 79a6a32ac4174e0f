"""One run of the nightly DAG on a batch server of its own, as a stream of events."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import threading
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, TYPE_CHECKING, BinaryIO, Final

import httpx

from demo.environment import DAG_ID, inherited

if TYPE_CHECKING:
    from collections.abc import Iterator
    from subprocess import Popen

    from demo.environment import Environment
    from demo.processes import Processes

_TICK_SECONDS: Final = 0.25
_LISTENING: Final = b"Listening on "

Event = dict[str, str]
"""``event`` says what happened: ``listening``, ``ready``, ``running``, ``success``, ``failed``, ``broken``, ``ended``,
``gone`` (a process ended), ``stop`` (a signal), or ``tick`` (nothing happened for a moment)."""


class NightlyRun:
    """Starts the server and Airflow side by side, and lets the DAG begin when both are ready.

    Signal handlers may put ``stop`` into ``events``: a ``SimpleQueue`` is made for that.
    """

    def __init__(
        self, environment: Environment, processes: Processes, events: SimpleQueue[Event], *, engine: str, log: BinaryIO
    ) -> None:
        self.url = ""
        self._key = secrets.token_urlsafe(24)
        self._environment = environment
        self._events = events
        shutil.rmtree(environment.server_data, ignore_errors=True)
        variables = inherited()
        # -P: the installed package, as users have it, and not the folder that the demo happens to stand in.
        python = [sys.executable, "-P"]
        server = processes.start(
            [
                *(*python, "-m", "airflow_provider_llmbatch.server", "--engine", engine),
                *("--port", "0", "--data", str(environment.server_data)),
            ],
            env={**variables, "LLMBATCH_SERVER_API_KEY": self._key},
            log=log,
        )
        reader, writer = os.pipe()
        try:
            self._airflow = processes.start(
                [*python, str(Path(__file__).with_name("dag_run.py")), str(writer)],
                env={**variables, **environment.airflow_variables()},
                log=log,
                told=writer,
            )
        finally:
            os.close(writer)
        threading.Thread(target=self._read_server, args=(server,), daemon=True).start()
        threading.Thread(target=self._read_airflow, args=(reader,), daemon=True).start()

    def begin(self) -> None:
        """Let the DAG begin."""
        connection = {"conn_type": "llmbatch_openai", "host": self.url, "password": self._key}
        order = {"connection": connection, "output": self._environment.output.as_uri()}
        with suppress(BrokenPipeError):  # it has ended, which its own event tells
            _pipe(self._airflow.stdin).write(json.dumps(order).encode() + b"\n")
            _pipe(self._airflow.stdin).flush()

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
        try:
            answer = httpx.get(
                f"{self.url}/batches",
                params={"limit": 20},
                headers={"Authorization": f"Bearer {self._key}"},
                timeout=2.0,
                trust_env=False,
            ).raise_for_status()
        except httpx.HTTPError:
            return {}  # only the bar: the DAG tells by itself what goes wrong
        for batch in answer.json()["data"]:
            if batch["input_file_id"] == input_file_id:
                return dict(batch["request_counts"] or {})
        return {}

    def output(self, run_id: str) -> Path:
        return self._environment.output / run_id

    def _read_server(self, server: Popen[bytes]) -> None:
        with _pipe(server.stdout) as lines:
            for line in lines:
                if line.startswith(_LISTENING):
                    self._events.put({"event": "listening", "url": line.removeprefix(_LISTENING).decode().strip()})
        self._events.put({"event": "gone", "process": "The batch server"})

    def _read_airflow(self, reader: int) -> None:
        with os.fdopen(reader, encoding="utf-8") as lines:
            for line in lines:
                self._events.put(json.loads(line))
        self._events.put({"event": "gone", "process": f"Airflow, which runs {DAG_ID},"})


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise RuntimeError("The process was started without this pipe.")
    return stream
