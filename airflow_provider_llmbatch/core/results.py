"""What came back: the lines of both result files, merged so that every request ends in exactly one outcome.

Providers promise no order and no completeness, so lines are joined by ``custom_id``, and what neither file names is
looked up in the input file. One bad line costs one row, never the file. Lines stream; in memory are the ids of one
batch.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, overload

import msgspec

from airflow_provider_llmbatch.adapters.lines import split_lines
from airflow_provider_llmbatch.core.jsonl import BOM
from airflow_provider_llmbatch.errors import (
    BrokenTransferError,
    NotFoundError,
    RequestRefusedError,
    UnexpectedAnswerError,
)
from airflow_provider_llmbatch.models import Outcome, Result, ResultError, ResultResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from structlog.typing import FilteringBoundLogger

    from airflow_provider_llmbatch.adapters.base import Adapter
    from airflow_provider_llmbatch.models import Batch

_OUTCOME_OF_CODE: Final[dict[str, Outcome]] = {"batch_expired": "expired", "batch_cancelled": "cancelled"}
_MISSING: Final[tuple[Outcome, str, str]] = (
    "missing",
    "missing",
    "No result that can be read names this request.",
)
# What OpenAI's error file says of requests that were never run, for a provider that says nothing of them.
_UNEXECUTED: Final[dict[str, tuple[Outcome, str, str]]] = {
    "expired": ("expired", "batch_expired", "This request was not answered before the batch expired."),
    "cancelled": ("cancelled", "batch_cancelled", "This request was not answered before the batch was cancelled."),
}
_RESPONSES_ENDPOINT: Final = "/v1/responses"
_FAILED: Final = b'"failed"'
_QUOTE: Final = ord('"')
_WARNINGS_SHOWN: Final = 5


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

    object: Any = None
    status: str | int | None = None
    error: _Error | str | None = None


class _IdOnly(msgspec.Struct, gc=False):
    custom_id: str


# Not strict, since some servers send numbers as texts.
_decode_line = msgspec.json.Decoder(_Line, strict=False).decode
_decode_body = msgspec.json.Decoder(_Body, strict=False).decode
_decode_id = msgspec.json.Decoder(_IdOnly).decode


class Named(Protocol):
    custom_id: str


NamedT = TypeVar("NamedT", bound=Named)


@overload
def merge_results(
    adapter: Adapter, batch: Batch, *, log: FilteringBoundLogger, ids: Iterable[str] | None = None
) -> Iterator[Result]: ...


@overload
def merge_results(
    adapter: Adapter,
    batch: Batch,
    *,
    log: FilteringBoundLogger,
    ids: Iterable[str] | None = None,
    quick: Callable[[bytes], NamedT | None] | None,
) -> Iterator[Result | NamedT]: ...


def merge_results(
    adapter: Adapter,
    batch: Batch,
    *,
    log: FilteringBoundLogger,
    ids: Iterable[str] | None = None,
    quick: Callable[[bytes], Any] | None = None,
) -> Iterator[Any]:
    """Every request of an ended batch with its one outcome, in no particular order.

    A line that cannot be read costs that request its answer, and is warned of.

    :param ids: Of all requests, where the caller knows them; else the input file must tell who lacks a result.
    :param quick: A shorter way through a line, which takes the place of its result; ``None`` where it has none.
    :raises BrokenTransferError: Less of a result file arrived than there is; nothing is lost, a retry reads it again.
    :raises UnexpectedAnswerError: Something else than a result file arrived.
    :raises NotFoundError: A result file is gone, and was that of a batch that was completed, or names what never ran.
    :raises LLMBatchError: A result file cannot be had.
    """
    seen: set[str] = set()
    readable = True
    ends_untold = not adapter.names_unexecuted and batch.status != "completed"
    # What the end of a batch says of those that no result names.
    end = _UNEXECUTED.get(batch.status) if ends_untold else None
    for file_id in dict.fromkeys((batch.output_file_id, batch.error_file_id)):  # some servers name one file twice
        if file_id:
            try:
                readable = (yield from _results_of_file(adapter, file_id, batch, seen, log, quick)) and readable
            except NotFoundError as error:
                if not ends_untold:
                    raise
                # It may never have been written, but that it was deleted with answers in it is as likely.
                end = None
                log.warning(
                    f"{error} {batch.id} ended as {batch.status} after it had begun: what it had answered by then is "
                    "billed, and cannot be told from what it never began"
                )
    # Servers that do not count send 0, so that says nothing; and who does not name what never ran may not count it.
    total = batch.request_counts.total
    if ids is not None or not readable or len(seen) < total or not total or ends_untold:
        yield from _missing(adapter, batch, seen, log, ids, end or _MISSING)


def _results_of_file(
    adapter: Adapter,
    file_id: str,
    batch: Batch,
    seen: set[str],
    log: FilteringBoundLogger,
    quick: Callable[[bytes], Any] | None,
) -> Generator[Any, None, bool]:
    """What a file holds for requests that are not seen yet; returns whether every line could be read."""
    lines = _Lines(adapter.file_content(file_id))
    warn = _Warnings(log)
    readable = unreadable = last_unreadable = 0
    for number, line in lines.numbered():
        try:
            result, problem = quick(line) if quick is not None else None, None
            if result is None:
                result, problem = _result_and_problem(line, batch.endpoint)
        except (ValueError, RecursionError) as error:
            unreadable, last_unreadable = unreadable + 1, number
            warn(f"Line {number} of {file_id} cannot be read ({error}): its request counts as missing")
            continue
        readable += 1
        if problem:
            warn(f"Line {number} of {file_id} {problem}")
        if result.custom_id in seen:
            warn(f"Line {number} of {file_id} is a second result for {result.custom_id!r}: the first one counts")
            continue
        seen.add(result.custom_id)
        yield result
    warn.rest(file_id)
    if unreadable:
        _check_whole(adapter, file_id, lines, cut_off=lines.ended_within(last_unreadable), readable=readable)
    return not unreadable


class _Lines:
    """Lines of a file that are not blank, with what tells afterwards whether all of it came."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = blocks
        self.bytes = 0
        self.number = 0
        self.ended_whole = True

    def numbered(self) -> Iterator[tuple[int, bytes]]:
        for line in split_lines(self._counted()):
            self.number += 1
            content = line.removeprefix(BOM) if self.number == 1 else line
            if content.strip():
                yield self.number, content

    def ended_within(self, number: int) -> bool:
        """Whether that line is the last one, and lacks its end."""
        return number == self.number and not self.ended_whole

    def _counted(self) -> Iterator[bytes]:
        for block in self._blocks:
            self.bytes += len(block)
            self.ended_whole = block.endswith(b"\n")
            yield block


