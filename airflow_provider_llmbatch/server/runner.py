"""Runs batches: checks the input, asks the engine with bounded concurrency, keeps each answer, and ends honestly.

A batch goes through OpenAI's statuses in their order. After a restart every batch that had not ended goes on: what was
answered is on disk, and only what was in flight is asked again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final

import msgspec

from airflow_provider_llmbatch.models import (
    Batch,
    BatchErrors,
    BatchStatus,
    File,
    RequestCounts,
    RequestLine,
    ResultError,
)
from airflow_provider_llmbatch.server.answers import Answers
from airflow_provider_llmbatch.server.engines.base import Answer, refusal
from airflow_provider_llmbatch.server.store import new_id
from airflow_provider_llmbatch.server.validation import validate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airflow_provider_llmbatch.server.engines.base import Engine
    from airflow_provider_llmbatch.server.store import Store

log = logging.getLogger(__name__)

# The end of a batch that was stopped, and what its unexecuted requests say (OpenAI's Batch guide; its OpenAPI schema).
_UNEXECUTED: Final[dict[str, ResultError]] = {
    "cancelled": ResultError("batch_cancelled", "This request was not executed because the batch was cancelled."),
    "expired": ResultError("batch_expired", "This request could not be executed before the completion window expired."),
}
_TOLD_AT: Final[dict[str, str]] = {
    "completed": "completed_at",
    "failed": "failed_at",
    "expired": "expired_at",
    "cancelled": "cancelled_at",
}
_decode_line = msgspec.json.Decoder(RequestLine).decode


class Runner:
    """Every batch that has not ended, each a task of the event loop.

    :param concurrency: Requests at the engine at once, over all batches.
    :param completion_window: Seconds from a batch's creation until what was not begun expires.
    """

    def __init__(self, store: Store, engine: Engine, *, concurrency: int, completion_window: float) -> None:
        self.store = store
        self.engine = engine
        self.concurrency = concurrency
        self.completion_window = completion_window
        self.places = asyncio.Semaphore(concurrency)
        self._running: dict[str, _Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def resume(self) -> None:
        """Go on with what an earlier process left."""
        for batch in self.store.unfinished_batches():
            self.begin(batch)

    def begin(self, batch: Batch) -> None:
        run = _Run(self, batch)
        self._running[batch.id] = run
        task = asyncio.create_task(run.to_the_end(), name=batch.id)
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(batch.id, done))

    def _ended(self, batch_id: str, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._running.pop(batch_id, None)
        if not task.cancelled() and (error := task.exception()):
            log.error("%s stopped and goes on at the next start", batch_id, exc_info=error)

    def batch(self, batch_id: str) -> Batch | None:
        """A batch as it is now."""
        run = self._running.get(batch_id)
        return run.now() if run else self.store.batch(batch_id)

    def cancel(self, batch: Batch) -> Batch:
        """Begin to cancel a batch that has not ended."""
        return self._running[batch.id].cancel()

    async def stop(self) -> None:
        """Leave everything as it is; the next start goes on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class _Run:
    """One batch on its way to its end."""

    def __init__(self, runner: Runner, batch: Batch) -> None:
        self._runner = runner
        self._store = runner.store
        self._batch = batch
        self._answers: Answers | None = None

    def now(self) -> Batch:
        if self._answers is None:
            return self._batch
        return self._batch.model_copy(update={"request_counts": self._answers.counts(self._batch.request_counts.total)})

    def cancel(self) -> Batch:
        if self._batch.status in ("validating", "in_progress"):
            self._save(status="cancelling", cancelling_at=_now())
        return self.now()

    def _save(self, **changes: object) -> None:
        self._batch = self.now().model_copy(update=changes)
        self._store.put_batch(self._batch)

    async def to_the_end(self) -> None:
        source = self._store.file(self._batch.input_file_id or "")
        if self._batch.status == "validating" and not await self._valid(source):
            return
        if self._batch.status == "finalizing":
            self._finish()
            return
        if source is None:
            self._fail("The input file was deleted.")
            return
        path = self._store.content(source)
        self._answers = await asyncio.to_thread(
            Answers, self._store.working_file(self._batch, "output"), self._store.working_file(self._batch, "error")
        )
        try:
            await self._answer_all(path)
            end = self._early_end() or "completed"
            if end in _UNEXECUTED:
                await asyncio.to_thread(self._mark_unexecuted, path, _UNEXECUTED[end])
            self._begin_to_finish()
        finally:
            self._answers.close()
        self._finish()

    async def _valid(self, source: File | None) -> bool:
        if source is None:
            self._fail("The input file was deleted.")
            return False
        path = self._store.content(source)
        total, model, errors = await asyncio.to_thread(validate, path, endpoint=self._batch.endpoint or "")
        if not errors and (objection := self._runner.engine.objection(self._batch, model)):
            errors = [objection]
        if errors:
            self._save(status="failed", failed_at=_now(), errors=BatchErrors(data=tuple(errors)))
            return False
        counts = RequestCounts(total=total)
        if self._batch.status == "cancelling":
            self._save(request_counts=counts, model=model)
        else:
            self._save(status="in_progress", in_progress_at=_now(), request_counts=counts, model=model)
        return True

    def _fail(self, reason: str) -> None:
        log.warning("%s failed: %s", self._batch.id, reason)
        self._save(status="failed", failed_at=_now())

    def _early_end(self) -> BatchStatus | None:
        """Why no further request may begin, if there is a reason."""
        if self._batch.status == "cancelling":
            return "cancelled"
        if self._is_over() and self._open_requests():
            return "expired"
        return None

    def _is_over(self) -> bool:
        if self._answers is not None and self._runner.engine.ends_early(self._batch, len(self._answers.done)):
            return True
        return self._batch.expires_at is not None and time.time() >= self._batch.expires_at

    def _open_requests(self) -> bool:
        return self._answers is not None and len(self._answers.done) < self._batch.request_counts.total

    async def _answer_all(self, path: Path) -> None:
        with path.open("rb") as stream:
            lines = self._open_lines(stream)
            async with asyncio.TaskGroup() as workers:
                for _ in range(self._runner.concurrency):
                    workers.create_task(self._answer_from(lines))

    def _open_lines(self, stream: Iterator[bytes]) -> Iterator[RequestLine]:
        """Requests that nobody has answered yet; one iterator serves all workers, so each goes to one of them."""
        for line in stream:
            request = _decode_line(line)
            if self._answers is not None and request.custom_id not in self._answers.done:
                yield request

    async def _answer_from(self, lines: Iterator[RequestLine]) -> None:
        while self._early_end() is None:
            async with self._runner.places:
                request = next(lines, None)
                if request is None:
                    return
                answer = await self._answer(request)
                if self._answers is not None and answer is not None:
                    self._answers.add(request.custom_id, answer)
            await asyncio.sleep(0)  # an engine that never waits would keep everybody else from the loop

    async def _answer(self, request: RequestLine) -> Answer | None:
        """``None``: the batch was stopped while the engine was away, and the request stays open."""
        try:
            return await self._runner.engine.answer_while(request, lambda: self._early_end() is None)
        except Exception as error:  # an engine's fault costs one request, never the batch
            log.exception("The engine failed on a request of %s", self._batch.id)
            return refusal(500, "server_error", f"The engine failed ({type(error).__name__}).")

    def _mark_unexecuted(self, path: Path, reason: ResultError) -> None:
        if self._answers is None:
            return
        with path.open("rb") as stream:
            for request in self._open_lines(stream):
                self._answers.add_unexecuted(request.custom_id, reason)

    def _begin_to_finish(self) -> None:
        """Give the result files their ids before they exist, so that a kill in between makes no second ones."""
        if self._answers is None:
            return
        ids = {
            f"{kind}_file_id": new_id("file-")
            for kind in ("output", "error")
            if self._store.working_file(self._batch, kind).stat().st_size
        }
        self._save(usage=self._answers.usage(), **ids, **self._finalizing())

    def _finalizing(self) -> dict[str, object]:
        # A batch that is being cancelled stays "cancelling" until it is "cancelled" (OpenAI's statuses).
        if self._batch.status == "cancelling":
            return {"finalizing_at": None, "status": "finalizing"}
        return {"finalizing_at": _now(), "status": "finalizing"}

    def _finish(self) -> None:
        for kind, file_id in (("output", self._batch.output_file_id), ("error", self._batch.error_file_id)):
            working = self._store.working_file(self._batch, kind)
            if file_id is None:
                working.unlink(missing_ok=True)
                continue
            size = working.stat().st_size if working.exists() else 0
            file = File(
                id=file_id,
                bytes=size,
                created_at=_now(),
                filename=f"{self._batch.id}_{kind}.jsonl",
                purpose="batch_output",
                status="processed",
            )
            self._store.add_file(file, working)
        end = self._end()
        self._save(status=end, **{_TOLD_AT[end]: _now()})

    def _end(self) -> BatchStatus:
        if self._batch.cancelling_at is not None:
            return "cancelled"
        counts = self._batch.request_counts
        return "completed" if counts.done >= counts.total else "expired"


def _now() -> int:
    return int(time.time())
