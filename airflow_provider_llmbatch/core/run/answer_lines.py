"""The lines of answers: what one result becomes, as bytes, and what is counted on the way."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING, Final

import msgspec

from airflow_provider_llmbatch.core.run.content import Content, content_of, decoded_text
from airflow_provider_llmbatch.core.run.quick_answer import Answered
from airflow_provider_llmbatch.core.run.retriable import is_retriable
from airflow_provider_llmbatch.core.run.shape import MisfitError
from airflow_provider_llmbatch.models import ResultError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_llmbatch.core.costs.meter import Meter
    from airflow_provider_llmbatch.core.run.shape import Shape
    from airflow_provider_llmbatch.core.run.stage import Ordinals
    from airflow_provider_llmbatch.models import Batch, Outcome, Result

_NULL: Final = b"null"
_WORDS_KEPT: Final = 1_000
_CUT_OFF: Final = ". The answer was cut off at its limit of tokens (finish_reason length): allow more of them."
_MOST_REASONS: Final = 100  # that are told apart
_encode = msgspec.json.Encoder().encode

Line = tuple[bytes, bytes, bytes]
"""In three pieces, of which the second is the text: long as it may be, it is copied only once, to the file."""


class AnswerLines:
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
        meter: Meter,
        keep_body: bool,
    ) -> None:
        self.outcomes: Counter[Outcome] = Counter()
        self.strangers = 0
        self.reasons: Counter[str] = Counter()
        self._unresolved = array("Q")
        self._ordinals = ordinals
        self._shape = shape
        self._meter = meter
        self._keep_body = keep_body
        self._model = _encode(model)
        self._words: dict[str, bytes] = {}
        self._error_of_batch = error_of_batch(batch) if batch.status == "failed" else None
        self._provider = b',"provider":%b,"model":' % _encode(provider)
        self._end = b',"batch_id":%b,"attempt":%d}\n' % (_encode(batch.id), attempt)
        self._is_asked = ordinals.__contains__ if isinstance(ordinals, range) else self._is_among

    def lines(self, results: Iterator[Result | Answered]) -> Iterator[Line]:
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
        return array("Q", sorted(self._unresolved))

    def _ordinal(self, custom_id: str) -> int | None:
        """``None`` for a name that was not asked for, such as "007" for 7."""
        try:
            ordinal = int(custom_id)
        except ValueError:
            return None
        return ordinal if str(ordinal) == custom_id and self._is_asked(ordinal) else None

    def _is_among(self, ordinal: int) -> bool:
        at = bisect_left(self._ordinals, ordinal)
        return at < len(self._ordinals) and self._ordinals[at] == ordinal

    def _content(self, result: Result) -> Content:
        body = result.response.body if result.response is not None else msgspec.Raw(_NULL)
        content = content_of(body)
        if self._keep_body:
            content.body = bytes(body)
        return content

    def _answer(self, ordinal: int, content: Content) -> Line:
        outcome: Outcome = "succeeded"
        parsed = error = _NULL
        if self._shape is not None:
            try:
                parsed = self._fitted(self._shape, content)
            except MisfitError as misfit:
                why = f"{misfit}{_CUT_OFF if content.finish_reason == 'length' else ''}"
                outcome, error = "invalid", _encode(ResultError(misfit.code, why))
                self.reasons[misfit.code] += 1
        self.outcomes[outcome] += 1
        cost = self._meter.answered(content.model, content.tokens)
        return self._line(ordinal, outcome, content, parsed, error, cost)

    @staticmethod
    def _fitted(shape: Shape, content: Content) -> bytes:
        text = decoded_text(content.text)
        if text is None:
            raise MisfitError("no_text", "The answer has no text" + (" but a refusal." if content.refusal else "."))
        return shape.fit(text)

    def _failure(self, ordinal: int, result: Result) -> Line:
        outcome, error = result.outcome, result.error
        status = result.response.status_code if result.response is not None else None
        if outcome == "missing" and self._error_of_batch is not None:
            outcome, error = "failed", self._error_of_batch
        self.outcomes[outcome] += 1
        code = (error.code if error else None) or outcome
        if code in self.reasons or len(self.reasons) < _MOST_REASONS:
            self.reasons[code] += 1
        again = outcome != "failed" or is_retriable(error, status)
        if again:
            self._unresolved.append(ordinal)
        # What failed may have been billed all the same: a response that broke off, for one.
        content = content_of(result.response.body) if result.response is not None else Content()
        content.body = content.finish_reason = None
        cost = self._meter.unanswered(content.model, content.tokens)
        return self._line(ordinal, outcome, content, _NULL, _encode(error), cost, again=again)

    def _line(
        self,
        ordinal: int,
        outcome: Outcome,
        content: Content,
        parsed: bytes,
        error: bytes,
        cost: bytes,
        *,
        again: bool = False,
    ) -> Line:
        tokens = content.tokens
        return (
            b'{"ordinal":%d,"again":%b,"outcome":"%b","text":'
            % (ordinal, b"true" if again else b"false", outcome.encode()),
            content.text,
            b',"parsed":%b,"error":%b,"finish_reason":%b,"usage":%b,"cost_usd":%b%b%b%b%b'
            % (
                parsed,
                error,
                self._encoded(content.finish_reason) if content.finish_reason else _NULL,
                tokens.as_json() if tokens is not None else _NULL,
                cost,
                _extras(content),
                self._provider,
                self._encoded(content.model) if content.model else self._model,
                self._end,
            ),
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
    if content.tool_calls is content.refusal is content.reasoning is content.embedding is content.body is None:
        return b""
    extras = b""
    for name in ("refusal", "tool_calls", "reasoning", "embedding", "body"):
        value: bytes | None = getattr(content, name)
        if value is not None:
            extras += b',"%b":%b' % (name.encode(), value)
    return extras


def error_of_batch(batch: Batch) -> ResultError:
    """Why a batch that failed as a whole did, as the error of each of its rows."""
    first = batch.errors.data[0] if batch.errors and batch.errors.data else None
    code, message = (first.code, first.message) if first else (None, None)
    return ResultError(code or "batch_failed", message or f"The provider failed {batch.id} as a whole.")
