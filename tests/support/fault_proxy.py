"""A loopback HTTP/1.1 proxy that breaks things by rule, in front of any server::

    with fault_proxy(server.url) as proxy:
        proxy.rule("POST", r"/batches$", LoseAnswer())
        adapter = adapter_for(proxy.url)
        ...
        assert [r.upstream_status for r in proxy.calls("POST", "/batches$")] == [200]

The first rule that fits a request and is not used up decides; a request without a rule is forwarded. It serves one
request per connection, since a client that reuses a broken connection repeats calls by itself. It can also stand as a
forward proxy (absolute request targets) and speak TLS to its clients.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Iterator, Mapping

_BLOCK_BYTES = 64 * 1024
_BYTES_KEPT = 256 * 1024  # of a request's body, for tests that look at it


@dataclass(frozen=True)
class Answer:
    """Answer without forwarding. ``headers`` replace those made here; one that is empty is left out."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Delay:
    """Wait, then forward."""

    seconds: float


@dataclass(frozen=True)
class Drop:
    """Break the connection before the request is whole at the upstream.

    :param after_bytes: Forward the body up to the block that reaches so many bytes; ``None`` reads the whole request
        and forwards nothing.
    :param reset: With a TCP reset, else with an orderly close.
    """

    after_bytes: int | None = None
    reset: bool = True


@dataclass(frozen=True)
class LoseAnswer:
    """Forward, let the upstream answer to the end, then reset the connection."""


@dataclass(frozen=True)
class Truncate:
    """Forward, and close the connection after so many bytes of the answer's body."""

    after_bytes: int


@dataclass(frozen=True)
class Hang:
    """Say nothing until the client gives up; ``forwarding``: the upstream gets the request and answers all the same."""

    forwarding: bool = False


@dataclass(frozen=True)
class Garbage:
    """Send bytes that are no HTTP, and close."""

    body: bytes = b"\x00\xff\x15\x03not HTTP\r\n\r\n"


Fault = Answer | Delay | Drop | LoseAnswer | Truncate | Hang | Garbage


@dataclass
class RecordedRequest:
    """What a client sent.

    :param path: With the query, without scheme and host.
    :param headers: Names in lower case.
    :param body: Its first 256 KiB; ``body_bytes`` is its length as far as it was read.
    :param forwarded: Whether the upstream got all of it.
    """

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""
    body_bytes: int = 0
    forwarded: bool = False
    upstream_status: int | None = None


@dataclass
class _Rule:
    method: str
    path: re.Pattern[str]
    fault: Fault
    times: int | None


