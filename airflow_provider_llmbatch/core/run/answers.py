"""The answers of one batch, landed in the stage: every row that was asked for with exactly one outcome.

Lines are ``{"ordinal", "again", "outcome", "text", …}``, in the order in which the provider gave them. What stands
before ``outcome`` is for the run alone; the rest is the row's end in the published set, which is made by splicing
bytes. The texts of answers are never decoded on the way unless a shape must read them.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from airflow_provider_llmbatch.core.jsonl import read_blocks, split_lines
from airflow_provider_llmbatch.core.results import merge_results
from airflow_provider_llmbatch.core.run.content import Answered, Content, Tokens, content_of, decoded_text, quick_answer
from airflow_provider_llmbatch.core.run.retriable import is_retriable
from airflow_provider_llmbatch.core.run.shape import MisfitError
from airflow_provider_llmbatch.models import Outcome, Result, ResultError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from structlog.typing import FilteringBoundLogger

    from airflow_provider_llmbatch.adapters.base import Adapter
    from airflow_provider_llmbatch.core.run.shape import Shape
    from airflow_provider_llmbatch.core.run.stage import Ordinals
    from airflow_provider_llmbatch.core.storage import Folder
    from airflow_provider_llmbatch.models import Batch, Usage

_NULL: Final = b"null"
_BUFFERED_BYTES: Final = 256 * 1024
_WORDS_KEPT: Final = 1_000
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class Landed:
    """What came back of one attempt at a part.

    :param outcomes: They add up to the rows that were asked for.
    :param usage: Tokens, summed over the rows, or the provider's own sum where rows tell nothing.
    :param unresolved: Rows that have no answer, and may get one in another attempt.
    :param bytes: Of the file of answers.
    """

    outcomes: Mapping[Outcome, int]
    usage: Usage
    unresolved: array[int]
    bytes: int


def answers_name(part: int, attempt: int) -> str:
    """The file of an attempt's answers in the stage."""
    return f"part-{part:05}.answers-{attempt}.jsonl"


def land(
    adapter: Adapter,
    batch: Batch,
    *,
    part: int,
    attempt: int,
    ordinals: Ordinals,
    folder: Folder,
    shape: Shape | None = None,
    model: str | None = None,
    keep_body: bool = False,
    log: FilteringBoundLogger,
) -> Landed:
    """Write the answers of an ended batch into the stage, whole or not at all; landing again is harmless.

    A batch that the provider failed as a whole fails each of its rows with the batch's own code.

    :param ordinals: The rows that were submitted in this attempt.
    :param shape: What a text must fit; one that does not is ``invalid``, and kept.
    :param model: What was asked for, for rows whose answer names no model.
    :param keep_body: Whether each answer's whole body is kept beside its fields.
    :raises BrokenTransferError: Less of a result file arrived than there is; a retry reads it again.
    :raises UnexpectedAnswerError: Something else than a result file arrived.
    :raises LLMBatchError: A result file cannot be had, or the stage cannot be written.
    """
    landing = _Landing(adapter.provider, batch, attempt, ordinals, shape, model or batch.model, keep_body=keep_body)
    pieces: list[bytes] = []
    pending = written = 0
    with folder.write(answers_name(part, attempt)) as stream:
        quick = None if keep_body else quick_answer
        for line in landing.lines(_results(adapter, batch, ordinals, quick, log)):
            pieces.append(line)
            pending += len(line)
            if pending >= _BUFFERED_BYTES:
                written += stream.write(b"".join(pieces))
                pieces.clear()
                pending = 0
        written += stream.write(b"".join(pieces))
    if landing.strangers:
        log.warning(f"{landing.strangers:,} results of {batch.id} name no request of it: left out")
    tokens = landing.tokens
    usage = tokens.as_usage() if tokens.total or batch.usage is None else batch.usage
    return Landed(dict(landing.outcomes), usage, landing.unresolved_in_order(), written)


def read_landed(folder: Folder, part: int, attempt: int) -> Landed | None:
    """What was landed before, from its file alone; ``None`` if there is none. The batch's own usage is not in it."""
    name = answers_name(part, attempt)
    size = folder.size(name)
    if size is None:
        return None
    outcomes: Counter[Outcome] = Counter()
    unresolved = array("Q")
    tokens = Tokens()
    with folder.read(name) as stream:
        for line in split_lines(read_blocks(stream)):
            kept = _decode_kept(line)
            outcomes[kept.outcome] += 1
            if kept.again:
                unresolved.append(kept.ordinal)
            if kept.usage is not None:
                tokens.add(kept.usage.tokens())
    return Landed(dict(outcomes), tokens.as_usage(), _sorted(unresolved), size)


def _results(
    adapter: Adapter,
    batch: Batch,
    ordinals: Ordinals,
    quick: Callable[[bytes], Answered | None] | None,
    log: FilteringBoundLogger,
) -> Iterator[Result | Answered]:
    if batch.status == "failed" and not batch.has_results:
        error = _error_of_batch(batch)
        return (Result(str(ordinal), "failed", None, error) for ordinal in ordinals)
    return merge_results(adapter, batch, ids=map(str, ordinals), quick=quick, log=log)


def _error_of_batch(batch: Batch) -> ResultError:
    first = batch.errors.data[0] if batch.errors and batch.errors.data else None
    code, message = (first.code, first.message) if first else (None, None)
    return ResultError(code or "batch_failed", message or f"The provider failed {batch.id} as a whole.")


