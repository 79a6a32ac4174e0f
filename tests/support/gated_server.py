"""The embedded batch server with an engine that answers when the test lets it: a batch stays deferred that long."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvicorn
from typing_extensions import override

from airflow_provider_llmbatch.server.app import create_app
from airflow_provider_llmbatch.server.engines.echo import EchoEngine
from airflow_provider_llmbatch.server.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airflow_provider_llmbatch.models import RequestLine
    from airflow_provider_llmbatch.server.engines.base import Answer


class _GatedEngine(EchoEngine):
    def __init__(self) -> None:
        self.allowed = 0
        self.lock = threading.Lock()

    @override
    async def answer(self, request: RequestLine) -> Answer:
        while not self._may_pass():  # noqa: ASYNC110 - the test that opens the gate has no event loop
            await asyncio.sleep(0.02)
        return await super().answer(request)

    def _may_pass(self) -> bool:
        with self.lock:
            if self.allowed <= 0:
                return False
            self.allowed -= 1
            return True


class GatedServer:
    """:param url: Ends in ``/v1``."""

    def __init__(self, url: str, api_key: str, engine: _GatedEngine) -> None:
        self.url = url
        self.api_key = api_key
        self._engine = engine

    def let_pass(self, requests: int) -> None:
        """Let so many more requests, of any batch, be answered."""
        with self._engine.lock:
            self._engine.allowed += requests


@contextmanager
def gated_server(data_dir: Path, *, api_key: str = "sk-gated-0123456789") -> Iterator[GatedServer]:
    """Serve on a free port, in a thread of the test's own process."""
    store, engine = Store(data_dir), _GatedEngine()
    app = create_app(
        store, engine, api_key=api_key, concurrency=64, completion_window=86_400.0, max_upload_bytes=10_000_000
    )
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield GatedServer(f"http://127.0.0.1:{port}/v1", api_key, engine)
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        store.close()
