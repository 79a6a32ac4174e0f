"""One batch prediction job on its way to its end: its input becomes a batch of the store, whose answers are exported.

Every step can be killed and done again: the ids of the batch and of its input are picked when the job is made, an
import begins anew, and an export writes the same objects.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from airflow_provider_llmbatch.models import Batch, File
from airflow_provider_llmbatch.server.store import open_private
from airflow_provider_llmbatch.server.vertex_export import Export
from airflow_provider_llmbatch.server.vertex_jobs import ENDS, Stats, time_text
from airflow_provider_llmbatch.server.vertex_storage import StorageAwayError, StorageRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_llmbatch.server.runner import Runner
    from airflow_provider_llmbatch.server.store import Store
    from airflow_provider_llmbatch.server.vertex_jobs import Job, Jobs, State
    from airflow_provider_llmbatch.server.vertex_storage import Storage

    T = TypeVar("T")

log = logging.getLogger(__name__)

ENDPOINT: Final = "/v1/chat/completions"
MOST_REQUESTS: Final = 200_000
MOST_BYTES: Final = 1_000_000_000
"""Of an input, like the requests in it: the guide "Batch inference with Gemini", 2026."""

_END_OF: Final[dict[str, State]] = {
    "completed": "SUCCEEDED",
    "failed": "FAILED",
    "cancelled": "CANCELLED",
    "expired": "EXPIRED",
}
_LONGEST_PAUSE: Final = 10.0
_CANCELLED: Final = 1  # these are numbers of google.rpc.Code
_INVALID_ARGUMENT: Final = 3
_CODES: Final = {"token_limit_exceeded": 8, "model_not_found": 5}


class InputError(ValueError):
    """Raised when a job's input cannot be run; the message says why."""


class _Line(msgspec.Struct):
    # Not ``Raw | None``: msgspec decodes the members of a union.
    request: msgspec.Raw = msgspec.Raw(b"null")


class _Labels(msgspec.Struct):
    labels: dict[str, Any] | None = None


class _Body(msgspec.Struct):
    """What stands in the store's input as the body of a request, for ``GeminiEngine`` to read."""

    model: str
    request: msgspec.Raw


class _Request(msgspec.Struct):
    custom_id: str
    method: str
    url: str
    body: _Body


_decode_line = msgspec.json.Decoder(_Line).decode
_decode_labels = msgspec.json.Decoder(_Labels).decode
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class Workplace:
    """What all jobs share.

    :param queue_seconds: How long a job is queued before it is looked at.
    :param rows_per_shard: Of an output; more rows make more shards.
    :param lost_rows: How many rows a fault takes from the next output.
    """

    store: Store
    jobs: Jobs
    runner: Runner
    storage: Storage
    queue_seconds: float
    rows_per_shard: int
    lost_rows: Callable[[], int]


