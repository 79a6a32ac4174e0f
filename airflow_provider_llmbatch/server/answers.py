"""The answers of a running batch, line by line on disk, so that a kill loses nothing but what was in flight."""

from __future__ import annotations

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

if TYPE_CHECKING:
    from io import RawIOBase
    from pathlib import Path

    from airflow_provider_llmbatch.server.engines.base import Answer

_OK: Final = range(200, 300)


class _Line(msgspec.Struct, gc=False):
    id: str
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


class _KeptResponse(msgspec.Struct, gc=False):
    body: _Body | None = None


class _KeptLine(msgspec.Struct, gc=False):
    custom_id: str
    response: _KeptResponse | None = None


_encode = msgspec.json.Encoder().encode
_decode_body = msgspec.json.Decoder(_Body).decode
_decode_kept = msgspec.json.Decoder(_KeptLine).decode


class Answers:
    """Two files that grow by whole lines: answers, and everything else.

    :param output: Where answers go.
    :param error: Where requests go that have none.
    """

    def __init__(self, output: Path, error: Path) -> None:
        self._paths = (output, error)
        self.done: set[str] = set()
        self.completed = self.failed = 0
        self._input = self._cached = self._output = self._reasoning = 0
        for path in self._paths:
            self._recover(path)
        self._output_file, self._error_file = (path.open("ab", buffering=0) for path in self._paths)

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
                    self._bill(kept.response.body if kept.response else None)
                else:
                    self.failed += 1
            stream.truncate(whole)

    def add(self, custom_id: str, answer: Answer) -> None:
        """Keep what the engine answered; a status of 4xx or 5xx is an error whose reason stands in the body."""
        body = _one_line(answer.body)
        response = ResultResponse(answer.status_code, secrets.token_hex(16), msgspec.Raw(body))
        if answer.status_code in _OK:
            self._write(self._output_file, _Line(_line_id(), custom_id, response, None))
            self.completed += 1
            self._bill(_body_of(body))
        else:
            self._write(self._error_file, _Line(_line_id(), custom_id, response, None))
            self.failed += 1
        self.done.add(custom_id)

    def add_unexecuted(self, custom_id: str, error: ResultError) -> None:
        """Keep that a request was never run."""
        self._write(self._error_file, _Line(_line_id(), custom_id, None, error))
        self.done.add(custom_id)

    @staticmethod
    def _write(stream: RawIOBase, line: _Line) -> None:
        stream.write(_encode(line) + b"\n")

    def _bill(self, body: _Body | None) -> None:
        usage = body.usage if body else None
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
        self._output_file.close()
        self._error_file.close()


def _line_id() -> str:
    return f"batch_req_{secrets.token_hex(12)}"


def _one_line(body: bytes) -> bytes:
    """A body that fits on a line of its own; what is no JSON becomes an error that quotes it."""
    try:
        return msgspec.json.format(body, indent=-1) if b"\n" in body or not body.startswith(b"{") else body
    except msgspec.MsgspecError:
        text = body[:1000].decode("utf-8", "replace")
        return _encode({"error": {"message": f"No JSON: {text}", "type": "server_error", "param": None, "code": None}})


def _body_of(body: bytes) -> _Body | None:
    try:
        return _decode_body(body)
    except msgspec.MsgspecError:
        return None
