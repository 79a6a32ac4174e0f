"""Makes happen what a file of faults says: one wrapper before the application breaks calls, one before the engine
spoils requests and batches. Without ``--faults`` neither exists.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec
from typing_extensions import override

from airflow_provider_llmbatch.models import BatchError
from airflow_provider_llmbatch.server.bodies import read, replayed
from airflow_provider_llmbatch.server.engines.base import Answer, Engine, refusal
from airflow_provider_llmbatch.server.faults import (
    Expire,
    LoseAnswer,
    LoseRows,
    Reset,
    StatusOfCall,
    StatusOfRequest,
    TokenLimit,
    Truncate,
    first_striking,
)
from airflow_provider_llmbatch.server.validation import first_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from airflow_provider_llmbatch.models import Batch, RequestLine
    from airflow_provider_llmbatch.server.faults import Faults
    from airflow_provider_llmbatch.server.store import Store

_CREATIONS: Final = {("POST", f"{prefix}/batches") for prefix in ("/v1", "/openai", "/openai/v1")}
_TOKEN_LIMIT: Final = "token_limit_exceeded"  # noqa: S105 - OpenAI's code, no secret


class FaultyEngine(Engine):
    """An engine whose requests fail, and whose batches end, by rule. What fails is not asked of the engine itself."""

    def __init__(self, engine: Engine, faults: Faults) -> None:
        self._engine = engine
        self._faults = faults
        self.model = engine.model
        self._lifetimes: dict[str, int] = {}  # of batches that expire early, in answers

    @override
    async def start(self) -> None:
        await self._engine.start()

    @override
    async def stop(self) -> None:
        await self._engine.stop()

    @override
    async def answer(self, request: RequestLine) -> Answer:
        return await self._fault_of(request) or await self._engine.answer(request)

    @override
    async def answer_while(self, request: RequestLine, wanted: Callable[[], bool]) -> Answer | None:
        return await self._fault_of(request) or await self._engine.answer_while(request, wanted)

    async def _fault_of(self, request: RequestLine) -> Answer | None:
        rule = first_striking(self._faults.requests, lambda rule: rule.custom_id.search(request.custom_id) is not None)
        if isinstance(rule, StatusOfRequest):
            return refusal(rule.status, rule.code, rule.message)
        if rule is not None:
            await asyncio.sleep(rule.seconds)
        return None

    @override
    def objection(self, batch: Batch, model: str | None) -> BatchError | None:
        rule = first_striking(self._faults.batches, _strikes_validation)
        if isinstance(rule, TokenLimit):
            return BatchError(code=_TOKEN_LIMIT, message=rule.message(model))
        if isinstance(rule, Expire):
            self._lifetimes[batch.id] = rule.after_answers
        return self._engine.objection(batch, model)

    @override
    def ends_early(self, batch: Batch, answered: int) -> bool:
        lifetime = self._lifetimes.get(batch.id)
        return (lifetime is not None and answered >= lifetime) or self._engine.ends_early(batch, answered)


class FaultyApp:
    """An application whose calls fail by rule. Only under uvicorn, whose connections it breaks."""

    def __init__(self, app: ASGIApp, faults: Faults, store: Store) -> None:
        self._app = app
        self._faults = faults
        self._store = store

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method, path = scope["method"], scope["path"]
        rule = first_striking(
            self._faults.calls, lambda rule: rule.method in (None, method) and rule.path.search(path) is not None
        )
        if isinstance(rule, StatusOfCall):
            await _answer(rule, receive, send)
        elif isinstance(rule, Reset):
            await _break(receive, send, reset=True)
        elif isinstance(rule, LoseAnswer):
            await self._app(scope, receive, _nowhere)
            await _break(receive, send, reset=True)
        elif isinstance(rule, Truncate):
            await self._app(scope, receive, _Cut(send, rule.after_bytes))
            await _break(receive, send, reset=False)
        else:
            if rule is not None:
                receive = replayed(await read(receive), receive)  # read first: a client that leaves takes it along
                await asyncio.sleep(rule.seconds)
            await self._unless_over_limit(scope, receive, send)

    async def _unless_over_limit(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (scope["method"], scope["path"]) not in _CREATIONS:
            await self._app(scope, receive, send)
            return
        body = await read(receive)
        rule = first_striking(self._faults.batches, _refuses_creation)
        if isinstance(rule, TokenLimit):
            answer = refusal(rule.status, _TOKEN_LIMIT, rule.message(self._model(body)))
            await _send(send, answer.status_code, {"Content-Type": "application/json"}, answer.body)
            return
        await self._app(scope, replayed(body, receive), send)

    def _model(self, creation: bytes) -> str | None:
        """The model of the batch that a call would create: that of its first line, unless that is no line at all."""
        with suppress(msgspec.MsgspecError):
            file = self._store.file(msgspec.json.decode(creation, type=_Creation).input_file_id)
            return first_line(self._store.content(file)).body.model if file else None
        return None


class _Creation(msgspec.Struct):
    input_file_id: str


def _refuses_creation(rule: Expire | TokenLimit | LoseRows) -> bool:
    return isinstance(rule, TokenLimit) and rule.at == "creation"


def _strikes_validation(rule: Expire | TokenLimit | LoseRows) -> bool:
    return isinstance(rule, Expire) or (isinstance(rule, TokenLimit) and rule.at == "validation")


async def _answer(rule: StatusOfCall, receive: Receive, send: Send) -> None:
    await read(receive)  # else a client that still uploads would see a broken connection instead
    if rule.body is None:
        body = refusal(rule.status, "fault", "This call fails because the file of faults says so.").body
    else:
        body = (rule.body if isinstance(rule.body, str) else json.dumps(rule.body)).encode()
    await _send(send, rule.status, {"Content-Type": "application/json", **rule.headers}, body)


async def _send(send: Send, status: int, headers: dict[str, str], body: bytes) -> None:
    fields = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    fields.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


async def _nowhere(_message: Message) -> None:
    """An answer that is lost on the way."""


class _Cut:
    """Lets the head of an answer through, and so many bytes of its body."""

    def __init__(self, send: Send, after_bytes: int) -> None:
        self._send = send
        self._left = after_bytes

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.body":
            passed = message.get("body", b"")[: self._left]
            self._left -= len(passed)
            message = {"type": "http.response.body", "body": passed, "more_body": True}
        await self._send(message)


async def _break(receive: Receive, send: Send, *, reset: bool) -> None:
    """Close the connection, after what was sent or with a TCP reset, and wait until uvicorn knows."""
    transport: asyncio.Transport = send.__self__.transport  # type: ignore[attr-defined] # ASGI itself has no word for it
    if reset:  # no lingering: the system sends RST at close
        linger = struct.pack("ii", 1, 0)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        transport.abort()
    else:
        transport.close()
    while (await receive())["type"] != "http.disconnect":
        pass
