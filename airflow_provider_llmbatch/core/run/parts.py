"""One part of a run: what is known of it, its next submission, and the landing of what came back.

Attempts at a part follow each other: the next one begins when the results of the last one lie in the stage, and holds
only the rows that have no answer yet.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from airflow_provider_llmbatch.core.costs.wording import said
from airflow_provider_llmbatch.core.jsonl import CheckedInput
from airflow_provider_llmbatch.core.run.answers import land
from airflow_provider_llmbatch.core.run.records import LandedRecord, Subset
from airflow_provider_llmbatch.core.run.retriable import is_retriable
from airflow_provider_llmbatch.core.submit import BatchJob, find_batch, submit_batch
from airflow_provider_llmbatch.core.upload import submit_file
from airflow_provider_llmbatch.core.verdict import error_of_end
from airflow_provider_llmbatch.errors import NotFoundError, StageGoneError
from airflow_provider_llmbatch.models import ResultError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_provider_llmbatch.core.ledger import BatchRecord
    from airflow_provider_llmbatch.core.run.job import Job
    from airflow_provider_llmbatch.core.run.records import IndexRecord
    from airflow_provider_llmbatch.core.run.stage import Stage, StagePart
    from airflow_provider_llmbatch.models import Batch

_REASONS_SHOWN: Final = 5
_CODE_CHARS: Final = 60
_REASON_CHARS: Final = 2000  # of a refusal, in the ledger


@dataclass(frozen=True)
class PartState:
    """Where a part stands, as the ledger tells.

    :param landings: Of its attempts, the first one first.
    :param lines: What the next attempt submits; ``None`` if there is none.
    :param record: Of the next attempt's batch, if that was begun.
    """

    part: StagePart
    landings: tuple[LandedRecord, ...]
    lines: Subset | None
    record: BatchRecord | None

    @property
    def attempt(self) -> int:
        """The number of the next attempt."""
        return len(self.landings) + 1


def state_of(job: Job, index: IndexRecord, part: StagePart) -> PartState:
    landings: list[LandedRecord] = []
    while landed := job.landings(part.number, len(landings) + 1).read():
        if (landed.generation, landed.stage_id) != (index.generation, index.stage_id):
            break
        landings.append(landed)
    lines = _next_lines(job, part, landings)
    record = job.batches(part.number, len(landings) + 1).read() if lines else None
    if lines and record and record.content != content_of(index, len(landings) + 1, lines):
        record = None
    return PartState(part, tuple(landings), lines, record)


def untouched(part: StagePart) -> PartState:
    """Of a part that nothing was done about yet."""
    return PartState(part, (), Subset(rows=part.rows, bytes=part.bytes, sha256=part.sha256), None)


def _next_lines(job: Job, part: StagePart, landings: list[LandedRecord]) -> Subset | None:
    if not landings:
        return Subset(rows=part.rows, bytes=part.bytes, sha256=part.sha256)
    last = landings[-1]
    # A refusal ran nothing, so it costs no attempt; but whoever made us stop must say that we may go on.
    if last.stopped and last.max_tries == job.attempt.max_tries:
        return None
    spent = sum(landed.stopped != "refused" for landed in landings)
    return last.retry if spent < job.options.max_attempts else None


def content_of(index: IndexRecord, attempt: int, lines: Subset) -> str:
    """What tells a batch's requests from those of every other part, attempt and generation."""
    return f"{index.generation} {attempt} {lines.sha256}"


def submit(
    job: Job, index: IndexRecord, stage: Stage, state: PartState, *, listed: Sequence[Batch] | None = None
) -> Batch:
    """Upload the next attempt's lines and create their batch, each once.

    :param listed: What the provider lists, for a run that has no record of its earlier tries.

    :raises EnqueuedTokenLimitError: The provider's queue is full.
    :raises LLMBatchError: No batch was created, or it is in doubt, and the next try looks.
    """
    assert state.lines is not None  # noqa: S101 - only open parts are submitted
    number, lines, part = state.part.number, state.lines, state.part
    content = content_of(index, state.attempt, lines)
    forgotten = index.forgotten_at is not None
    # Whoever has the record knows what earlier tries did; and what they made is ours, however it ended.
    attempt = replace(
        job.attempt, try_number=max(job.attempt.try_number, 2) if forgotten else 1, was_cleared=False, resumed=forgotten
    )
    checked = CheckedInput(
        requests=lines.rows, bytes=lines.bytes, sha256=lines.sha256, endpoint=part.endpoint, model=part.model
    )
    with stage.requests(part, state.attempt) as stream:
        file = submit_file(
            job.adapter,
            job.files(number, state.attempt),
            job.slot_of(number),
            stream,
            checked,
            content=content,
            expires_after=job.options.file_expires_after,
            attempt=attempt,
            log=job.log,
            telemetry=job.telemetry,
        )
    return submit_batch(
        job.adapter,
        job.batches(number, state.attempt, forgotten=forgotten),
        job.slot_of(number),
        batch_job(job, part, content, file.id),
        attempt=attempt,
        timing=job.timing,
        log=job.log,
        listed=listed,
        telemetry=job.telemetry,
    )


