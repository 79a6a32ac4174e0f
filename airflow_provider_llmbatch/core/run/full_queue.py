"""Waiting for room in a queue of tokens that is full, for a whole run: one refusal pauses all further submissions.

Batches that are under way go on meanwhile; when one of them ends there may be room, so that ends the pause.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_llmbatch.core.backoff import Queueing, next_try
from airflow_provider_llmbatch.core.run.records import QueueRecord
from airflow_provider_llmbatch.core.verdict import moment
from airflow_provider_llmbatch.errors import EnqueuedTokenLimitError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_provider_llmbatch.core.run.job import Job


@dataclass(frozen=True)
class Pause:
    """Nothing is submitted until then.

    :param again_at: In seconds since 1970; ``None``: not before one of the run's batches ends.
    :param error: Why, if that was heard just now.
    """

    again_at: float | None
    error: EnqueuedTokenLimitError | None = None


def pause_of(job: Job, *, landed_at: float, failed: Iterable[str]) -> Pause | None:
    """The pause that an earlier refusal began, if it has not ended.

    :param landed_at: When a batch of the run was landed last.
    :param failed: Batches that the provider failed for a full queue.
    """
    record = _record(job)
    new = [batch_id for batch_id in failed if record is None or batch_id not in record.batch_ids]
    if new:
        job.log.info(f"The queue of tokens was full for {', '.join(new)}: nothing of that ran or was billed")
        return pause_after(job, landed_at=landed_at, failed=new)
    if record is None or record.since < landed_at:
        return None
    if record.again_at is not None and record.again_at <= job.timing.clock():
        return None
    return Pause(record.again_at)


def pause_after(
    job: Job, error: EnqueuedTokenLimitError | None = None, *, landed_at: float, failed: Iterable[str] = ()
) -> Pause:
    """Count a refusal, durably, so that a retry neither begins to wait anew nor forgets how long it did."""
    now = job.timing.clock()
    record = _record(job)
    waited = record is not None and record.since >= landed_at
    since = record.since if record is not None and waited else now
    refusals = (record.refusals if record is not None and waited else 0) + 1
    again_at = next_try(
        Queueing(since, refusals),
        now,
        since + job.options.queue_deadline,
        jitter=random.uniform(-1.0, 1.0),
        retry_after=error.retry_after if error else None,
    )
    counted = (*(record.batch_ids if record is not None and waited else ()), *failed)
    job.queue.write(
        QueueRecord(
            since=since,
            refusals=refusals,
            again_at=again_at,
            max_tries=job.attempt.max_tries,
            batch_ids=counted,
        )
    )
    until = f"until {moment(again_at)}" if again_at is not None else "until another batch of this run has ended"
    job.log.warning(f"{error or 'The queue of tokens is full.'} Nothing more is submitted {until}")
    return Pause(again_at, error)


def out_of_patience(job: Job, pause: Pause) -> EnqueuedTokenLimitError:
    """The error of a run that waited as long as it may, and has no batch under way."""
    record = _record(job)
    since, refusals = (record.since, record.refusals) if record else (job.timing.clock(), 1)
    told = pause.error or EnqueuedTokenLimitError("The queue of tokens is full. Nothing was billed for that.")
    return EnqueuedTokenLimitError(
        f"{told} It was found full {refusals:,} times since {moment(since)}, and the queue_deadline was "
        f"{moment(since + job.options.queue_deadline)}. What was answered lies in the stage. A retry submits the rest "
        "once more without waiting; clearing this task waits anew. Neither pays for an answer twice.",
        status_code=told.status_code,
        code=told.code,
        request_id=told.request_id,
        limit=told.limit,
        enqueued=told.enqueued,
        retry_after=told.retry_after,
    )


def _record(job: Job) -> QueueRecord | None:
    record = job.queue.read()
    return record if record is not None and record.max_tries == job.attempt.max_tries else None
