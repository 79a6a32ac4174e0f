"""The answers of a running batch, line by line on disk, so that a kill loses nothing but what was in flight."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING, Final

import msgspec

from airflow_provider_llmbatch.models import (
    InputTokensDetails,
    OutputTokensDetails,
    RequestCounts,
    ResultError,
    ResultResponse,
    Usage,
)
from airflow_provider_llmbatch.server.store import open_private

if TYPE_CHECKING:
    from io import RawIOBase
    from pathlib import Path

    from airflow_provider_llmbatch.server.engines.base import Answer

_OK: Final = range(200, 300)


class _Line(msgspec.Struct, gc=False):
    id: str | msgspec.UnsetType
    custom_id: str
    response: ResultResponse | None
    error: ResultError | None


class _TokensDetails(msgspec.Struct, gc=False):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    """Token counts in the names of every endpoint."""

    prompt_tokens: int | None = None
    input_tokens: int | None = None
    completion_tokens: int | None = None
    output_tokens: int | None = None
    prompt_tokens_details: _TokensDetails | None = None
    input_tokens_details: _TokensDetails | None = None
    completion_tokens_details: _TokensDetails | None = None
    output_tokens_details: _TokensDetails | None = None


class _Body(msgspec.Struct, gc=False):
    usage: _Usage | None = None


class _KeptLine(msgspec.Struct, gc=False):
    custom_id: str
    response: ResultResponse | None = None
    error: ResultError | None = None


_encode = msgspec.json.Encoder().encode
_decode_body = msgspec.json.Decoder(_Body).decode
_decode_any = msgspec.json.Decoder(msgspec.Raw).decode
_decode_kept = msgspec.json.Decoder(_KeptLine).decode


class Answers:
    """Two files that grow by whole lines: answers, and everything else.

    :param output: Where answers go.
    :param error: Where requests go that have none.
    :param with_ids: Whether each line has an id of its own.
    """

    def __init__(self, output: Path, error: Path, *, with_ids: bool = True) -> None:
        self._with_ids = with_ids
        self._paths = (output, error)
        self.done: set[str] = set()
        self.completed = self.failed = 0
        self._input = self._cached = self._output = self._reasoning = 0
        for path in self._paths:
            self._recover(path)
        self._output_file, self._error_file = (_appended(path) for path in self._paths)

    def _recover(self, path: Path) -> None:
        """Count what an earlier process wrote, and drop the half line that a kill may have left."""
        if not path.exists():
            return
        whole = 0
        with path.open("rb+") as stream:
            for line in stream:
                if not line.endswith(b"\n"):
                    break
                whole += len(line)
                kept = _decode_kept(line)
                self.done.add(kept.custom_id)
                if path == self._paths[0]:
                    self.completed += 1
                    self._bill(_read(kept.response.body)[1] if kept.response else None)
                elif kept.error is None:
                    self.failed += 1  # and with an error it was never run, which nobody counts
            stream.truncate(whole)

    def add(self, custom_id: str, answer: Answer) -> None:
        """Keep what the engine answered; a status of 4xx or 5xx is an error whose reason stands in the body."""
        status, body = answer.status_code, answer.body
        is_json, usage = _read(body)
        if not is_json:
            status, body = (502 if status in _OK else status), _no_json(body)
        elif b"\n" in body or b"\r" in body:
            body = msgspec.json.format(body, indent=-1)
        response = ResultResponse(status, secrets.token_hex(16), msgspec.Raw(body))
        if status in _OK:
            self._write(self._output_file, _Line(self._line_id(), custom_id, response, None))
            self.completed += 1
            self._bill(usage)
        else:
            self._write(self._error_file, _Line(self._line_id(), custom_id, response, None))
            self.failed += 1
        self.done.add(custom_id)

    def add_unexecuted(self, custom_id: str, error: ResultError) -> None:
        """Keep that a request was never run."""
        self._write(self._error_file, _Line(self._line_id(), custom_id, None, error))
        self.done.add(custom_id)

    def _line_id(self) -> str | msgspec.UnsetType:
        return f"batch_req_{secrets.token_hex(12)}" if self._with_ids else msgspec.UNSET

    @staticmethod
    def _write(stream: RawIOBase, line: _Line) -> None:
        stream.write(_encode(line) + b"\n")

    def _bill(self, usage: _Usage | None) -> None:
        if usage is None:
            return
        self._input += usage.input_tokens or usage.prompt_tokens or 0
        self._output += usage.output_tokens or usage.completion_tokens or 0
        read = usage.input_tokens_details or usage.prompt_tokens_details
        written = usage.output_tokens_details or usage.completion_tokens_details
        self._cached += (read.cached_tokens or 0) if read else 0
        self._reasoning += (written.reasoning_tokens or 0) if written else 0

    def counts(self, total: int) -> RequestCounts:
        return RequestCounts(total=total, completed=self.completed, failed=self.failed)

    def usage(self) -> Usage:
        return Usage(
            input_tokens=self._input,
            input_tokens_details=InputTokensDetails(cached_tokens=self._cached),
            output_tokens=self._output,
            output_tokens_details=OutputTokensDetails(reasoning_tokens=self._reasoning),
            total_tokens=self._input + self._output,
        )

    def close(self) -> None:
        for stream in (self._output_file, self._error_file):
            os.fsync(stream.fileno())
            stream.close()


def _appended(path: Path) -> RawIOBase:
    return open(path, "ab", buffering=0, opener=open_private)


def _read(body: bytes | msgspec.Raw) -> tuple[bool, _Usage | None]:
    """Whether a body is JSON, and the usage in it, if that can be read."""
    try:
        bytes(body).decode()
        try:
            return True, _decode_body(body).usage
        except msgspec.ValidationError:
            _decode_any(body)  # since that error comes before the rest is looked at
            return True, None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False, None


def _no_json(body: bytes) -> bytes:
    text = body[:1000].decode("utf-8", "replace")
    error = {"message": f"The engine's answer is no JSON: {text}", "type": "server_error", "param": None, "code": None}
    return _encode({"error": error})