class _Warnings:
    """The first few of a file one by one, the rest as a number: a file may be wrong on every line."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        self._log = log
        self._count = 0

    def __call__(self, text: str) -> None:
        self._count += 1
        if self._count <= _WARNINGS_SHOWN:
            self._log.warning(text)

    def rest(self, file_id: str) -> None:
        if self._count > _WARNINGS_SHOWN:
            self._log.warning(f"{self._count - _WARNINGS_SHOWN:,} more lines of {file_id} are like that")


def _check_whole(adapter: Adapter, file_id: str, lines: _Lines, *, cut_off: bool, readable: int) -> None:
    """Refuse a file that looks broken, unless it is so at the provider too, where a retry would find the same."""
    if adapter.verifies_downloads or (readable and not cut_off):
        return
    try:
        if adapter.retrieve_file(file_id).bytes == lines.bytes:
            return
    except RequestRefusedError:
        pass  # some servers give a file's content, but do not know its size
    if cut_off:
        raise BrokenTransferError(
            f"The file {file_id} ended in the middle of line {lines.number}. Nothing was lost at the provider or "
            "billed again, and nothing was written. A retry downloads it anew."
        )
    raise UnexpectedAnswerError(
        f"The {lines.bytes:,} bytes that came for the file {file_id} hold no line of a batch at all, and are not its "
        "size, so something else than the API answered. Nothing was lost at the provider or billed again, and nothing "
        "was written. A retry downloads it anew; if that does not help, mend the connection's base URL."
    )


def _missing(
    adapter: Adapter,
    batch: Batch,
    seen: set[str],
    log: FilteringBoundLogger,
    ids: Iterable[str] | None,
    end: tuple[Outcome, str, str],
) -> Iterator[Result]:
    """The requests that no result names, from the caller's ids, else from the input file.

    :param end: Outcome of each, with code and message of its error.
    """
    count = 0
    gone = not batch.input_file_id
    outcome, code, why = end
    total = batch.request_counts.total if ids is None else 0
    if ids is None:
        ids = _ids_of_input(adapter, batch.input_file_id) if batch.input_file_id else ()
    try:
        for custom_id in ids:
            if custom_id not in seen:
                seen.add(custom_id)
                count += 1
                yield Result(custom_id, outcome, None, ResultError(code, why))
    except RequestRefusedError:
        gone = True
    if count:
        log.warning(f"{count:,} requests have no result of {batch.id} that can be read: their outcome is {outcome}")
    lacking = total - len(seen)
    if lacking > 0:
        why = f"since the input file {batch.input_file_id} is gone" if gone else "not even from the input file"
        log.warning(
            f"{lacking:,} of {total:,} requests are in neither result file, and their names "
            f"are not to be had, {why}: compare the ids with your input"
        )


def _ids_of_input(adapter: Adapter, file_id: str) -> Iterator[str]:
    lines = _Lines(adapter.input_ids(file_id))
    readable = last_unreadable = 0
    for number, line in lines.numbered():
        try:
            custom_id = _decode_id(line).custom_id
        except (msgspec.MsgspecError, RecursionError):
            last_unreadable = number  # never a request that could have been run
        else:
            readable += 1
            yield custom_id
    if last_unreadable:
        _check_whole(adapter, file_id, lines, cut_off=lines.ended_within(last_unreadable), readable=readable)


def _result_and_problem(line: bytes, endpoint: str | None) -> tuple[Result, str | None]:
    """A line's result, and what is wrong with it, if anything is; raises if it names no request."""
    problem = None
    try:
        if not line.isascii():
            line.decode()  # msgspec does not look at what it leaves undecoded
        return result_of_line(line, endpoint=endpoint), None
    except msgspec.ValidationError as error:
        problem = f"has another shape than a result ({error}): its request counts as failed"
    except (msgspec.DecodeError, UnicodeDecodeError):
        line = _mended(line)
        problem = "is not quite JSON (NaN, half a character, or not UTF-8): kept, with null or ? in those places"
    try:
        return result_of_line(line, endpoint=endpoint), problem
    except msgspec.ValidationError as error:
        failed = ResultError("unreadable_result", f"The result has another shape than a result should have: {error}")
        return Result(_decode_id(line).custom_id, "failed", None, failed), problem


