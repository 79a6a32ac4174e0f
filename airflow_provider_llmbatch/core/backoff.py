"""Waiting for room in a queue of tokens that is full, decided without I/O: when to submit again, and when to give up.

A refusal for the queue costs nothing and says nothing against the input. What is waited for is that other batches end,
which takes minutes to hours, so tries begin a minute apart and double up to half an hour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from airflow_provider_llmbatch.adapters.backpressure import QUEUE_FULL, queue_full, says_queue_is_full

if TYPE_CHECKING:
    from airflow_provider_llmbatch.core.ledger import BatchRecord, Ledger
    from airflow_provider_llmbatch.errors import EnqueuedTokenLimitError
    from airflow_provider_llmbatch.models import Batch

_FIRST_PAUSE: Final = 60.0
_LONGEST_PAUSE: Final = 1800.0
_DOUBLINGS: Final = 10  # more than it takes to reach the longest pause
_JITTER: Final = 0.25


@dataclass(frozen=True)
class Queueing:
    """How long an input has been waiting for room.

    :param since: The first refusal, in seconds since 1970.
    :param refusals: How many there were.
    """

    since: float
    refusals: int


def next_try(
    queueing: Queueing, now: float, deadline: float, *, jitter: float = 0.0, retry_after: float | None = None
) -> float | None:
    """When to submit again, in seconds since 1970; ``None`` once the deadline has passed.

    :param deadline: In seconds since 1970; the last try is made then.
    :param jitter: From -1 to 1: spreads the tries of many tasks that were refused together.
    :param retry_after: Seconds that the provider asks to wait.
    """
    if now >= deadline:
        return None
    doubled = _FIRST_PAUSE * 2.0 ** min(max(queueing.refusals, 1) - 1, _DOUBLINGS)
    pause = min(doubled, _LONGEST_PAUSE) * (1.0 + _JITTER * jitter)
    return min(now + max(pause, retry_after or 0.0), deadline)


def queue_refusal_of(batch: Batch, *, title: str) -> EnqueuedTokenLimitError | None:
    """The error for a batch that failed for nothing but a full queue, before any of it ran; else ``None``.

    :param title: The provider's name in messages.
    """
    reasons = batch.errors.data if batch.errors else ()
    if batch.status != "failed" or not reasons or batch.request_counts.completed:
        return None
    if not all(says_queue_is_full(reason.code, reason.message) for reason in reasons):
        return None
    words = (reasons[0].message or QUEUE_FULL).rstrip(".")
    return queue_full(f"{title} refused {batch.id} before running it: {words}.", message=reasons[0].message)


def count_refusal(ledger: Ledger[BatchRecord], earlier: Queueing | None, *, now: float) -> Queueing:
    """One more refusal, kept in the ledger, so that a retry neither begins to wait anew nor forgets how long it did.

    :param earlier: What was counted before, for a ledger that forgets.
    :raises LedgerError: It could not be kept.
    """
    record = ledger.read()
    if record is not None and record.queued_since is not None:
        earlier = Queueing(record.queued_since, record.queue_refusals or 0)
    counted = Queueing(earlier.since if earlier else now, (earlier.refusals if earlier else 0) + 1)
    if record is not None:
        ledger.write(record.model_copy(update={"queued_since": counted.since, "queue_refusals": counted.refusals}))
    return counted
