"""Whether an input file can be run as a batch, in OpenAI's codes, with line numbers. Streams; remembers ids only."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec

from airflow_provider_llmbatch.models import BatchError
from airflow_provider_llmbatch.server.dialect import OPENAI

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airflow_provider_llmbatch.server.dialect import Dialect

_ERRORS_KEPT: Final = 100
_BOM: Final = b"\xef\xbb\xbf"
_Problem = tuple[str, str, str | None]  # code, message, param


class _Body(msgspec.Struct, gc=False):
    model: str | None = None
    stream: bool | None = None


class _Line(msgspec.Struct, gc=False):
    custom_id: str | None = None
    method: str | None = None
    url: str | None = None
    body: _Body | None = None


class _EmbeddingsBody(msgspec.Struct, gc=False):
    input: str | list[str | int | list[int]] | None = None


class _EmbeddingsLine(msgspec.Struct, gc=False):
    body: _EmbeddingsBody


_decode_line = msgspec.json.Decoder(_Line).decode
_decode_any = msgspec.json.Decoder(msgspec.Raw).decode
_decode_embeddings = msgspec.json.Decoder(_EmbeddingsLine).decode


def validate(path: Path, *, endpoint: str, dialect: Dialect = OPENAI) -> tuple[int, str | None, list[BatchError]]:
    """Read an input file to its end.

    :return: The number of requests, their model, and what is wrong with them (the first hundred findings).
    """
    check = _Validation(endpoint, dialect)
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if number > dialect.max_requests:
                message = f"The batch has more than the {dialect.max_requests} requests allowed."
                check.add("too_many_tasks", message, None)
                break
            if number == 1 and dialect.bom_error and line.startswith(_BOM):
                code, message = dialect.bom_error
                check.add(code, message, None)
                break
            check.line(number, line)
            if len(check.errors) >= _ERRORS_KEPT:
                break
    if check.requests == 0 and not check.errors:
        check.add(
            "empty_file", "The input file is empty. Please ensure that the batch contains at least one request.", None
        )
    return check.requests, check.model, check.errors[:_ERRORS_KEPT]


class FirstLine(msgspec.Struct, gc=False):
    """What the first line of an input file says of all of them."""

    url: str | None = None
    body: _Body = msgspec.field(default_factory=_Body)


_decode_first = msgspec.json.Decoder(FirstLine).decode


def first_line(path: Path) -> FirstLine:
    """Of an input file; empty if that is no line at all."""
    with suppress(msgspec.MsgspecError, OSError), path.open("rb") as stream:
        return _decode_first(stream.readline())
    return FirstLine()


class _Validation:
    def __init__(self, endpoint: str, dialect: Dialect) -> None:
        self._endpoint = endpoint
        self._dialect = dialect
        self._texts_left = dialect.max_requests if endpoint == "/v1/embeddings" else None
        self._ids: set[str] = set()
        self._has_body = False
        self.requests = 0
        self.model: str | None = None
        self.errors: list[BatchError] = []

    def add(self, code: str, message: str, line: int | None, param: str | None = None) -> None:
        self.errors.append(BatchError(code=code, message=message, param=param, line=line))

    def line(self, number: int, line: bytes) -> None:
        try:
            line.decode()
            request = self._request(number, line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.add("invalid_json_line", f"This line is not parseable as valid JSON{_why(number, line)}.", number)
            return
        if request is None:
            return
        self.requests += 1
        for code, message, param in self._problems(request):
            self.add(code, message, number, param)
        if self._texts_left is not None and request.body is not None:
            self._count_texts(number, line, self._texts_left)

    def _request(self, number: int, line: bytes) -> _Line | None:
        try:
            return _decode_line(line)
        except msgspec.ValidationError as error:
            _decode_any(line)  # since that error comes before the rest is looked at
            self.add("invalid_request", f"This line is no batch request: {error}.", number)
            return None

    def _problems(self, request: _Line) -> Iterator[_Problem]:
        for name in ("custom_id", "method", "url", "body"):
            if getattr(request, name) is None:
                yield "missing_required_parameter", f"Missing required parameter: '{name}'.", name
        if request.custom_id == "":
            yield "invalid_request", "The custom_id of this request is empty.", "custom_id"
        elif request.custom_id is not None:
            if request.custom_id in self._ids:
                yield (
                    "duplicate_custom_id",
                    f"The custom_id '{request.custom_id}' for this request is a duplicate of another request.",
                    "custom_id",
                )
            self._ids.add(request.custom_id)
        if request.method not in (None, "POST"):
            yield "invalid_method", f"The method '{request.method}' is not supported. Use 'POST'.", "method"
        if request.url is not None and self._dialect.full_endpoint(request.url) != self._endpoint:
            yield (
                "url_mismatch",
                f"The URL '{request.url}' of this request does not match the batch endpoint '{self._endpoint}'.",
                "url",
            )
        if request.body is not None:
            yield from self._body_problems(request.body)

    def _body_problems(self, body: _Body) -> Iterator[_Problem]:
        if body.stream:
            yield "invalid_request", "Streaming is not supported in the Batch API.", "body.stream"
        if not self._has_body:
            self._has_body, self.model = True, body.model
        elif body.model != self.model:
            yield (
                "model_mismatch",
                f"The model {_quoted(body.model)} is not the {_quoted(self.model)} of the first request.",
                "body.model",
            )

    def _count_texts(self, number: int, line: bytes, left: int) -> None:
        try:
            given = _decode_embeddings(line).body.input
        except msgspec.ValidationError:
            return  # the engine says what is wrong with it
        is_list_of_texts = isinstance(given, list) and not any(isinstance(each, int) for each in given)
        self._texts_left = left - (len(given) if is_list_of_texts and given is not None else 1)
        if left >= 0 > self._texts_left:
            message = f"The batch has more than the {self._dialect.max_requests} embedding inputs allowed."
            self.add("too_many_tasks", message, number, "body.input")


def _why(number: int, line: bytes) -> str:
    if number == 1 and line.startswith(_BOM):
        return " (it begins with a byte order mark)"
    return "" if line.strip() else " (it is blank)"


def _quoted(model: str | None) -> str:
    return "(none)" if model is None else f"'{model}'"