class JobRun:
    def __init__(self, workplace: Workplace, job: Job) -> None:
        self._place = workplace
        self.job = job
        self._cancelled = asyncio.Event()
        if job.state == "CANCELLING":
            self._cancelled.set()

    def stats(self) -> Stats | None:
        """Counts of a batch that runs; those of one that has ended stand in the job."""
        if self.job.has_ended:
            return None
        batch = self._place.runner.batch(self.job.batch_id)
        if batch is None or not batch.request_counts.total:
            return None
        counts = batch.request_counts
        return Stats(successful=counts.completed, failed=counts.failed, incomplete=counts.total - counts.done)

    def cancel(self) -> None:
        """Begin to cancel the job; nothing happens to one whose answers are being exported, as they are all there."""
        batch = self._place.runner.batch(self.job.batch_id)
        if batch is not None and batch.status not in ("validating", "in_progress", "cancelling"):
            return
        if self.job.state != "CANCELLING":
            self._save(state="CANCELLING")
        self._cancelled.set()
        if batch is not None and batch.status != "cancelling":
            self._place.runner.cancel(batch.id)

    def _save(self, **changes: object) -> None:
        at = now()
        times = {"updated": at} | ({"ended": at} if changes.get("state") in ENDS else {})
        self.job = self.job.model_copy(update={**times, **changes})
        self._place.jobs.save(self.job)

    def _end(self, state: State, **changes: object) -> None:
        self._save(state=state, **changes)

    async def to_the_end(self) -> None:
        try:
            if self._place.store.batch(self.job.batch_id) is not None or await self._begin():
                await self._follow()
                await self._finish()
        except (InputError, StorageRefusedError) as error:
            (self._place.store.uploads / self.job.file_id).unlink(missing_ok=True)  # as much as was read of the input
            self._end("FAILED", error=(_INVALID_ARGUMENT, str(error)))
        self._forget_files()

    async def _begin(self) -> bool:
        """Wait in the queue, and turn the input into a batch; ``False``: the job has ended without one."""
        await self._wait_in_queue()
        if not self._cancelled.is_set():
            if self.job.state == "QUEUED":
                self._save(state="PENDING")
            await self._patiently(self._import)
        if self._cancelled.is_set():
            self._end("CANCELLED", error=(_CANCELLED, "The job was cancelled before it began."))
            return False
        batch = self._batch()
        if not self._place.store.add_batch(batch):
            raise InputError("The input is gone from the server's folder.")
        self._place.runner.begin(batch)
        return True

    async def _wait_in_queue(self) -> None:
        left = self.job.created + self._place.queue_seconds - now()
        if left > 0:
            try:
                await asyncio.wait_for(self._cancelled.wait(), left)
            except TimeoutError:
                return

    def _batch(self) -> Batch:
        return Batch(
            id=self.job.batch_id,
            status="validating",
            endpoint=ENDPOINT,
            input_file_id=self.job.file_id,
            completion_window="24h",
            created_at=int(now()),
            expires_at=int(self.job.created + self._place.runner.completion_window),
            metadata={"job": self.job.name},
        )

    async def _patiently(self, step: Callable[[], T]) -> T:
        """Take a step in a thread, again and again while Cloud Storage is away."""
        pause = 0.1
        while True:
            try:
                return await asyncio.to_thread(step)
            except StorageAwayError as error:
                if pause == 0.1:
                    log.warning("%s waits for Cloud Storage at %s: %s", self.job.name, self._place.storage.url, error)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _import(self) -> None:
        """The input, line by line, as the store's own; what is wrong with one request is told when it is asked."""
        path = self._place.store.uploads / self.job.file_id
        size = number = 0
        with open(path, "wb", opener=open_private) as stream:
            for line in self._place.storage.lines(self.job.input_uri):
                size += len(line) + 1
                if size > MOST_BYTES + 1:
                    raise InputError(f"{self.job.input_uri} is larger than the {MOST_BYTES} bytes allowed.")
                if not line.strip():
                    continue
                if (number := number + 1) > MOST_REQUESTS:
                    raise InputError(f"{self.job.input_uri} has more than the {MOST_REQUESTS} requests allowed.")
                stream.write(_encode(self._request(number, line)) + b"\n")
        if not number:
            raise InputError(f"{self.job.input_uri} holds no request.")
        file = File(
            id=self.job.file_id,
            bytes=path.stat().st_size,
            created_at=int(now()),
            filename=f"{self.job.id}.jsonl",
            purpose="batch",
            status="processed",
        )
        self._place.store.add_file(file, path)

    def _request(self, number: int, line: bytes) -> _Request:
        try:
            line.decode()
            request = _decode_line(line).request
            if bytes(request) == b"null":
                raise InputError(f'Line {number} of {self.job.input_uri} has no "request".')
            return _Request(_own_id(number, request), "POST", ENDPOINT, _Body(self.job.model, request))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InputError(f"Line {number} of {self.job.input_uri} is no JSON object ({error}).") from None

    async def _follow(self) -> None:
        """Until no more answers will come."""
        if self.job.started is None:
            running = {} if self.job.state == "CANCELLING" else {"state": "RUNNING"}
            self._save(started=now(), **running)
        batch = self._place.runner.batch(self.job.batch_id)
        if self._cancelled.is_set() and batch is not None and not batch.is_terminal:
            self._place.runner.cancel(batch.id)  # again, for a restart in between
        await self._place.runner.ended(self.job.batch_id)

    async def _finish(self) -> None:
        batch = self._place.store.batch(self.job.batch_id)
        if batch is None or not batch.is_terminal:
            raise RuntimeError(f"{self.job.name} stopped and goes on at the next start.")
        if batch.status == "failed":
            found = batch.errors.data[0] if batch.errors else None
            code = _CODES.get((found and found.code) or "", _INVALID_ARGUMENT)
            self._end("FAILED", error=(code, (found and found.message) or "The input cannot be run."))
            return
        if self.job.directory is None:
            self._save(directory=f"{self.job.output_prefix}/prediction-model-{time_text(now())}")
        export = Export(self._place.store, self.job, batch, lost_rows=self._place.lost_rows())
        stats = await self._patiently(lambda: export.write(self._place.storage, self._place.rows_per_shard))
        if export.lost:
            failures = (f"{export.lost} predictions could not be written.",)
            self._end("PARTIALLY_SUCCEEDED", stats=stats, partial_failures=failures)
        else:
            error = {"error": (_CANCELLED, "The job was cancelled.")} if batch.status == "cancelled" else {}
            self._end(_END_OF[batch.status], stats=stats, **error)

    def _forget_files(self) -> None:
        """What the store kept for this job; its owner's objects are in Cloud Storage."""
        batch = self._place.store.batch(self.job.batch_id)
        results = () if batch is None else (batch.output_file_id, batch.error_file_id)
        for file_id in (self.job.file_id, *results):
            file = self._place.store.file(file_id) if file_id else None
            if file is not None:
                self._place.store.delete_file(file)


def _own_id(number: int, request: msgspec.Raw) -> str:
    """The number of a line, by which its answer comes back, and its labels, by which a file of faults may know it."""
    try:
        labels = _decode_labels(request).labels or {}
    except msgspec.ValidationError:
        labels = {}
    return " ".join([str(number), *(f"{key}={value}" for key, value in labels.items())])


def now() -> float:
    return round(time.time(), 6)
