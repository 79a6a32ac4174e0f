"""A server that dies as its plan says and lives again on the same folder: one process, one life after the other.

``lives.py FOLDER KEY PLAN``, where PLAN is a JSON list of how each life ends: ``["call", N]`` when the engine is asked
for the Nth time, ``["step", N, WHEN]`` before or after the Nth step that changes what is kept, ``null`` not by itself.
Each life is a fork, since most of a start is imports, and dies by SIGKILL. FOLDER/calls.jsonl has one line for each
time that the engine was asked, and one with what was in flight at the kill.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn
from typing_extensions import override

from airflow_provider_llmbatch.server import run
from airflow_provider_llmbatch.server.answers import Answers
from airflow_provider_llmbatch.server.app import create_app
from airflow_provider_llmbatch.server.engines.echo import EchoEngine
from airflow_provider_llmbatch.server.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_llmbatch.models import RequestLine
    from airflow_provider_llmbatch.server.engines.base import Answer

CONCURRENCY = 4


class Life:
    def __init__(self, log: Path, end: list[Any] | None) -> None:
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._end = end or [None]
        self._calls = self._steps = 0
        self._has_begun = False
        self.in_flight: set[str] = set()

    def note(self, **what: object) -> None:
        os.write(self._log, json.dumps(what).encode() + b"\n")

    def die(self) -> None:
        self.note(killed=sorted(self.in_flight), **{"killed at": "-".join(map(str, self._end[1:]))})
        os.kill(os.getpid(), signal.SIGKILL)

    def called(self, custom_id: str) -> None:
        self.in_flight.add(custom_id)
        self.note(asked=custom_id)
        self._calls += 1
        if self._end == ["call", self._calls]:
            self.die()

    def step(self, change: Callable[..., Any]) -> Callable[..., Any]:
        """The change, with a death before or after it if the plan says so."""

        def changed(*given: Any, **more: Any) -> Any:
            self._steps += self._has_begun
            number = self._steps
            if self._end == ["step", number, "before"]:
                self.die()
            result = change(*given, **more)
            if self._end == ["step", number, "after"]:
                self.die()
            return result

        return changed

    def begin(self, add: Callable[..., Any]) -> Callable[..., Any]:
        """Steps count from when there is a batch."""

        def added(*given: Any, **more: Any) -> Any:
            result = add(*given, **more)
            self._has_begun = True
            return result

        return added

    def watch_steps(self) -> None:
        """All that changes the rows, moves or removes a result, checks an input, and closes the answers."""
        Store.add_batch = self.begin(Store.add_batch)
        for owner, name in (
            (run, "validate"),
            (Answers, "close"),
            (Path, "replace"),
            (Path, "unlink"),
            (Store, "add_file"),
            (Store, "save_batch"),
        ):
            setattr(owner, name, self.step(getattr(owner, name)))


class CountingEngine(EchoEngine):
    def __init__(self, life: Life) -> None:
        self._life = life

    @override
    async def answer(self, request: RequestLine) -> Answer:
        self._life.called(request.custom_id)
        await asyncio.sleep(random.uniform(0, 0.002))
        answer = await super().answer(request)
        self._life.in_flight.discard(request.custom_id)
        return answer


class _Server(uvicorn.Server):
    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print("serving", flush=True)  # noqa: T201 - what started it waits for this line


def live(folder: Path, key: str, end: list[Any] | None, listener: socket.socket) -> None:
    life = Life(folder / "calls.jsonl", end)
    store = Store(folder / "data")
    limits: dict[str, Any] = {"completion_window": 86_400.0, "max_upload_bytes": 10_000_000}
    app = create_app(store, CountingEngine(life), api_key=key, concurrency=CONCURRENCY, **limits)
    life.watch_steps()
    _Server(uvicorn.Config(app, log_level="critical")).run(sockets=[listener])


def main() -> None:
    folder, key, plan = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    listener = socket.create_server(("127.0.0.1", 0))  # kept over all lives, so that callers need not look for it
    print(listener.getsockname()[1], flush=True)  # noqa: T201 - see above
    for end in plan:
        if not (pid := os.fork()):
            live(folder, key, end, listener)
            os._exit(0)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
