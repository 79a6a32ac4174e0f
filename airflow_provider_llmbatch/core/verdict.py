"""What the end of a batch means for the task that waits: nothing, or an error with the provider's own reasons."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from airflow_provider_llmbatch.adapters.backpressure import QUEUE_FULL
from airflow_provider_llmbatch.errors import (
    BatchCancelledError,
    BatchExpiredError,
    BatchFailedError,
    BatchNotCompletedError,
    DeadlineExceededError,
)

if TYPE_CHECKING:
    from airflow_provider_llmbatch.models import Batch, BatchError

_REASONS_SHOWN: Final = 5
# Google's words (google.rpc.Code) for what the input is not to blame for.
_PASSING: Final = frozenset(
    {"INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "UNKNOWN", "RESOURCE_EXHAUSTED"}
)
_NO_RIGHTS: Final = frozenset({"PERMISSION_DENIED", "FAILED_PRECONDITION", "NOT_FOUND", "UNAUTHENTICATED"})
_LAST_MOMENT: Final = datetime.max.replace(tzinfo=UTC, microsecond=0).timestamp()


def error_of_end(batch: Batch, *, title: str) -> BatchNotCompletedError | None:
    """The error for a batch that ended otherwise than completed, else ``None``.

    :param title: The provider's name in messages.
    """
    if batch.status == "failed":
        reasons = batch.errors.data if batch.errors else ()
        first = reasons[0].code if reasons else None
        return BatchFailedError(
            f"{title} {_refusal(batch)}: {_reasons(reasons)}. {_fate_of_failed(batch)} {_advice(first)}",
            batch_id=batch.id,
            code=first,
        )
    if batch.status == "expired":
        return BatchExpiredError(
            f"{batch.id} expired {_after(batch, batch.expired_at)}with {_answered(batch)}{_told(batch)}. "
            f"{_partial(batch)} A retry would resubmit nothing; clearing this task makes a new batch of all its "
            "requests.",
            batch_id=batch.id,
        )
    if batch.status == "cancelled":
        return BatchCancelledError(
            f"{batch.id} was cancelled {_after(batch, batch.cancelled_at)}with {_answered(batch)}{_told(batch)}. "
            f"{_partial(batch)} A retry would resubmit nothing; clearing this task makes a new batch of all its "
            "requests.",
            batch_id=batch.id,
        )
    return None


def shortcomings_of(batch: Batch) -> str | None:
    """What a completed batch says against itself, such as the partial failures of Vertex AI; ``None`` if nothing."""
    reasons = batch.errors.data if batch.errors else ()
    return _reasons(reasons) if batch.status == "completed" and reasons else None


def error_of_deadline(batch: Batch, deadline: float, *, cancelled: bool) -> DeadlineExceededError:
    """The error for a batch that did not end in time.

    :param deadline: In seconds since 1970.
    :param cancelled: Whether it was cancelled for that.
    """
    fate = (
        "It was cancelled; what was answered by then is billed, and can be downloaded when the provider has ended it"
        if cancelled
        else "It was left running, and is billed as it goes on"
    )
    return DeadlineExceededError(
        f"{batch.id} was still {batch.provider_status or batch.status} at the deadline of {moment(deadline)}, with "
        f"{_answered(batch)}. {fate} (LLMBatchDownloadResultsOperator(batch_id={batch.id!r})). A retry would resubmit "
        "nothing.",
        batch_id=batch.id,
    )


def moment(seconds: float) -> str:
    """A point in time as logs and messages show it, such as ``2026-11-25 03:10 UTC``."""
    return datetime.fromtimestamp(min(seconds, _LAST_MOMENT), UTC).strftime("%Y-%m-%d %H:%M UTC")


def _refusal(batch: Batch) -> str:
    return f"gave {batch.id} up" if batch.has_results else f"refused {batch.id} before running it"


def _fate_of_failed(batch: Batch) -> str:
    return f"It ended with {_answered(batch)}. {_partial(batch)}" if batch.has_results else "Nothing was billed."


def _advice(code: str | None) -> str:
    if code == QUEUE_FULL:
        return (
            "The input is good, but too much is queued for this model already: when other batches have ended, clear "
            "this task, which then makes a new batch of the same file."
        )
    if code in _PASSING:
        return "That is no fault of the input: clear this task, which then makes a new batch of the same file."
    if code in _NO_RIGHTS:
        return (
            "A retry would end the same: see that the provider's service agent may read the input and write the "
            "output, that both are in a place that it allows, and that the model is offered there; then clear this "
            "task, which makes a new batch of the same file."
        )
    return "A retry would be refused again: mend the input, and clear the tasks from the one that makes it on."


def _told(batch: Batch) -> str:
    return f"; the provider's reason: {_reasons(batch.errors.data)}" if batch.errors and batch.errors.data else ""


def _reasons(reasons: tuple[BatchError, ...]) -> str:
    if not reasons:
        return "it gave no reason"
    shown = "; ".join(_reason(reason) for reason in reasons[:_REASONS_SHOWN])
    more = len(reasons) - _REASONS_SHOWN
    return f"{shown}; and {more} more" if more > 0 else shown


def _reason(reason: BatchError) -> str:
    where = f"line {reason.line}: " if reason.line is not None else ""
    param = f" [{reason.param}]" if reason.param else ""
    what = ": ".join(part.rstrip(".") for part in (reason.code, reason.message) if part)
    return f"{where}{what or 'no reason given'}{param}"


def _after(batch: Batch, ended_at: int | None) -> str:
    if batch.created_at is None or ended_at is None or ended_at < batch.created_at:
        return ""
    hours = (ended_at - batch.created_at) / 3600
    return f"after {hours:.0f} h " if hours >= 1 else f"after {ended_at - batch.created_at} s "


def _answered(batch: Batch) -> str:
    counts = batch.request_counts
    return f"{counts.completed:,} of {counts.total:,} requests answered"


def _partial(batch: Batch) -> str:
    if not batch.has_results:
        return "There are no results to download."
    return (
        f"Those are billed and can be downloaded: LLMBatchDownloadResultsOperator(batch_id={batch.id!r}), also in a "
        'task with trigger_rule="all_done".'
    )
