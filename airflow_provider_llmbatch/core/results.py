"""What came back: the lines of both result files, merged so that every request ends in exactly one outcome.

Providers promise no order and no completeness, so lines are joined by ``custom_id``, and what neither file names is
looked up in the input file. One bad line costs one row, never the file. Lines stream; in memory are the ids of one
batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from airflow_provider_llmbatch.core.jsonl import split_lines
from airflow_provider_llmbatch.errors import BrokenTransferError, NotFoundError
from airflow_provider_llmbatch.models import Outcome, Result, ResultError, ResultResponse

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from structlog.typing import FilteringBoundLogger

    from airflow_provider_llmbatch.adapters.base import Adapter
    from airflow_provider_llmbatch.models import Batch

_OUTCOME_OF_CODE: Final[dict[str, Outcome]] = {"batch_expired": "expired", "batch_cancelled": "cancelled"}
_RESPONSES_ENDPOINT: Final = "/v1/responses"


class _Error(msgspec.Struct, gc=False):
    code: str | int | None = None
    type: str | None = None
    message: str | None = None


class _Line(msgspec.Struct, gc=False):
    """A result line as it comes; servers leave out whichever of the two does not apply, or send a bare text."""

    custom_id: str
    response: ResultResponse | None = None
    error: _Error | str | None = None


class _Body(msgspec.Struct, gc=False):
    """The parts of an answer's body that tell whether it is one."""

    status: str | int | None = None
    error: _Error | str | None = None


class _IdOnly(msgspec.Struct, gc=False):
    custom_id: str


# Not strict, since some servers send numbers as texts.
_decode_line = msgspec.json.Decoder(_Line, strict=False).decode
_decode_body = msgspec.json.Decoder(_Body, strict=False).decode
_decode_id = msgspec.json.Decoder(_IdOnly).decode


def merge_results(adapter: Adapter, batch: Batch, *, log: FilteringBoundLogger) -> Iterator[Result]:
    """Every request of an ended batch with its one outcome, in no particular order.

    :raises BrokenTransferError: A result file ended in the middle of a line; nothing is lost, a retry reads it again.
    :raises LLMBatchError: A result file cannot be had.
    """
    seen: set[str] = set()
    for file_id in (batch.output_file_id, batch.error_file_id):
        if file_id:
            yield from _results_of_file(adapter, file_id, batch, seen, log)
    # Servers that do not count send 0, so that says nothing.
    if len(seen) < batch.request_counts.total or not batch.request_counts.total:
        yield from _missing(adapter, batch, seen, log)


def _results_of_file(
    adapter: Adapter, file_id: str, batch: Batch, seen: set[str], log: FilteringBoundLogger
) -> Iterator[Result]:
    blocks = _Blocks(adapter.file_content(file_id))
    number = unreadable = 0
    for number, line in enumerate(split_lines(blocks), start=1):
        if not line.strip():
            continue
        try:
            result = result_of_line(line, endpoint=batch.endpoint)
        except msgspec.MsgspecError as error:
            unreadable = number
            log.warning(f"Line {number} of {file_id} cannot be read ({error}): its request counts as missing")
            continue
        if result.custom_id in seen:
            log.warning(f"Line {number} of {file_id} is a second result for {result.custom_id!r}: the first one counts")
            continue
        seen.add(result.custom_id)
        yield result
    if unreadable and unreadable == number and not blocks.ended_whole:
        raise BrokenTransferError(
            f"The result file {file_id} ended in the middle of line {number}. Nothing was lost at the provider or "
            "billed again, and nothing was written. A retry downloads it anew."
        )


class _Blocks:
    """Passes blocks on, and remembers whether the last one ended with a whole line."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = blocks
        self.ended_whole = True

    def __iter__(self) -> Iterator[bytes]:
        for block in self._blocks:
            self.ended_whole = block.endswith(b"\n")
            yield block


def _missing(adapter: Adapter, batch: Batch, seen: set[str], log: FilteringBoundLogger) -> Iterator[Result]:
    """The requests that no result names, from the input file."""
    count = 0
    try:
        for line in split_lines(adapter.file_content(batch.input_file_id or "")) if batch.input_file_id else ():
            try:
                custom_id = _decode_id(line).custom_id
            except msgspec.MsgspecError:
                continue  # blank, or never a request that could have been run
            if custom_id not in seen:
                seen.add(custom_id)
                count += 1
                yield Result(
                    custom_id, "missing", None, ResultError("missing", "Neither result file names this request.")
                )
    except NotFoundError:
        lacking = batch.request_counts.total - len(seen)
        if lacking > 0:
            log.warning(
                f"{lacking:,} of {batch.request_counts.total:,} requests are in neither result file, and their names "
                f"are not to be had, since the input file {batch.input_file_id} is gone: compare the ids with your "
                "input"
            )
    if count:
        log.warning(f"{count:,} requests are in neither result file of {batch.id}: written with the outcome missing")


def result_of_line(line: bytes, *, endpoint: str | None = None) -> Result:
    """One line of a result file with its outcome.

    :param endpoint: What the batch asked for; on the Responses API a 200 may still say that it failed.
    :raises msgspec.MsgspecError: It is no JSON, or has no ``custom_id``.
    """
    parsed = _decode_line(line)
    response = _with_decoded_text(parsed.response) if parsed.response is not None else None
    if parsed.error:
        error = _result_error(parsed.error)
        return Result(parsed.custom_id, _OUTCOME_OF_CODE.get(error.code or "", "failed"), response, error)
    if response is None:
        error = ResultError("no_response", "The result has neither a response nor an error.")
        return Result(parsed.custom_id, "failed", None, error)
    status = response.status_code
    if status is None or not 200 <= status < 300:  # 0 was seen as well
        error = _error_in_body(response) or ResultError(f"http_{status}", None)
        return Result(parsed.custom_id, "failed", response, error)
    if endpoint == _RESPONSES_ENDPOINT and _status_in_body(response) == "failed":
        error = _error_in_body(response) or ResultError("failed", None)
        return Result(parsed.custom_id, "failed", response, error)
    return Result(parsed.custom_id, "succeeded", response, None)


def _result_error(error: _Error | str) -> ResultError:
    if isinstance(error, str):
        return ResultError(None, error)
    code = error.code if error.code is not None else error.type
    return ResultError(None if code is None else str(code), error.message)


def _with_decoded_text(response: ResultResponse) -> ResultResponse:
    """Some servers send the body as a text that holds JSON; it becomes what it holds, on one line."""
    if bytes(response.body)[:1] != b'"':
        return response
    text = msgspec.json.decode(response.body, type=str)
    try:
        body = msgspec.Raw(msgspec.json.format(text.encode(), indent=-1))
    except msgspec.MsgspecError:
        return response
    return ResultResponse(response.status_code, response.request_id, body)


def _error_in_body(response: ResultResponse) -> ResultError | None:
    body = _read_body(response)
    return _result_error(body.error) if body and body.error else None


def _status_in_body(response: ResultResponse) -> str | int | None:
    body = _read_body(response)
    return body.status if body else None


def _read_body(response: ResultResponse) -> _Body | None:
    try:
        return _decode_body(response.body)
    except msgspec.MsgspecError:
        return None