class FaultProxy:
    def __init__(self, upstream_url: str | None, tls: ssl.SSLContext | None) -> None:
        self._upstream = urlsplit(upstream_url or "")
        self._tls = tls
        self._rules: list[_Rule] = []
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="fault-proxy", daemon=True)
        self._serving: set[asyncio.Task[None] | None] = set()
        self.requests: list[RecordedRequest] = []
        self.port = 0

    @property
    def url(self) -> str:
        """The proxy's own address with the path of the upstream's, so that it takes its place."""
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}{self._upstream.path}"

    def rule(self, method: str, path: str, fault: Fault, *, times: int | None = 1) -> None:
        """Apply a fault to the next ``times`` (``None``: all) requests whose method and path, without query, match."""
        self._rules.append(_Rule(method, re.compile(path), fault, times))

    def calls(self, method: str, path: str) -> list[RecordedRequest]:
        """The recorded requests of a method whose path, without query, matches."""
        return [r for r in self.requests if r.method == method and re.search(path, r.path.partition("?")[0])]

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(5), "the proxy did not start"

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(5)
        assert not self._thread.is_alive(), "the proxy did not stop"

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self._tls)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()  # the runner cancels what is still being served

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The event loop holds a task that waits for the upstream only weakly once the client has closed its side.
        task = asyncio.current_task()
        self._serving.add(task)
        try:
            await self._handle(reader, writer)
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # a client that goes away is what many tests make it do
        finally:
            self._serving.discard(task)
            writer.close()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = _parsed_head(await reader.readuntil(b"\r\n\r\n"))
        self.requests.append(request)
        fault = self._fault_for(request)
        if isinstance(fault, Drop) and fault.after_bytes is None:
            await _read_whole(request, reader)
            _break(writer, reset=fault.reset)
            return
        if isinstance(fault, Delay):
            await asyncio.sleep(fault.seconds)
        if isinstance(fault, Answer | Garbage):
            await _read_whole(request, reader)
            writer.write(fault.body if isinstance(fault, Garbage) else _encoded(fault))
            await writer.drain()
        elif isinstance(fault, Hang) and not fault.forwarding:
            await reader.read()
        else:
            await self._forward(request, fault, reader, writer)

    def _fault_for(self, request: RecordedRequest) -> Fault | None:
        path = request.path.partition("?")[0]
        for rule in self._rules:
            if rule.method == request.method and rule.path.search(path) and rule.times != 0:
                rule.times = None if rule.times is None else rule.times - 1
                return rule.fault
        return None if self._upstream.port else Answer(502, b'{"error": {"message": "the test named no upstream"}}')

    async def _forward(
        self, request: RecordedRequest, fault: Fault | None, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        up_reader, up_writer = await asyncio.open_connection(self._upstream.hostname, self._upstream.port)
        try:
            up_writer.write(_forwarded_head(request))
            async for block in _body(request, reader):
                if isinstance(fault, Drop) and request.body_bytes >= (fault.after_bytes or 0):
                    _break(up_writer, reset=fault.reset)
                    _break(writer, reset=fault.reset)
                    return
                up_writer.write(_framed(request, block))
                await up_writer.drain()
            up_writer.write(b"0\r\n\r\n" if _is_chunked(request) else b"")
            await up_writer.drain()
            request.forwarded = True
            head = await up_reader.readuntil(b"\r\n\r\n")
            request.upstream_status = int(head.split(b" ", 2)[1])
            if isinstance(fault, LoseAnswer | Hang):
                await up_reader.read()
                if isinstance(fault, Hang):
                    await reader.read()
                _break(writer, reset=True)
                return
            writer.write(head)
            left = fault.after_bytes if isinstance(fault, Truncate) else None
            while left != 0 and (block := await up_reader.read(min(_BLOCK_BYTES, left or _BLOCK_BYTES))):
                left = None if left is None else left - len(block)
                writer.write(block)
                await writer.drain()
        finally:
            up_writer.close()


def _parsed_head(head: bytes) -> RecordedRequest:
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    method, target, _ = first.split(" ", 2)
    if target.startswith("http://"):
        target = target[target.find("/", len("http://")) :]
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return RecordedRequest(method, target, headers)


def _forwarded_head(request: RecordedRequest) -> bytes:
    # Closed after one answer, so that its end is the end of the stream; hop-by-hop headers stay here.
    kept = {k: v for k, v in request.headers.items() if k not in ("connection", "expect", "proxy-authorization")}
    lines = [f"{request.method} {request.path} HTTP/1.1", *(f"{k}: {v}" for k, v in kept.items()), "connection: close"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _is_chunked(request: RecordedRequest) -> bool:
    return "chunked" in request.headers.get("transfer-encoding", "")


def _framed(request: RecordedRequest, block: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(block), block) if _is_chunked(request) else block


async def _body(request: RecordedRequest, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The body without its framing, recorded as it passes."""
    left = int(request.headers.get("content-length", "0"))
    while True:
        if _is_chunked(request):
            size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
            block = (await reader.readexactly(size + 2))[:-2]
        else:
            block = await reader.read(min(left, _BLOCK_BYTES)) if left else b""
            left -= len(block)
        if not block:
            if left:
                raise EOFError
            return
        request.body += block[: _BYTES_KEPT - len(request.body)]
        request.body_bytes += len(block)
        yield block


async def _read_whole(request: RecordedRequest, reader: asyncio.StreamReader) -> None:
    async for _ in _body(request, reader):
        pass


def _encoded(answer: Answer) -> bytes:
    headers = {"Content-Length": str(len(answer.body)), "Content-Type": "application/json", "Connection": "close"}
    lines = [f"HTTP/1.1 {answer.status} Canned", *(f"{k}: {v}" for k, v in {**headers, **answer.headers}.items() if v)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + answer.body


def _break(writer: asyncio.StreamWriter, *, reset: bool) -> None:
    if reset:  # no lingering: the system sends RST at close
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()
    else:
        writer.close()


@contextmanager
def fault_proxy(upstream_url: str | None = None, *, tls: ssl.SSLContext | None = None) -> Iterator[FaultProxy]:
    """Run a proxy for the time of a block.

    :param upstream_url: Such as ``http://127.0.0.1:4000/v1``; without it only rules with an answer of their own work.
    :param tls: To speak TLS with clients; the upstream is always called in the clear.
    """
    proxy = FaultProxy(upstream_url, tls)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
