"""A server that answers single requests as OpenAI does, in a thread of the test's process: an engine to stand behind
the batch server. It counts what it is asked, and answers as told to before it answers well."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections import Counter, deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from starlette.requests import Request


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes = b'{"error": {"message": "as told", "type": "test", "param": null, "code": "told"}}'
    headers: Mapping[str, str] = field(default_factory=dict)


class EngineServer:
    """:param seconds: How long each answer takes."""

    def __init__(self, seconds: float) -> None:
        self.under_way = 0
        self.url = ""
        self.begin_anew(seconds=seconds)

    def begin_anew(self, *, seconds: float = 0.0) -> None:
        """Forget what was asked and told, between tests that share one."""
        self.seconds = seconds
        self.replies: deque[Reply] = deque()
        self.asked: Counter[str] = Counter()
        self.paths: list[str] = []
        self.keys: set[str] = set()
        self.moments: list[float] = []
        self.most_under_way = 0

    async def answer(self, request: Request) -> Response:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            return await self._answer(request)
        finally:
            self.under_way -= 1

    async def _answer(self, request: Request) -> Response:
        body = await request.json()
        said = body["messages"][-1]["content"] if "messages" in body else body["input"]
        self.asked[said] += 1
        self.paths.append(request.url.path)
        self.keys.add(request.headers.get("authorization", ""))
        self.moments.append(time.monotonic())
        if self.replies:
            reply = self.replies.popleft()
            return Response(reply.body, reply.status, {"content-type": "application/json", **reply.headers})
        await asyncio.sleep(self.seconds)
        return Response(json.dumps(_answer_to(request.url.path, body, said)), media_type="application/json")


def _answer_to(path: str, body: dict[str, str], said: str) -> dict[str, object]:
    usage = {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3}
    if path.endswith("/embeddings"):
        return {"object": "list", "model": body["model"], "data": [{"index": 0, "embedding": [0.5]}], "usage": usage}
    if path.endswith("/responses"):
        output = [{"type": "message", "content": [{"type": "output_text", "text": said}]}]
        return {"object": "response", "status": "completed", "model": body["model"], "output": output}
    message = {"role": "assistant", "content": said}
    return {"object": "chat.completion", "model": body["model"], "choices": [{"message": message}], "usage": usage}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def engine_server(*, seconds: float = 0.0, port: int = 0) -> Iterator[EngineServer]:
    """Serve on loopback for the time of a block."""
    engine = EngineServer(seconds)
    routes = [Route(f"{prefix}/v1/{{path:path}}", engine.answer, methods=["POST"]) for prefix in ("", "/behind")]
    config = uvicorn.Config(
        Starlette(routes=routes), host="127.0.0.1", port=port, log_level="error", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the engine did not start"
            time.sleep(0.01)
        engine.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
        yield engine
    finally:
        server.should_exit = True
        thread.join(timeout=10)
