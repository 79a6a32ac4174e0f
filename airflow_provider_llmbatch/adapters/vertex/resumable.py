"""One upload to Cloud Storage: resumable, checked, and all or nothing.

The protocol ("Perform resumable uploads", 2026): a POST opens a session, PUTs bring chunks, and the object appears when
the one that names the whole length has arrived. A chunk whose answer was lost is sent again: bytes that are stored
already are ignored. ``Range`` of a 308 says how far the session has come, which may be less than was sent. A DELETE
ends a session for good (499).

google-cloud-storage 3.17 has a writer for streams of unknown length too. It was left for what it does with faults: told
that less than a chunk was stored, it raises ``ValueError``; after an exception it deletes another URL than the
session's, which lives on for a week; it minds neither Retry-After nor the time-outs, proxy and CA bundle of a
connection; and its errors quote the session's URL, which lets anybody write.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

from airflow_provider_llmbatch.adapters.http import BLOCK_BYTES, Call, HttpClient
from airflow_provider_llmbatch.adapters.vertex.checksums import Checksum
from airflow_provider_llmbatch.errors import (
    BrokenTransferError,
    LLMBatchError,
    RequestRefusedError,
    UnavailableError,
    UnexpectedAnswerError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from airflow_provider_llmbatch.adapters.http import Reply

CHUNK_BYTES: Final = 8 * 1024 * 1024
"""How much is sent at a time, and kept until it is stored: a multiple of 256 KiB, as the protocol wants."""

_INCOMPLETE: Final = frozenset({HTTPStatus.PERMANENT_REDIRECT.value})
_CANCELLED: Final = frozenset({499})
_RANGE: Final = re.compile(r"bytes=0-(\d+)")
_SESSION_GONE: Final = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.GONE})
_MOST_STANDSTILLS: Final = 5  # answers in a row that say nothing more was stored


class ResumableUpload:
    """One session. ``open`` it, then ``send`` once.

    :param resource: The object's name, metadata and content type.
    :param uri: Of the object, for messages.
    """

    def __init__(self, http: HttpClient, bucket: str, resource: Mapping[str, Any], uri: str) -> None:
        self._http = http
        self._resource = resource
        self._uri = uri
        self._objects = f"b/{bucket}/o"
        self._session = ""
        self._checksum = Checksum()
        self._taken = 0  # bytes of the source
        self._stored = 0  # bytes at the service
        self._standstills = 0

    def open(self) -> None:
        """Begin a session, which is nothing anybody sees."""
        call = Call(
            "POST",
            f"/upload/storage/v1/{self._objects}",
            f"begin to store {self._uri}",
            params={"uploadType": "resumable", "ifGenerationMatch": "0"},  # only where there is no object yet
            json=dict(self._resource),
            headers={"X-Upload-Content-Type": str(self._resource["contentType"])},
        )
        location = urlsplit(self._http.exchange(call).headers.get("location", ""))
        if not location.query:
            raise UnexpectedAnswerError(
                f"{self._http.title} was asked to begin to store {self._uri} and named no session for it, so something "
                "else answered. Nothing was uploaded. A retry helps only if that is passing; else mend the "
                "connection's storage URL."
            )
        # Without the host: an emulator may name one that cannot be reached, and what is sent there carries a token.
        self._session = f"{location.path}?{location.query}"

    def send(self, blocks: Iterator[bytes]) -> dict[str, Any]:
        """Send it all, and return what Cloud Storage says of the object; if that fails, nothing is left."""
        try:
            for chunk, is_last in _chunks(blocks):
                self._checksum.update(chunk)
                self._taken += len(chunk)
                if is_last:
                    stored = self._finish(chunk)
                    break
                self._store(chunk)
                del chunk  # before the next one is made
            else:
                stored = self._finish(b"")
        except BaseException:
            self._cancel()
            raise
        self._verify(stored)
        return stored

    def _store(self, chunk: bytes) -> None:
        """Send a chunk that is not the last, until all of it is stored."""
        while part := self._left_of(chunk):
            try:
                reply = self._http.exchange(self._call(part, f"{self._stored}-{self._taken - 1}/*"))
            except RequestRefusedError as error:
                problem = self._lost(error)
            else:
                if reply.status_code in _INCOMPLETE:
                    self._advance(reply)
                    continue
                problem = self._broken("Cloud Storage took a part of it for the whole.")
            raise problem

    def _finish(self, chunk: bytes) -> dict[str, Any]:
        """Send the last chunk, which makes the object appear."""
        while True:
            part = self._left_of(chunk)
            span = f"{self._stored}-{self._taken - 1}/{self._taken}" if part else f"*/{self._taken}"
            call = self._call(part, span, {"X-Goog-Hash": f"crc32c={self._checksum.text}"})
            try:
                reply = self._http.exchange(call)
            except (RequestRefusedError, UnavailableError) as error:
                # The answer that was lost may have said that all is stored, after which there is no session any more.
                if found := self._found():
                    return found
                problem = self._lost(error)
            else:
                if reply.status_code in _INCOMPLETE:
                    self._advance(reply)
                    continue
                stored = _json_of(reply.body)
                if stored is not None:
                    return stored
                problem = self._broken("Cloud Storage did not say what it stored.")
            raise problem

    def _left_of(self, chunk: bytes) -> memoryview:
        return memoryview(chunk)[len(chunk) - (self._taken - self._stored) :]

    def _call(self, part: memoryview, span: str, headers: Mapping[str, str] | None = None) -> Call:
        return Call(
            "PUT",
            self._session,
            f"store bytes {span} of {self._uri}",
            headers={"Content-Range": f"bytes {span}", "Content-Length": str(len(part)), **(headers or {})},
            body=lambda: _slices(part),
            successes=_INCOMPLETE,
        )

    def _advance(self, reply: Reply) -> None:
        match = _RANGE.fullmatch(reply.headers.get("range", ""))
        stored = int(match[1]) + 1 if match else 0
        self._standstills = self._standstills + 1 if stored == self._stored else 0
        if not self._stored <= stored <= self._taken or self._standstills > _MOST_STANDSTILLS:
            raise self._broken(f"Cloud Storage says that {stored:,} of {self._taken:,} bytes are stored.")
        self._stored = stored

    def _found(self) -> dict[str, Any] | None:
        """The object, if it is there and is what was sent."""
        try:
            found = _json_of(self._http.send(Call("GET", self._path, f"look up {self._uri}")))
        except LLMBatchError:
            return None
        is_ours = found is not None and found.get("metadata", {}) == self._resource["metadata"]
        return found if is_ours and found and self._is_whole(found) else None

    def _is_whole(self, stored: Mapping[str, Any]) -> bool:
        return str(stored.get("size")) == str(self._taken) and stored.get("crc32c") == self._checksum.text

    def _verify(self, stored: Mapping[str, Any]) -> None:
        """Delete what is not what was sent."""
        if self._is_whole(stored):
            return
        generation = {"ifGenerationMatch": str(stored["generation"])} if stored.get("generation") else {}
        with suppress(LLMBatchError):
            self._http.send(Call("DELETE", self._path, f"delete {self._uri}", params=generation))
        raise self._broken(
            f"{stored.get('size')} bytes with the checksum {stored.get('crc32c')} were stored instead of {self._taken} "
            f"with {self._checksum.text} (CRC32C)."
        )

    def _cancel(self) -> None:
        with suppress(LLMBatchError):
            self._http.send(Call("DELETE", self._session, f"give up {self._uri}", successes=_CANCELLED))

    @property
    def _path(self) -> str:
        return f"/storage/v1/{self._objects}/{quote(str(self._resource['name']), safe='')}"

    def _lost(self, error: LLMBatchError) -> LLMBatchError:
        """The same error, unless another upload would go better."""
        if isinstance(error, RequestRefusedError) and (
            error.status_code in _SESSION_GONE or "crc32c" in str(error).lower()
        ):
            return self._broken(str(error).partition(" Nothing was billed.")[0])
        return error

    def _broken(self, what: str) -> BrokenTransferError:
        return BrokenTransferError(
            f"{what} The upload of {self._uri} broke off after {self._stored:,} bytes. Nothing of it is left, and "
            "nothing was billed. A retry uploads it anew."
        )


def _chunks(blocks: Iterator[bytes]) -> Iterator[tuple[bytes, bool]]:
    """The same bytes in chunks of one size, but the last, which says that it is; none if there are no bytes."""
    ready = bytearray()
    for block in blocks:
        # One byte more than a chunk tells that it is not the last.
        ready += block
        while len(ready) > CHUNK_BYTES:
            yield _first_of(ready), False
    if ready:
        yield bytes(ready), True


def _first_of(ready: bytearray) -> bytes:
    chunk = bytes(memoryview(ready)[:CHUNK_BYTES])
    del ready[:CHUNK_BYTES]
    return chunk


def _slices(part: memoryview) -> Iterator[bytes]:
    for start in range(0, len(part), BLOCK_BYTES):
        yield bytes(part[start : start + BLOCK_BYTES])


def _json_of(body: bytes) -> dict[str, Any] | None:
    try:
        content = json.loads(body)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None
