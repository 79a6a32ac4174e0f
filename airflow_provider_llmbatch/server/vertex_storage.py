"""What the server needs of Cloud Storage: to read an object as a stream, and to write one from a file.

Plain calls of its JSON API, for an emulator, which asks for no credentials. Blocking: for threads.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_URI: Final = re.compile(r"gs://([a-z0-9][a-z0-9._-]{1,220}[a-z0-9])/(.*)", re.DOTALL)
_TIMEOUT: Final = httpx.Timeout(30.0, connect=5.0)
_PASSING: Final = frozenset({408, 429, 500, 502, 503, 504})
_BLOCK_BYTES: Final = 1024 * 1024


class StorageRefusedError(Exception):
    """Raised when Cloud Storage will not do it, this time or the next; the message says what and where."""

    def __init__(self, status_code: int, message: str) -> None:
        super().__init__(message)
        self.status_code = status_code


class StorageAwayError(Exception):
    """Raised when it may work another time."""


def is_uri(uri: object) -> bool:
    return isinstance(uri, str) and _URI.fullmatch(uri) is not None


class Storage:
    """Objects by their ``gs://`` URIs.

    :param url: Scheme, host and port of the JSON API.
    """

    def __init__(self, url: str) -> None:
        self.url = (url if "://" in url else f"http://{url}").rstrip("/")
        self._http = httpx.Client(base_url=self.url, timeout=_TIMEOUT, trust_env=False)

    def close(self) -> None:
        self._http.close()

    def lines(self, uri: str) -> Iterator[bytes]:
        """The lines of an object, without their ends. Holds no more than a block and one line.

        :raises StorageRefusedError: It is not there, or may not be read.
        :raises StorageAwayError: The service cannot be reached, or broke off.
        """
        bucket, name = _parts(uri)
        with (
            _told(uri),
            self._http.stream("GET", f"/storage/v1/b/{bucket}/o/{name}", params={"alt": "media"}) as answer,
        ):
            _check(answer, uri)
            rest: list[bytes] = []
            for block in answer.iter_bytes(_BLOCK_BYTES):
                first, *others = block.split(b"\n")
                rest.append(first)
                if others:
                    yield b"".join(rest)
                    yield from others[:-1]
                    rest = others[-1:]
            if last := b"".join(rest):
                yield last

    def write(self, uri: str, path: Path) -> None:
        """Make an object of a file, in the place of one that is there.

        :raises StorageRefusedError: There is no such bucket, or it may not be written.
        :raises StorageAwayError: The service cannot be reached, or broke off.
        """
        bucket, name = _parts(uri)
        with _told(uri), path.open("rb") as stream:
            answer = self._http.post(
                f"/upload/storage/v1/b/{bucket}/o?uploadType=media&name={name}",
                content=iter(lambda: stream.read(_BLOCK_BYTES), b""),
                headers={"Content-Type": "application/octet-stream", "Content-Length": str(path.stat().st_size)},
            )
            _check(answer, uri)


def _parts(uri: str) -> tuple[str, str]:
    """Bucket and object, as they stand in a path."""
    found = _URI.fullmatch(uri)
    if found is None:
        raise StorageRefusedError(400, f"{uri} is no URI of an object in Cloud Storage.")
    return found[1], quote(found[2], safe="")


class _told:  # noqa: N801 - reads as the statement it makes
    """Errors of the transport, as ours."""

    def __init__(self, uri: str) -> None:
        self._uri = uri

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, httpx.TransportError):
            raise StorageAwayError(f"{self._uri}: {type(error).__name__}") from error


def _check(answer: httpx.Response, uri: str) -> None:
    if answer.is_success:
        return
    if answer.status_code in _PASSING:
        raise StorageAwayError(f"{uri}: HTTP {answer.status_code}")
    raise StorageRefusedError(answer.status_code, f"{uri} was refused by Cloud Storage: HTTP {answer.status_code}.")