def batch_job(job: Job, part: StagePart, content: str, file_id: str) -> BatchJob:
    options = job.options
    return BatchJob(file_id, part.endpoint, options.completion_window, options.metadata, content=content)


def found_batch(job: Job, index: IndexRecord, state: PartState) -> Batch | None:
    """The batch of a creation whose end is not recorded, if it made one; creates nothing.

    :raises LLMBatchError: The provider cannot be asked.
    """
    assert state.lines is not None  # noqa: S101 - only open parts are in doubt
    assert state.record is not None  # noqa: S101 - as above
    return find_batch(
        job.adapter,
        job.batches(state.part.number, state.attempt),
        job.slot_of(state.part.number),
        batch_job(job, state.part, content_of(index, state.attempt, state.lines), state.record.input_file_id),
        attempt=job.attempt,
        timing=job.timing,
        log=job.log,
    )


def land_batch(
    job: Job, index: IndexRecord, stage: Stage, state: PartState, record: BatchRecord, batch: Batch
) -> LandedRecord:
    """Keep what came of an ended batch in the stage, and the lines that may be submitted again beside it."""
    ordinals = stage.ordinals(state.part, state.attempt)
    try:
        landed = land(
            job.adapter,
            batch,
            part=state.part.number,
            attempt=state.attempt,
            ordinals=ordinals,
            folder=stage.folder,
            shape=job.source.shape,
            model=state.part.model,
            prices=job.prices,
            log=job.log,
        )
    except NotFoundError as error:
        raise StageGoneError(
            f"The results of {batch.id} are not in the stage, and the provider does not have them any more: {error} "
            "They were paid for, and can no longer be had. Nothing was published or billed now. A retry would find the "
            'same; clear the task with on_clear="restart" to pay for new answers.'
        ) from error
    stopped = _stopped(job, record, batch)
    again = ordinals if stopped == "refused" else landed.unresolved
    retry = None
    if len(again):
        file = stage.write_subset(state.part, state.attempt + 1, again)
        retry = Subset(rows=file.rows, bytes=file.bytes, sha256=file.sha256)
    kept = LandedRecord(
        generation=index.generation,
        stage_id=index.stage_id,
        batch_id=batch.id,
        file_id=record.input_file_id,
        key=record.key,
        status=batch.status,
        outcomes=dict(landed.outcomes),
        usage=landed.usage,
        costs=landed.costs,
        created_at=batch.created_at,
        ended_at=batch.ended_at,
        landed_at=job.timing.clock(),
        max_tries=job.attempt.max_tries,
        retry=retry,
        stopped=stopped,
        reason=_reason(job, batch) if stopped == "refused" else None,
        result_file_ids=tuple(filter(None, (batch.output_file_id, batch.error_file_id))),
    )
    job.landings(state.part.number, state.attempt).write(kept)
    counts = ", ".join(f"{count:,} {outcome}" for outcome, count in landed.outcomes.items())
    reasons = sorted(landed.reasons.items(), key=lambda reason: -reason[1])[:_REASONS_SHOWN]
    why = f" ({', '.join(f'{count:,} {code[:_CODE_CHARS]}' for code, count in reasons)})" if reasons else ""
    more = f"; {retry.rows:,} may be submitted again" if retry else ""
    say = job.log.warning if reasons else job.log.info
    cost = f"; {said(landed.costs)}" if landed.costs and landed.costs.known_usd else ""
    say(
        f"Landed {batch.id} (part {state.part.number}, attempt {state.attempt}): {counts}{why}{cost}{more}",
        batch_id=batch.id,
        part=state.part.number,
        attempt=state.attempt,
        status=batch.status,
    )
    return kept


def _stopped(job: Job, record: BatchRecord, batch: Batch) -> Literal["deadline", "refused"] | None:
    if batch.status == "completed":
        return None
    if is_refused(batch):
        return "refused"
    return record.stopped if record.max_tries == job.attempt.max_tries else None  # a clear since then lets it go on


def _reason(job: Job, batch: Batch) -> str:
    return str(error_of_end(batch, title=job.adapter.title))[:_REASON_CHARS]


def is_refused(batch: Batch) -> bool:
    """Whether the provider refused it as a whole, before any of it ran, and would do so again."""
    if batch.status != "failed" or batch.has_results or batch.request_counts.completed:
        return False
    reasons = batch.errors.data if batch.errors else ()
    return not reasons or not all(is_retriable(ResultError(each.code, each.message), None) for each in reasons)
