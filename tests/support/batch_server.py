"""A server in the test's own process, with the engine and the limits that a test needs."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import httpx
import uvicorn
from typing_extensions import override

from airflow_provider_llmbatch.server.app import create_app
from airflow_provider_llmbatch.server.engines.base import Answer, Engine
from airflow_provider_llmbatch.server.engines.echo import EchoEngine
from airflow_provider_llmbatch.server.store import Store
from support.plain_http import NO_TLS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from airflow_provider_llmbatch.models import RequestLine

CHAT = "/v1/chat/completions"
_KEY = "sk-server-0123456789"
_DEFAULTS = {"concurrency": 4, "completion_window": 86_400.0, "max_upload_bytes": 10_000_000}


class ScriptedEngine(Engine):
    """Answers as its test says, and knows what it was asked.

    :param closed: Requests wait until it is cleared; those that wait are in flight.
    """

    def __init__(self, answers: Callable[[str], Answer] | None = None, *, model: str | None = None) -> None:
        self.model = model
        self.asked: list[str] = []
        self.closed = threading.Event()
        self._answers = answers
        self._echo = EchoEngine()

    @override
    async def answer(self, request: RequestLine) -> Answer:
        self.asked.append(request.custom_id)
        while self.closed.is_set():  # noqa: ASYNC110 - the test that opens it has no event loop
            await asyncio.sleep(0.01)
        return self._answers(request.custom_id) if self._answers else await self._echo.answer(request)


class Client:
    """Plain calls, as anybody may make them."""

    def __init__(self, url: str, api_key: str = _KEY) -> None:
        self.url = url
        self.api_key = api_key
        headers = {"Authorization": f"Bearer {api_key}"}
        self.http = httpx.Client(base_url=url, headers=headers, timeout=30, trust_env=False, verify=NO_TLS)

    def upload(self, content: bytes, *, name: str = "in.jsonl", **fields: str) -> httpx.Response:
        return self.http.post("/files", data={"purpose": "batch", **fields}, files={"file": (name, content)})

    def file(self, content: bytes, **fields: str) -> dict[str, Any]:
        return _good(self.upload(content, **fields))

    def create(self, file_id: str, *, endpoint: str = CHAT, **more: object) -> httpx.Response:
        asked = {"input_file_id": file_id, "endpoint": endpoint, "completion_window": "24h", **more}
        return self.http.post("/batches", json=asked)

    def batch(self, content: bytes, *, endpoint: str = CHAT, **more: object) -> dict[str, Any]:
        return _good(self.create(self.file(content)["id"], endpoint=endpoint, **more))

    def now(self, batch: dict[str, Any]) -> dict[str, Any]:
        return _good(self.http.get(f"/batches/{batch['id']}"))

    def until(self, batch: dict[str, Any], *statuses: str, seconds: float = 30) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while (batch := self.now(batch))["status"] not in statuses:
            assert time.monotonic() < deadline, batch
            time.sleep(0.01)
        return batch

    def ended(self, batch: dict[str, Any]) -> dict[str, Any]:
        return self.until(batch, "completed", "failed", "expired", "cancelled")

    def run(self, content: bytes, *, endpoint: str = CHAT, **more: object) -> dict[str, Any]:
        return self.ended(self.batch(content, endpoint=endpoint, **more))

    def cancel(self, batch: dict[str, Any]) -> httpx.Response:
        return self.http.post(f"/batches/{batch['id']}/cancel")

    def lines(self, file_id: str | None) -> list[dict[str, Any]]:
        """The lines of a result file; none if there is no file."""
        if file_id is None:
            return []
        return [json.loads(line) for line in self.http.get(f"/files/{file_id}/content").text.splitlines()]


class Serve(Protocol):
    """Start a server on the test's folder, after stopping the one before."""

    def __call__(self, engine: Engine | None = None, **options: Any) -> Client: ...


def _good(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


@contextmanager
def serving(folder: Path, engine: Engine, **options: Any) -> Iterator[Client]:
    store = Store(folder)
    app = create_app(store, engine, api_key=_KEY, **{**_DEFAULTS, **options})
    config = uvicorn.Config(app, port=0, log_level="critical", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        client = Client(f"http://127.0.0.1:{port}/v1")
        with client.http:
            yield client
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        store.close()


def chat_line(custom_id: str, said: str = "hello", **more: object) -> dict[str, Any]:
    body = {"model": "echo", "messages": [{"role": "user", "content": said}]}
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body, **more}


def jsonl(lines: Iterable[object]) -> bytes:
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def chats(*custom_ids: str) -> bytes:
    return jsonl(map(chat_line, custom_ids))
