"""A proxy on loopback that stands in for hosts of the internet: who asks it for ``https://`` one of them gets a server
on this machine, under a certificate of the tests' own authority.

For clients of others that cannot be told another address: they run unmodified, with ``HTTPS_PROXY`` and
``SSL_CERT_FILE``.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import trustme

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_BLOCK_BYTES = 64 * 1024


@dataclass(frozen=True)
class RunningProxy:
    """:param asked: The hosts that were asked for, those that nobody stands in for, too."""

    url: str
    authority: Path
    asked: list[str]

    def environment(self) -> Mapping[str, str]:
        """What makes clients call it, and believe it."""
        variables = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
        return {name: str(self.authority) for name in variables} | {"HTTPS_PROXY": self.url, "https_proxy": self.url}


class _ConnectProxy:
    def __init__(self, hosts: Mapping[str, str], context: ssl.SSLContext) -> None:
        self._hosts = hosts
        self._context = context
        self.asked: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            host = head.split(b" ", 2)[1].decode().rpartition(":")[0]
            self.asked.append(host)
            upstream = self._hosts.get(host)
            if upstream is None:
                writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
            else:
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
                await writer.drain()
                await writer.start_tls(self._context)
                await self._join(reader, writer, upstream)
        writer.close()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, upstream: str) -> None:
        address = urlsplit(upstream)
        there, back = await asyncio.open_connection(address.hostname, address.port)
        try:
            await asyncio.gather(_copy(reader, back), _copy(there, writer))
        finally:
            back.close()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while block := await source.read(_BLOCK_BYTES):
        target.write(block)
        await target.drain()
    target.close()


@contextmanager
def connect_proxy(folder: Path, hosts: Mapping[str, str]) -> Iterator[RunningProxy]:
    """Run the proxy in a thread.

    :param folder: For the authority's certificate.
    :param hosts: Name -> the address of the server that stands in for it, ``http://host:port``.
    """
    authority = trustme.CA()
    authority.cert_pem.write_to_path(path := folder / "authority.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*hosts).configure_cert(context)
    proxy = _ConnectProxy(hosts, context)
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(proxy.serve, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        port = server.sockets[0].getsockname()[1]
        yield RunningProxy(f"http://127.0.0.1:{port}", path, proxy.asked)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
