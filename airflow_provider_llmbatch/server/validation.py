"""Whether an input file can be run as a batch, in OpenAI's codes, with line numbers. Streams; remembers ids only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from airflow_provider_llmbatch.models import BatchError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_REQUESTS: Final = 50_000
_ERRORS_KEPT: Final = 100


class _Body(msgspec.Struct, gc=False):
    model: str | None = None
    stream: bool | None = None


class _Line(msgspec.Struct, gc=False):
    custom_id: str | None = None
    method: str | None = None
    url: str | None = None
    body: _Body | None = None


def validate(path: Path, *, endpoint: str) -> tuple[int, str | None, list[BatchError]]:
    """Read an input file to its end.

    :return: The number of requests, their model, and what is wrong with them (the first hundred findings).
    """
    check = _Validation(endpoint)
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if number > MAX_REQUESTS:
                check.add("too_many_tasks", f"The batch has more than the {MAX_REQUESTS} requests allowed.", None)
                break
            check.line(number, line)
            if len(check.errors) >= _ERRORS_KEPT:
                break
    if check.requests == 0 and not check.errors:
        check.add(
            "empty_file", "The input file is empty. Please ensure that the batch contains at least one request.", None
        )
    return check.requests, check.model, check.errors


class _Validation:
    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._decode = msgspec.json.Decoder(_Line).decode
        self._ids: set[str] = set()
        self.requests = 0
        self.model: str | None = None
        self.errors: list[BatchError] = []

    def add(self, code: str, message: str, line: int | None, param: str | None = None) -> None:
        self.errors.append(BatchError(code=code, message=message, param=param, line=line))

    def line(self, number: int, line: bytes) -> None:
        try:
            line.decode()
            request = self._decode(line)
        except msgspec.ValidationError as error:
            self.add("invalid_request", f"This line is no batch request: {error}.", number)
            return
        except (msgspec.DecodeError, UnicodeDecodeError):
            self.add("invalid_json_line", "This line is not parseable as valid JSON.", number)
            return
        self.requests += 1
        for code, message, param in self._problems(request):
            self.add(code, message, number, param)

    def _problems(self, request: _Line) -> Iterator[tuple[str, str, str | None]]:
        for name in ("custom_id", "method", "url", "body"):
            if getattr(request, name) is None:
                yield "missing_required_parameter", f"Missing required parameter: '{name}'.", name
        if request.custom_id is not None:
            if request.custom_id in self._ids:
                yield (
                    "duplicate_custom_id",
                    f"The custom_id '{request.custom_id}' for this request is a duplicate of another request.",
                    "custom_id",
                )
            self._ids.add(request.custom_id)
        if request.method not in (None, "POST"):
            yield "invalid_method", f"The method '{request.method}' is not supported. Use 'POST'.", "method"
        if request.url is not None and request.url != self._endpoint:
            yield (
                "url_mismatch",
                f"The URL '{request.url}' of this request does not match the batch endpoint '{self._endpoint}'.",
                "url",
            )
        if request.body is not None:
            yield from self._body_problems(request.body)

    def _body_problems(self, body: _Body) -> Iterator[tuple[str, str, str | None]]:
        if body.stream:
            yield "invalid_request", "Streaming is not supported in the Batch API.", "body.stream"
        self.model = self.model or body.model
        if body.model != self.model:
            yield (
                "model_mismatch",
                f"The model '{body.model}' does not match the model of the first request ('{self.model}').",
                "body.model",
            )