class _Landing:
    """Lines out of results, with what is counted on the way."""

    def __init__(
        self,
        provider: str,
        batch: Batch,
        attempt: int,
        ordinals: Ordinals,
        shape: Shape | None,
        model: str | None,
        *,
        keep_body: bool,
    ) -> None:
        self.outcomes: Counter[Outcome] = Counter()
        self.tokens = Tokens()
        self.strangers = 0
        self._unresolved = array("Q")
        self._ordinals = ordinals
        self._shape = shape
        self._keep_body = keep_body
        self._model = _encode(model)
        self._words: dict[str, bytes] = {}
        self._error_of_batch = _error_of_batch(batch) if batch.status == "failed" else None
        self._provider = b',"provider":%b,"model":' % _encode(provider)
        self._end = b',"batch_id":%b,"attempt":%d}\n' % (_encode(batch.id), attempt)

    def lines(self, results: Iterator[Result | Answered]) -> Iterator[bytes]:
        for result in results:
            ordinal = self._ordinal(result.custom_id)
            if ordinal is None:
                self.strangers += 1
            elif isinstance(result, Answered):
                yield self._answer(ordinal, result.content)
            elif result.outcome == "succeeded":
                yield self._answer(ordinal, self._content(result))
            else:
                yield self._failure(ordinal, result)

    def unresolved_in_order(self) -> array[int]:
        return _sorted(self._unresolved)

    def _ordinal(self, custom_id: str) -> int | None:
        """``None`` for a name that was not asked for, such as "007" for 7."""
        if not (custom_id.isascii() and custom_id.isdecimal()) or (custom_id[0] == "0" and custom_id != "0"):
            return None
        ordinal = int(custom_id) if len(custom_id) < 20 else -1
        if isinstance(self._ordinals, range):
            return ordinal if ordinal in self._ordinals else None
        at = bisect_left(self._ordinals, ordinal)
        return ordinal if at < len(self._ordinals) and self._ordinals[at] == ordinal else None

    def _content(self, result: Result) -> Content:
        body = result.response.body if result.response is not None else msgspec.Raw(_NULL)
        content = content_of(body)
        if self._keep_body:
            content.body = bytes(body)
        return content

    def _answer(self, ordinal: int, content: Content) -> bytes:
        outcome: Outcome = "succeeded"
        parsed = error = _NULL
        if self._shape is not None:
            try:
                parsed = self._fitted(self._shape, content)
            except MisfitError as misfit:
                outcome, error = "invalid", _encode(ResultError(misfit.code, str(misfit)))
        self.outcomes[outcome] += 1
        return self._line(ordinal, outcome, content, parsed, error)

    @staticmethod
    def _fitted(shape: Shape, content: Content) -> bytes:
        text = decoded_text(content.text)
        if text is None:
            raise MisfitError("no_text", "The answer has no text" + (" but a refusal." if content.refusal else "."))
        return shape.fit(text)

    def _failure(self, ordinal: int, result: Result) -> bytes:
        outcome, error = result.outcome, result.error
        status = result.response.status_code if result.response is not None else None
        if outcome == "missing" and self._error_of_batch is not None:
            outcome, error = "failed", self._error_of_batch
        self.outcomes[outcome] += 1
        again = outcome != "failed" or is_retriable(error, status)
        if again:
            self._unresolved.append(ordinal)
        # What failed may have been billed all the same: a response that broke off, for one.
        content = content_of(result.response.body) if result.response is not None else Content()
        content.body = content.finish_reason = None
        return self._line(ordinal, outcome, content, _NULL, _encode(error), again=again)

    def _line(
        self, ordinal: int, outcome: Outcome, content: Content, parsed: bytes, error: bytes, *, again: bool = False
    ) -> bytes:
        tokens = content.tokens
        if tokens is not None:
            self.tokens.add(tokens)
        return b"".join(
            (
                b'{"ordinal":%d,"again":%b,"outcome":"%b","text":'
                % (ordinal, b"true" if again else b"false", outcome.encode()),
                content.text,
                b',"parsed":',
                parsed,
                b',"error":',
                error,
                b',"finish_reason":',
                self._encoded(content.finish_reason) if content.finish_reason else _NULL,
                b',"usage":',
                tokens.as_json() if tokens is not None else _NULL,
                _extras(content),
                self._provider,
                self._encoded(content.model) if content.model else self._model,
                self._end,
            )
        )

    def _encoded(self, word: str) -> bytes:
        """Of the few words that nearly all lines share."""
        encoded = self._words.get(word)
        if encoded is None:
            encoded = _encode(word)
            if len(self._words) < _WORDS_KEPT:
                self._words[word] = encoded
        return encoded


def _extras(content: Content) -> bytes:
    """Fields that few endpoints have, named only where there is something in them."""
    if content.tool_calls is content.refusal is content.embedding is content.body is None:
        return b""
    extras = b""
    for name in ("refusal", "tool_calls", "embedding", "body"):
        value: bytes | None = getattr(content, name)
        if value is not None:
            extras += b',"%b":%b' % (name.encode(), value)
    return extras


def _sorted(ordinals: array[int]) -> array[int]:
    return array("Q", sorted(ordinals))


class _Cached(msgspec.Struct, gc=False):
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class _KeptUsage(msgspec.Struct, gc=False):
    input_tokens: int
    input_tokens_details: _Cached
    output_tokens: int
    output_tokens_details: _Cached
    total_tokens: int

    def tokens(self) -> Tokens:
        cached, reasoning = self.input_tokens_details.cached_tokens, self.output_tokens_details.reasoning_tokens
        return Tokens(self.input_tokens, cached, self.output_tokens, reasoning, self.total_tokens)


class _Kept(msgspec.Struct, gc=False):
    ordinal: int
    again: bool
    outcome: Outcome
    usage: _KeptUsage | None = None


_decode_kept = msgspec.json.Decoder(_Kept).decode