def _mended(line: bytes) -> bytes:
    """JSON of what Python's own ``json`` writes, though JSON knows it not; an answer that was paid for is worth it."""
    content = json.loads(line.decode("utf-8", "replace"), parse_constant=lambda _: None)
    return json.dumps(content, ensure_ascii=False).encode("utf-8", "replace")


def result_of_line(line: bytes, *, endpoint: str | None = None) -> Result:
    """One line of a result file with its outcome.

    :param endpoint: What the batch asked for; on the Responses API a 200 may still say that it failed.
    :raises msgspec.MsgspecError: It is no JSON, or has no ``custom_id``.
    """
    parsed = _decode_line(line)
    response = _with_decoded_text(parsed.response) if parsed.response is not None else None
    error = _result_error(parsed.error)
    if error is not None:
        return Result(parsed.custom_id, _OUTCOME_OF_CODE.get(error.code or "", "failed"), response, error)
    if response is None:
        error = ResultError("no_response", "The result has neither a response nor an error.")
        return Result(parsed.custom_id, "failed", None, error)
    status = response.status_code
    if status is None or not 200 <= status < 300:  # 0 was seen as well
        error = _error_in_body(response) or ResultError("no_status" if status is None else f"http_{status}", None)
        return Result(parsed.custom_id, "failed", response, error)
    if _is_failed_response(response, endpoint):
        error = _error_in_body(response) or ResultError("failed", None)
        return Result(parsed.custom_id, "failed", response, error)
    return Result(parsed.custom_id, "succeeded", response, None)


def _result_error(error: _Error | str | None) -> ResultError | None:
    """``None`` also for an error that says nothing, as some servers send with a good answer."""
    if isinstance(error, str):
        return ResultError(None, error) if error else None
    code = (error.code or error.type) if error is not None else None
    message = error.message if error is not None else None
    return ResultError(str(code) if code else None, message) if code or message else None


def _with_decoded_text(response: ResultResponse) -> ResultResponse:
    """Some servers send the body as a text that holds a JSON object; it becomes what it holds, on one line.

    Any other text is one, such as a transcript, which may well be "null" or "7".
    """
    if memoryview(response.body)[0] != _QUOTE:
        return response
    text = msgspec.json.decode(response.body, type=str)
    if not text.lstrip().startswith("{"):
        return response
    try:
        body = msgspec.Raw(msgspec.json.format(text.encode(), indent=-1))
    except msgspec.MsgspecError:
        return response
    return ResultResponse(response.status_code, response.request_id, body)


def _error_in_body(response: ResultResponse) -> ResultError | None:
    body = _read_body(response)
    return _result_error(body.error) if body else None


def _is_failed_response(response: ResultResponse, endpoint: str | None) -> bool:
    """Whether it is of the Responses API and failed; its body tells too, since Azure calls every batch one of chat."""
    if _FAILED not in bytes(response.body):  # much faster than decoding, and true of nearly every answer
        return False
    body = _read_body(response)
    return (
        body is not None and body.status == "failed" and (endpoint == _RESPONSES_ENDPOINT or body.object == "response")
    )


def _read_body(response: ResultResponse) -> _Body | None:
    try:
        return _decode_body(response.body)
    except msgspec.MsgspecError:
        return None
