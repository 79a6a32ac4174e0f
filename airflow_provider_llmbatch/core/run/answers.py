"""The answers of one batch, landed in the stage: every row that was asked for with exactly one outcome.

Lines are ``{"ordinal", "again", "outcome", "text", …}``, in the order in which the provider gave them. What stands
before ``outcome`` is for the run alone; the rest is the row's end in the published set, which is made by splicing
bytes. The texts of answers are never decoded on the way unless a shape must read them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from airflow_provider_llmbatch.core.costs.meter import Meter
from airflow_provider_llmbatch.core.costs.prices import Prices
from airflow_provider_llmbatch.core.costs.tokens import tokens_of_usage
from airflow_provider_llmbatch.core.results import merge_results
from airflow_provider_llmbatch.core.run.answer_lines import AnswerLines, error_of_batch
from airflow_provider_llmbatch.core.run.quick_answer import quick_answer
from airflow_provider_llmbatch.models import Outcome, Result

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable, Iterator, Mapping

    from structlog.typing import FilteringBoundLogger

    from airflow_provider_llmbatch.adapters.base import Adapter
    from airflow_provider_llmbatch.core.costs.bill import Costs
    from airflow_provider_llmbatch.core.run.quick_answer import Answered
    from airflow_provider_llmbatch.core.run.shape import Shape
    from airflow_provider_llmbatch.core.run.stage import Ordinals
    from airflow_provider_llmbatch.core.storage import Folder
    from airflow_provider_llmbatch.models import Batch, Usage

_BUFFERED_BYTES: Final = 256 * 1024


@dataclass(frozen=True)
class Landed:
    """What came back of one attempt at a part.

    :param outcomes: They add up to the rows that were asked for.
    :param usage: Tokens, summed over the rows, or the provider's own sum where rows tell nothing.
    :param costs: Of this attempt alone; ``None`` of what was landed before, whose file has no prices but its rows'.
    :param unresolved: Rows that have no answer, and may get one in another attempt.
    :param bytes: Of the file of answers.
    :param reasons: How often each error code stands in it; not known of what was landed before.
    """

    outcomes: Mapping[Outcome, int]
    usage: Usage
    unresolved: array[int]
    bytes: int
    costs: Costs | None = field(default=None, compare=False)
    reasons: Mapping[str, int] = field(default_factory=dict, compare=False)


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
    prices: Prices | None = None,
    log: FilteringBoundLogger,
) -> Landed:
    """Write the answers of an ended batch into the stage, whole or not at all; landing again is harmless.

    A batch that the provider failed as a whole fails each of its rows with the batch's own code.

    :param ordinals: The rows that were submitted in this attempt.
    :param shape: What a text must fit; one that does not is ``invalid``, and kept.
    :param model: What was asked for, for rows whose answer names no model.
    :param prices: What answers cost; by default that is not known of any.
    :param keep_body: Whether each answer's whole body is kept beside its fields.
    :raises BrokenTransferError: Less of a result file arrived than there is; a retry reads it again.
    :raises UnexpectedAnswerError: Something else than a result file arrived.
    :raises LLMBatchError: A result file cannot be had, or the stage cannot be written.
    """
    asked = model or batch.model
    when = batch.created_at if batch.created_at is not None else time.time()
    meter = Meter(prices or Prices(), when, asked)
    landing = AnswerLines(adapter.provider, batch, attempt, ordinals, shape, asked, meter=meter, keep_body=keep_body)
    pieces: list[bytes] = []
    pending = written = 0
    with folder.write(answers_name(part, attempt)) as stream:
        quick = None if keep_body else quick_answer
        for line in landing.lines(_results(adapter, batch, ordinals, quick, log)):
            pieces += line
            pending += len(line[1]) + len(line[2])
            if pending >= _BUFFERED_BYTES:
                written += stream.write(b"".join(pieces))
                pieces.clear()
                pending = 0
        written += stream.write(b"".join(pieces))
    if landing.strangers:
        log.warning(f"{landing.strangers:,} results of {batch.id} name no request of it: left out")
    usage = meter.tokens.as_usage()
    if not usage.total_tokens and batch.usage is not None:
        usage = batch.usage
        meter.whole(tokens_of_usage(usage))
    unresolved = landing.unresolved_in_order()
    return Landed(dict(landing.outcomes), usage, unresolved, written, meter.costs(), dict(landing.reasons))


def _results(
    adapter: Adapter,
    batch: Batch,
    ordinals: Ordinals,
    quick: Callable[[bytes], Answered | None] | None,
    log: FilteringBoundLogger,
) -> Iterator[Result | Answered]:
    if batch.status == "failed" and not batch.has_results:
        error = error_of_batch(batch)
        return (Result(str(ordinal), "failed", None, error) for ordinal in ordinals)
    return merge_results(adapter, batch, ids=map(str, ordinals), quick=quick, log=log)
