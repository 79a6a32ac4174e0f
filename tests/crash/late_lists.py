"""Lists that show a batch only some time after it was created, as no provider promises otherwise."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_COLLECTIONS = ("/batches", "/batchPredictionJobs")


class LateLists:
    """An application in front of a face.

    :param port: Who calls another one sees everything at once.
    :param seconds: How late a list is.
    """

    def __init__(self, app: ASGIApp, *, port: int, seconds: float) -> None:
        self._app = app
        self._port = port
        self._seconds = seconds
        self._shown_at: dict[str, float] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not (scope["type"] == "http" and scope["path"].endswith(_COLLECTIONS) and scope["server"][1] == self._port):
            await self._app(scope, receive, send)
            return
        messages: list[Message] = []

        async def keep(message: Message) -> None:
            messages.append(message)

        await self._app(scope, receive, keep)
        start, *bodies = messages
        body = b"".join(message.get("body", b"") for message in bodies)
        if start["status"] == 200:
            body = self._created(body) if scope["method"] == "POST" else self._listed(body)
        headers = [pair for pair in start["headers"] if pair[0] != b"content-length"]
        await send({**start, "headers": [*headers, (b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})

    def _created(self, body: bytes) -> bytes:
        self._shown_at[_name_of(json.loads(body))] = time.monotonic() + self._seconds
        return body

    def _listed(self, body: bytes) -> bytes:
        answer = json.loads(body)
        now = time.monotonic()
        for key in {"data", "batchPredictionJobs"} & answer.keys():
            answer[key] = [batch for batch in answer[key] if self._shown_at.get(_name_of(batch), 0.0) <= now]
        return json.dumps(answer).encode()


def _name_of(batch: dict[str, Any]) -> str:
    """OpenAI calls it an id, and Vertex AI a name."""
    return str(batch.get("id") or batch["name"])
