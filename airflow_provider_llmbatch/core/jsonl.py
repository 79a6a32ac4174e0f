"""Lines of JSON, checked before anything is uploaded.

A hot path: every byte of an input passes here. msgspec decodes a line into the few fields that are checked and skips
the rest, which is several times faster than building the whole object.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from airflow_provider_llmbatch.adapters.lines import split_lines
from airflow_provider_llmbatch.errors import BatchInputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from airflow_provider_llmbatch.adapters.base import Limits, LineCheck

_BLOCK_BYTES: Final = 1024 * 1024
BOM: Final = b"\xef\xbb\xbf"
CHAT_ENDPOINT: Final = "/v1/chat/completions"


@dataclass(frozen=True)
class CheckedInput:
    """What an input file holds, once every line of it was found good.

    :param sha256: Of all its bytes, in hexadecimal.
    :param endpoint: The ``url`` that all its lines ask for.
    :param model: The model that all its lines ask for, if they name one.
    """

    requests: int
    bytes: int
    sha256: str
    endpoint: str
    model: str | None


class _Body(msgspec.Struct, gc=False):
    model: str | None = None
    stream: bool | None = None


class _Line(msgspec.Struct, gc=False):
    custom_id: str
    method: str
    url: str
    body: _Body


def read_blocks(stream: BinaryIO) -> Iterator[bytes]:
    """A stream from where it stands to its end, a mebibyte at a time."""
    while block := stream.read(_BLOCK_BYTES):
        yield block


def check_requests(stream: BinaryIO, *, name: str, limits: Limits, line_check: LineCheck | None = None) -> CheckedInput:
    """Read an input to its end and check every line against the provider's rules.

    Memory: the ids of at most ``limits.max_requests`` lines, and one line.

    :param stream: OpenAI batch lines, read from where it stands.
    :param name: What the input is called in messages.
    :param line_check: What the provider asks besides; it may also take lines in a format of its own.
    :raises BatchInputError: For the first line that breaks a rule, with its number.
    """
    check = _Check(name, limits, line_check)
    for line in split_lines(check.counted(read_blocks(stream))):
        check.line(line)
    return check.finished()


class _Check:
    def __init__(self, name: str, limits: Limits, line_check: LineCheck | None) -> None:
        self._name = name
        self._limits = limits
        self._line_check = line_check
        self._decode = msgspec.json.Decoder(_Line).decode
        self._digest = hashlib.sha256()
        self._bytes = 0
        self._uploaded_bytes = 0
        self._lines_by_id: dict[str, int] = {}
        self._number = 0
        self._first: _Line | None = None

    def counted(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        for block in blocks:
            self._bytes += len(block)
            if self._line_check is None and self._bytes > self._limits.max_file_bytes:
                raise self._refused(
                    f"is larger than the {self._limits.max_file_bytes:,} bytes that one batch may have. Split it"
                )
            self._digest.update(block)
            yield block

    def line(self, line: bytes) -> None:
        self._number += 1
        if self._number > self._limits.max_requests:
            raise self._refused(
                f"has more than the {self._limits.max_requests:,} lines that one batch may have. Split it"
            )
        if self._number == 1 and line.startswith(BOM):
            raise self._refused("begins with a byte order mark (BOM). Save it as UTF-8 without one")
        own = self._own_request(line, self._line_check) if self._line_check else None
        request = own or self._request(line)
        if request.method != "POST":
            raise self._bad_line(f'has the method "{request.method}"; the only one is "POST"')
        if request.body.stream:
            raise self._bad_line('has "stream": true, which a batch cannot do')
        if not request.custom_id:
            raise self._bad_line("has an empty custom_id")
        earlier = self._lines_by_id.setdefault(request.custom_id, self._number)
        if earlier != self._number:
            raise self._bad_line(f'has custom_id "{request.custom_id}", which line {earlier} has too')
        self._check_against_first(request)
        if self._line_check:
            self._check_uploaded(line, self._line_check)

    def _own_request(self, line: bytes, line_check: LineCheck) -> _Line | None:
        """A line in the provider's own format, as if it were one of OpenAI's."""
        try:
            own_id = line_check.own_id(line)
        except ValueError as error:
            raise self._bad_line(str(error)) from None
        return None if own_id is None else _Line(own_id, "POST", CHAT_ENDPOINT, _Body())

    def _check_uploaded(self, line: bytes, line_check: LineCheck) -> None:
        """The provider's own rules, and its limit, where what is uploaded differs from what was given."""
        try:
            self._uploaded_bytes += line_check.uploaded_bytes(line)
        except ValueError as error:
            raise self._bad_line(str(error)) from None
        if self._uploaded_bytes > self._limits.max_file_bytes:
            raise self._refused(
                f"becomes larger than the {self._limits.max_file_bytes:,} bytes that one batch may have, in the "
                "provider's own format. Split it"
            )

    def _request(self, line: bytes) -> _Line:
        if not line.isascii():
            self._check_utf8(line)
        try:
            return self._decode(line)
        except msgspec.ValidationError as error:
            raise self._bad_line(f"is no batch request: {error}") from None
        except msgspec.DecodeError as error:
            raise self._bad_line(_not_json(line, error)) from None
        except RecursionError:
            raise self._bad_line("is nested too deeply to be read") from None

    def _check_against_first(self, request: _Line) -> None:
        """One batch, one endpoint, one model (OpenAI's Batch guide)."""
        if self._first is None:
            if request.url not in self._limits.endpoints:
                known = ", ".join(sorted(self._limits.endpoints))
                raise self._bad_line(f'has the url "{request.url}"; a batch can have one of {known}')
            self._first = request
        elif request.url != self._first.url:
            raise self._bad_line(f'has the url "{request.url}", but line 1 has "{self._first.url}"')
        elif request.body.model != self._first.body.model:
            raise self._bad_line(
                f"asks for the model {_quoted(request.body.model)}, but line 1 for {_quoted(self._first.body.model)}"
            )

    def _check_utf8(self, line: bytes) -> None:
        try:
            line.decode()
        except UnicodeDecodeError as error:
            raise self._bad_line(f"is not UTF-8 (byte {error.start + 1} of the line)") from None

    def finished(self) -> CheckedInput:
        if self._first is None:
            raise self._refused("is empty. A batch needs at least one request")
        return CheckedInput(
            requests=self._number,
            bytes=self._bytes,
            sha256=self._digest.hexdigest(),
            endpoint=self._first.url,
            model=self._first.body.model,
        )

    def _bad_line(self, problem: str) -> BatchInputError:
        return BatchInputError(
            f"Line {self._number} of {self._name} {problem}. Nothing was uploaded or billed. "
            "A retry would find the same: mend the input."
        )

    def _refused(self, problem: str) -> BatchInputError:
        return BatchInputError(f"{self._name} {problem}. Nothing was uploaded or billed.")


def _not_json(line: bytes, error: msgspec.DecodeError) -> str:
    if not line.strip():
        return "is blank"
    try:
        json.loads(line, parse_constant=_not_a_value)
    except ValueError:
        return f"is not JSON: {error}"
    # Python's own json takes and makes them, from texts that were cut inside an emoji.
    return "holds half a character: an escape such as \\ud83d without its other half"


def _not_a_value(constant: str) -> None:
    raise ValueError(constant)


def _quoted(model: str | None) -> str:
    return f'"{model}"' if model is not None else "the provider's default"
