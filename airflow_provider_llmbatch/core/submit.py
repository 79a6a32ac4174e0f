"""One file and one batch, exactly once.

No provider has an idempotency key for batches, so a POST whose answer was lost may have created one. What protects from
paying twice: a key that is the same on every try, an intent in the ledger before each POST, and, in doubt, a look at
the provider before another one. Doubt is anything but a clear refusal: a lost answer, a time-out, a worker that died.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from airflow_provider_llmbatch.core.backoff import queue_refusal_of
from airflow_provider_llmbatch.core.ledger import BatchRecord
from airflow_provider_llmbatch.core.telemetry import OFF
from airflow_provider_llmbatch.errors import (
    BatchInputError,
    LLMBatchError,
    LostAnswerError,
    NotFoundError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from structlog.typing import FilteringBoundLogger

    from airflow_provider_llmbatch.adapters.base import Adapter, Limits
    from airflow_provider_llmbatch.core.ledger import Ledger
    from airflow_provider_llmbatch.core.telemetry import Telemetry
    from airflow_provider_llmbatch.models import Batch

KEY_NAME: Final = "llmbatch_key"
"""The metadata pair that carries the key at the provider."""

_CLOCK_MARGIN: Final = 15 * 60.0  # seconds that our clock and the provider's may differ
_OLD_BATCHES_TO_STOP: Final = 300  # three whole pages: lists are newest first in practice, but nobody promises it
_REPEATS_TO_STOP: Final = 100  # a server that repeats a page would be read for ever
_CREATIONS_PER_ATTEMPT: Final = 3


@dataclass(frozen=True)
class Slot:
    """The place in a workflow that a file or batch belongs to: the same on every try, different for everything else.

    :param namespace: The deployment, so that staging and production on one account never adopt each other's batches.
    """

    namespace: str
    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1
    part: int = 0

    def key(self, *content: str) -> str:
        """``llmb-`` and 32 base32 characters: legal in every provider's metadata, labels and file names."""
        identity = [self.namespace, self.dag_id, self.run_id, self.task_id, self.map_index, self.part, *content]
        digest = hashlib.sha256(json.dumps(identity).encode()).digest()
        return "llmb-" + base64.b32encode(digest[:20]).decode().lower()


@dataclass(frozen=True)
class Attempt:
    """Which try of the task this is.

    :param max_tries: Of the task instance; differs from the ledger's if a person cleared the task.
    :param was_cleared: Whether a person cleared the task at some time, for a ledger that forgets.
    :param resumed: Whether this try submitted before, in a process that has ended.
    """

    try_number: int
    max_tries: int
    was_cleared: bool = False
    resumed: bool = False


@dataclass(frozen=True)
class BatchJob:
    """What a batch is asked for.

    :param metadata: The user's own pairs; the package adds one of its own.
    :param content: What tells these requests from all others of the slot, for a caller whose input file may have to be
        uploaded anew under another id; if ``None``, the input file's id does.
    """

    input_file_id: str
    endpoint: str
    completion_window: str = "24h"
    metadata: Mapping[str, str] = field(default_factory=dict)
    output_expires_after: int | None = None
    content: str | None = None

    def is_of(self, record: BatchRecord) -> bool:
        """Whether a record tells of these requests."""
        if self.content is None:
            return record.input_file_id == self.input_file_id
        return record.content == self.content


@dataclass(frozen=True)
class Timing:
    """:param listing_lag: Seconds by which the provider's list of batches may lag behind a creation."""

    listing_lag: float = 120.0
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep


def check_metadata(metadata: Mapping[str, object], limits: Limits) -> None:
    """Refuse metadata that the provider would refuse, or that would displace our key.

    :raises BatchInputError: Too many pairs, a name or value too long, a value that is no text, a name of ours, or what
        else the provider does not take.
    """
    problem = None
    free = limits.max_metadata_pairs - limits.package_pairs
    if KEY_NAME in metadata:
        problem = f"the name {KEY_NAME!r} belongs to the package"
    elif len(metadata) > free:
        needed = "one" if limits.package_pairs == 1 else limits.package_pairs
        problem = (
            f"it has {len(metadata)} pairs; {free} are free, since the package needs {needed} of the "
            f"{limits.max_metadata_pairs} that the provider allows"
        )
    for name, value in metadata.items():
        if not isinstance(value, str):
            problem = f"the value of {name!r} is {type(value).__name__}, not a text"
        elif len(name) > limits.max_metadata_key_chars or len(value) > limits.max_metadata_value_chars:
            problem = (
                f"{name[:64]!r} is too long: a name has at most {limits.max_metadata_key_chars} characters, a value "
                f"{limits.max_metadata_value_chars}"
            )
        elif problem is None and limits.metadata_problem:
            problem = limits.metadata_problem(name, value)
    if problem:
        raise BatchInputError(f"The metadata cannot be sent: {problem}. Nothing was created or billed.")


