"""An upload form, from the wire into the data folder: a file of any size costs a mebibyte of memory, and one that is
too large costs no more disk than the limit."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from airflow_provider_llmbatch.server.refusals import ApiError, missing
from airflow_provider_llmbatch.server.store import open_private

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from starlette.requests import Request

_BLOCK_BYTES: Final = 1024 * 1024
_FORM_BYTES: Final = 64 * 1024  # of a body, that are not the file


@dataclass
class _Part:
    headers: dict[bytes, bytes] = field(default_factory=dict)
    name: str = ""
    filename: str | None = None
    text: bytearray = field(default_factory=bytearray)


class Upload:
    """One form that is being received.

    :param path: Where the part ``file`` goes. It is removed again unless somebody took it over.
    :param limit: Bytes that the part ``file`` may have.
    """

    def __init__(self, path: Path, *, limit: int) -> None:
        self.path = path
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self.size = 0
        self._limit = limit
        self._part = _Part()
        self._header = [b"", b""]
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._complete = False

    def __enter__(self) -> Self:
        self._stream = open(self.path, "wb", buffering=0, opener=open_private)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stream.close()
        self.path.unlink(missing_ok=True)

    async def receive(self, request: Request) -> None:
        """Read a whole form.

        :raises ApiError: It is no form, has no file, or is too large; nothing more of it is read then.
        """
        kind, options = parse_options_header(request.headers.get("content-type"))
        if kind != b"multipart/form-data" or b"boundary" not in options:
            raise ApiError(400, "Send the file as multipart/form-data.")
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > self._limit + _FORM_BYTES:
            raise self._too_large()
        try:
            await self._parse(request, self._parser(options[b"boundary"]))
        except FormParserError:
            raise ApiError(400, "The multipart body cannot be parsed.") from None
        if not self._complete:
            raise ApiError(400, "The multipart body ends too early.")
        if self.filename is None:
            raise missing("file")

    async def _parse(self, request: Request, parser: MultipartParser) -> None:
        received = 0
        async for chunk in request.stream():
            received += len(chunk)
            parser.write(chunk)
            if self.size > self._limit or received > self._limit + _FORM_BYTES:
                # What was announced is soon over; a body without a length could go on for ever.
                raise self._too_large(hang_up="content-length" not in request.headers)
            if self._pending_bytes >= _BLOCK_BYTES:
                await self._write()
        parser.finalize()
        await self._write()

    def _too_large(self, *, hang_up: bool = False) -> ApiError:
        message = f"File is too large: at most {self._limit} bytes are allowed."
        return ApiError(413, message, param="file", headers={"Connection": "close"} if hang_up else None)

    async def _write(self) -> None:
        block = b"".join(self._pending)
        self._pending.clear()
        self._pending_bytes = 0
        await asyncio.to_thread(_write_all, self._stream.fileno(), block)

    def _parser(self, boundary: bytes) -> MultipartParser:
        return MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": self._add_header_name,
                "on_header_value": self._add_header_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_headers,
                "on_part_data": self._add_data,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )

    def _begin_part(self) -> None:
        self._part = _Part()

    def _add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header[0] += data[start:end]

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1] += data[start:end]

    def _end_header(self) -> None:
        name, value = self._header
        self._part.headers[name.lower()] = value
        self._header = [b"", b""]

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._part.headers.get(b"content-disposition", b""))
        self._part.name = options.get(b"name", b"").decode("utf-8", "replace")
        if b"filename" not in options:
            return
        if self._part.name != "file" or self.filename is not None:
            raise ApiError(400, "A form has one file, in the part 'file'.", param="file")
        self._part.filename = self.filename = options[b"filename"].decode("utf-8", "replace")

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._part.filename is None:
            self._part.text += data[start:end]
        else:
            self._pending.append(data[start:end])
            self._pending_bytes += end - start
            self.size += end - start

    def _end_part(self) -> None:
        if self._part.filename is None:
            self.fields[self._part.name] = self._part.text.decode("utf-8", "replace")

    def _end(self) -> None:
        self._complete = True


def _write_all(descriptor: int, block: bytes) -> None:
    with open(descriptor, "wb", closefd=False) as stream:
        stream.write(block)
