"""What becomes of batches whose run goes on without them, or not at all."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from airflow_provider_llmbatch.core.submit import BatchJob, find_batch
from airflow_provider_llmbatch.errors import LLMBatchError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airflow_provider_llmbatch.core.ledger import BatchRecord
    from airflow_provider_llmbatch.core.run.job import Job
    from airflow_provider_llmbatch.core.run.records import IndexRecord

_AT_A_TIME: Final = 8  # Airflow gives a kill 5 s on a worker, 30 s in a trigger


def cancel_old(job: Job, index: IndexRecord) -> None:
    """Cancel the batches of a generation that another one takes the place of; those of unfinished creations too.

    :raises LLMBatchError: The provider cannot be asked; the next try goes on with it.
    """
    ids = []
    for part, attempt, record in _open_records(job, index):
        if record.batch_id is not None:
            ids.append(record.batch_id)
        elif record.state == "intended":
            found = find_batch(
                job.adapter,
                job.batches(part, attempt),
                job.slot_of(part),
                BatchJob(record.input_file_id, "", content=record.content),
                attempt=job.attempt,
                timing=job.timing,
                log=job.log,
            )
            if found is not None:
                ids.append(found.id)
    for batch_id, fate in cancel_all(job, ids).items():
        if isinstance(fate, LLMBatchError) and not isinstance(fate, NotFoundError):
            raise fate
        job.log.warning(f"{batch_id}, made from the earlier input, is {fate}; what it did until then is billed")


def cancel_all(job: Job, batch_ids: Iterable[str]) -> dict[str, str | LLMBatchError]:
    """Ask for batches to be cancelled, eight at a time; the status of each then, or why that cannot be told."""

    def cancel(batch_id: str) -> str | LLMBatchError:
        try:
            return job.adapter.cancel_batch(batch_id).status
        except LLMBatchError as error:
            return error

    ids = list(batch_ids)
    if not ids:
        return {}
    with ThreadPoolExecutor(_AT_A_TIME, thread_name_prefix="llmbatch-cancel") as pool:
        return dict(zip(ids, pool.map(cancel, ids), strict=True))


def begun_batches(job: Job) -> list[str]:
    """The ids of batches that were created and not landed yet, as the ledger tells, with few looks at it.

    :raises LedgerError: It cannot be read.
    """
    index = job.index.read()
    if index is None:
        return []
    found = []
    for part in range(index.settled, index.parts):
        attempt, record = _open_record(job, index, part)
        if record is None and attempt == 1:
            break  # parts are begun in their order
        if record is not None and record.batch_id:
            found.append(record.batch_id)
    return found


def count_submitted(job: Job, index: IndexRecord) -> int:
    """How many batches of a generation were created, or may have been."""
    count = 0
    for part in range(index.parts):
        attempt = 1
        while (record := _record(job, index, part, attempt)) is not None:
            count += record.state != "refused"
            attempt += 1
    return count


def _open_records(job: Job, index: IndexRecord) -> Iterator[tuple[int, int, BatchRecord]]:
    for part in range(index.parts):
        attempt, record = _open_record(job, index, part)
        if record is not None:
            yield part, attempt, record


def _open_record(job: Job, index: IndexRecord, part: int) -> tuple[int, BatchRecord | None]:
    """The attempt at a part that is the next to be landed, and its batch, if that was begun."""
    attempt = 1
    while (landed := job.landings(part, attempt).read()) and landed.generation == index.generation:
        attempt += 1
    return attempt, _record(job, index, part, attempt)


def _record(job: Job, index: IndexRecord, part: int, attempt: int) -> BatchRecord | None:
    record = job.batches(part, attempt).read()
    of_this = record is not None and (record.content or "").startswith(f"{index.generation} ")
    return record if of_this else None