def submit_batch(
    adapter: Adapter,
    ledger: Ledger[BatchRecord],
    slot: Slot,
    job: BatchJob,
    *,
    attempt: Attempt,
    timing: Timing,
    log: FilteringBoundLogger,
    listed: Sequence[Batch] | None = None,
    telemetry: Telemetry = OFF,
) -> Batch:
    """Create a batch once, or return the one that an earlier try created.

    One that the provider failed for a full queue is none: it takes its number, and the next one is created.

    :param listed: The provider's whole list, if the caller just read it, so that many submissions of a try that has no
        record of earlier ones need not each read it.
    :raises EnqueuedTokenLimitError: The queue is full, and no batch was created; wait, then call again.
    :raises LLMBatchError: No batch was created, except for ``LostAnswerError`` (and ``UnavailableError`` while
        looking), after which a retry looks again before it creates anything.
    """
    check_metadata(job.metadata, adapter.limits)
    return _Submission(adapter, ledger, slot, job, attempt, timing, log, listed, telemetry).batch()


def find_batch(
    adapter: Adapter,
    ledger: Ledger[BatchRecord],
    slot: Slot,
    job: BatchJob,
    *,
    attempt: Attempt,
    timing: Timing,
    log: FilteringBoundLogger,
) -> Batch | None:
    """The batch of a creation whose end is not recorded, if it made one; creates nothing.

    :raises LLMBatchError: The provider cannot be asked.
    """
    record = ledger.read()
    if record is None or record.state != "intended":
        return None
    submission = _Submission(adapter, ledger, slot, job, attempt, timing, log)
    return submission.found(record)


@dataclass(frozen=True)
class _Submission:
    adapter: Adapter
    ledger: Ledger[BatchRecord]
    slot: Slot
    job: BatchJob
    attempt: Attempt
    timing: Timing
    log: FilteringBoundLogger
    listed: Sequence[Batch] | None = None
    telemetry: Telemetry = OFF

    def batch(self) -> Batch:
        earlier = self.ledger.read()
        if earlier is not None and earlier.max_tries != self.attempt.max_tries:
            earlier = earlier.model_copy(update={"queued_since": None, "queue_refusals": None})  # a clear waits anew
        if earlier is not None and not self.job.is_of(earlier):
            self.log.info(
                f"The batch of an earlier try was made from {earlier.input_file_id}: the input is another one now"
            )
            return self._create(self._intent(number=1), in_doubt=False)
        if earlier is None:
            # Without a record that outlives the process, nobody knows what an earlier try did.
            forgotten = not self.ledger.durable and (self.attempt.try_number > 1 or self.attempt.resumed)
            return self._create_or_adopt() if forgotten else self._create(self._intent(number=1), in_doubt=False)
        if earlier.batch_id is None:
            return self._create(earlier, in_doubt=earlier.state == "intended")
        recorded = self._recorded(earlier, earlier.batch_id)
        return recorded or self._create(self._intent(earlier.number + 1, earlier), in_doubt=False)

    def found(self, record: BatchRecord) -> Batch | None:
        batch = self._look(record)
        return self._keep(record, batch) if batch is not None else None

    def _create_or_adopt(self) -> Batch:
        """The first of our submissions that is still of use, found by looking, since no record tells of them."""
        number = 1
        while True:
            record = self._intent(number)
            # A process that ended by pausing knew how its submission was answered, so one look will do.
            found = (
                self._oldest_of(self._listed_before(record), record, 0.0)
                if self.attempt.resumed
                else self._look(record, since=0.0)
            )
            if found is None:
                return self._create(record, in_doubt=False)
            if self._met_full_queue(found):
                number += 1
                continue
            if not (self.attempt.was_cleared and _ended_badly(found)):
                return self._keep(record, found)
            self.log.info(f"{found.id} of a cleared try is {found.status}: looking for a later one")
            number += 1

    def _recorded(self, record: BatchRecord, batch_id: str) -> Batch | None:
        """The batch of an earlier try, or ``None`` if a person asks for another one by clearing the task."""
        cleared = record.max_tries != self.attempt.max_tries
        try:
            batch = self.adapter.retrieve_batch(batch_id)
        except NotFoundError:
            if not cleared:
                raise
            self.log.info(
                f"{batch_id} of the cleared try is gone at the provider: creating another batch", batch_id=batch_id
            )
            return None
        if self._met_full_queue(batch):
            return None
        if cleared and _ended_badly(batch):
            self.log.info(f"{batch_id} of the cleared try is {batch.status}: creating another batch", batch_id=batch_id)
            return None
        if cleared:
            self.ledger.write(record.model_copy(update={"max_tries": self.attempt.max_tries}))
        self.log.info(
            f"{batch_id} was created by an earlier try: waiting for it, nothing is paid again",
            **self._address_of(batch),
        )
        return batch

    def _met_full_queue(self, batch: Batch) -> bool:
        if queue_refusal_of(batch, title=self.adapter.title) is None:
            return False
        self.log.info(
            f"{batch.id} met a full queue and never ran: submitting {self.job.input_file_id} again", batch_id=batch.id
        )
        return True

    def _intent(self, number: int, earlier: BatchRecord | None = None) -> BatchRecord:
        return BatchRecord(
            number=number,
            key=self.slot.key("batch", str(number), self.job.content or self.job.input_file_id),
            input_file_id=self.job.input_file_id,
            content=self.job.content,
            state="intended",
            intended_at=self.timing.clock(),
            max_tries=self.attempt.max_tries,
            queued_since=earlier.queued_since if earlier else None,
            queue_refusals=earlier.queue_refusals if earlier else None,
        )

    def _create(self, record: BatchRecord, *, in_doubt: bool) -> Batch:
        for _ in range(_CREATIONS_PER_ATTEMPT):
            if in_doubt and (found := self._look(record)):
                return self._keep(record, found)
            record = record.model_copy(
                update={
                    "state": "intended",
                    "intended_at": self.timing.clock(),
                    "max_tries": self.attempt.max_tries,
                    "input_file_id": self.job.input_file_id,
                }
            )
            # From Airflow 3.3 on this write fails for an attempt that was superseded, which then creates nothing.
            self.ledger.write(record)
            try:
                batch = self._post(record)
            except LostAnswerError as error:
                self.log.warning(str(error))
                in_doubt = True
                continue
            except LLMBatchError:
                self.ledger.write(record.model_copy(update={"state": "refused"}))
                raise
            self._record(record, batch)
            self.log.info(
                f"Created batch {batch.id} (key {record.key})", endpoint=self.job.endpoint, **self._address_of(batch)
            )
            return self._oldest(record, batch) if in_doubt else batch
        if found := self._look(record):
            return self._keep(record, found)
        raise LostAnswerError(
            f"The answers to {_CREATIONS_PER_ATTEMPT} creations of a batch from {self.job.input_file_id} were lost, "
            f"and the provider's list shows no batch with the key {record.key} yet. A retry looks again before it "
            "creates anything."
        )

    def _post(self, record: BatchRecord) -> Batch:
        told = {"endpoint": self.job.endpoint, "file_id": self.job.input_file_id, "key": record.key}
        with self.telemetry.span("create_batch", **told) as span:
            batch = self.adapter.create_batch(
                self.job.input_file_id,
                endpoint=self.job.endpoint,
                completion_window=self.job.completion_window,
                metadata={**self.job.metadata, KEY_NAME: record.key},
                output_expires_after=self.job.output_expires_after,
            )
            span.set(batch_id=batch.id, model=batch.model)
        self.telemetry.count("batches.created", provider=self.adapter.provider, model=batch.model)
        return batch

    def _address_of(self, batch: Batch) -> dict[str, str]:
        """The fields by which a line of the log leads to the batch."""
        url = self.adapter.console_url(batch.id)
        return {"batch_id": batch.id, "console_url": url} if url else {"batch_id": batch.id}

    def _record(self, record: BatchRecord, batch: Batch) -> None:
        self.ledger.write(
            record.model_copy(update={"state": "created", "batch_id": batch.id, "max_tries": self.attempt.max_tries})
        )

    def _keep(self, record: BatchRecord, batch: Batch) -> Batch:
        self._record(record, batch)
        self.log.info(
            f"Found batch {batch.id}, which an earlier call created (key {record.key}): nothing is paid again",
            **self._address_of(batch),
        )
        return batch

    def _look(self, record: BatchRecord, *, since: float | None = None) -> Batch | None:
        """Our batch, if the provider lists it. Absence counts only after two looks, the second when lists have caught
        up.

        :param since: How far back to look, in seconds since 1970; by default to the intent.
        """
        batch = self._oldest_listed(record, since)
        if batch is not None:
            return batch
        wait = record.intended_at + self.timing.listing_lag - self.timing.clock()
        if wait > 0:
            self.log.info(
                f"No batch has the key {record.key} yet, but an earlier call may have created one that the list does "
                f"not show: looking again in {wait:.0f} s"
            )
            self.timing.sleep(wait)
        return self._oldest_listed(record, since)

    def _oldest(self, record: BatchRecord, created: Batch) -> Batch:
        """What to keep of a batch created out of doubt: what the looks could not see may have come to light since."""
        try:
            oldest = self._oldest_listed(record, created=created) or created
        except UnavailableError as error:
            self.log.warning(f"Could not look for a second batch with the key {record.key}: {error}")
            return created
        if oldest.id != created.id:
            self._record(record, oldest)
        return oldest

    def _oldest_listed(
        self, record: BatchRecord, since: float | None = None, *, created: Batch | None = None
    ) -> Batch | None:
        """The oldest of our batches at the provider; any others are duplicates, which are cancelled."""
        since = record.intended_at - _CLOCK_MARGIN if since is None else since
        return self._oldest_of(self._recent(record, since), record, since, created=created)

    def _oldest_of(
        self, batches: Iterable[Batch], record: BatchRecord, since: float, *, created: Batch | None = None
    ) -> Batch | None:
        ours = {batch.id: batch for batch in batches if self._is_ours(batch, record, since)}
        if created is not None:
            ours.setdefault(created.id, created)
        by_age = sorted(ours.values(), key=lambda batch: (batch.created_at or 0, batch.id))
        for duplicate in by_age[1:]:
            self._cancel(duplicate, record)
        return by_age[0] if by_age else None

    def _cancel(self, duplicate: Batch, record: BatchRecord) -> None:
        status = duplicate.status if duplicate.is_terminal else self.adapter.cancel_batch(duplicate.id).status
        self.log.warning(
            f"{duplicate.id} is a second batch for the same requests (key {record.key}) and is {status} now. What it "
            "did until then may be billed.",
            batch_id=duplicate.id,
        )

    def _is_ours(self, batch: Batch, record: BatchRecord, since: float) -> bool:
        key = (batch.metadata or {}).get(KEY_NAME)
        if key is not None:
            return key == record.key
        # A provider may lose metadata; then the input file tells, unless the batch is older than our intent.
        return (
            (batch.created_at or 0) >= since
            and batch.input_file_id == record.input_file_id
            and queue_refusal_of(batch, title=self.adapter.title) is None  # an earlier submission, which never ran
        )

    def _listed_before(self, record: BatchRecord) -> Iterable[Batch]:
        return self._recent(record, 0.0) if self.listed is None else self.listed

    def _recent(self, record: BatchRecord, since: float) -> Iterator[Batch]:
        """Listed batches, until far enough in the past, or until the list repeats itself."""
        seen: set[str] = set()
        old = repeated = 0
        for batch in self.adapter.list_batches_with(KEY_NAME, record.key):
            repeated = repeated + 1 if batch.id in seen else 0
            old = old + 1 if batch.created_at is not None and batch.created_at < since else 0
            if old >= _OLD_BATCHES_TO_STOP or repeated >= _REPEATS_TO_STOP:
                return
            if not repeated:
                seen.add(batch.id)
                yield batch


def _ended_badly(batch: Batch) -> bool:
    """Whether a person who clears the task asks for another batch; a cancelled one is landed, never waited for."""
    return batch.status == "cancelling" or (batch.is_terminal and batch.status != "completed")
