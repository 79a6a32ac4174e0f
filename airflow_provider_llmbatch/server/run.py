"""One batch on its way to its end: its input is checked, the engine asked, each answer kept, and the end is honest.

It goes through OpenAI's statuses in their order. Every step can be killed and done again; what must not happen twice is
written down before it happens.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from airflow_provider_llmbatch.models import (
    Batch,
    BatchError,
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
    from collections.abc import AsyncIterator
    from io import BufferedReader
    from pathlib import Path

    from airflow_provider_llmbatch.server.dialect import Dialect
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
_LINES_AT_ONCE: Final = 500  # answered ones, passed over after a restart, between two turns of everybody else
_decode_line = msgspec.json.Decoder(RequestLine).decode


@dataclass(frozen=True)
class Workplace:
    """What all batches of a server share.

    :param places: One for each request that may be at the engine at once.
    """

    store: Store
    engine: Engine
    places: asyncio.Semaphore
    dialect: Dialect


class BatchRun:
    def __init__(self, workplace: Workplace, batch: Batch) -> None:
        self._engine = workplace.engine
        self._store = workplace.store
        self._places = workplace.places
        self._dialect = workplace.dialect
        self._batch = batch
        self._path = workplace.store.input_of(batch)
        self._answers: Answers | None = None
        self._beginning: asyncio.Task[None] | None = None

    def shown(self) -> Batch:
        """The batch as its owner may see it."""
        return without_results_to_come(self._now())

    def _now(self) -> Batch:
        if self._answers is None:
            return self._batch
        return self._batch.model_copy(update={"request_counts": self._answers.counts(self._batch.request_counts.total)})

    def cancel(self) -> Batch:
        if self._batch.status in ("validating", "in_progress"):
            self._save(status="cancelling", cancelling_at=_seconds())
            self._begin_no_more()
        return self.shown()

    def _begin_no_more(self) -> None:
        if self._beginning is not None:
            self._beginning.cancel()

    def _save(self, **changes: object) -> None:
        self._batch = self._now().model_copy(update=changes)
        self._store.save_batch(self._batch)

    async def to_the_end(self) -> None:
        if not _has_all_answers(self._batch):
            if not self._path.exists():
                self._fail([BatchError(code="invalid_request", message="The content of the input file is gone.")])
                return
            if self._batch.request_counts.total == 0 and not await self._is_valid():
                return
            await self._collect()
        self._finish()

    async def _is_valid(self) -> bool:
        total, model, errors = await asyncio.to_thread(
            validate, self._path, endpoint=self._batch.endpoint or "", dialect=self._dialect
        )
        if not errors and (objection := self._engine.objection(self._batch, model)):
            errors = [objection]
        if errors:
            self._fail(errors)
            return False
        begun = {} if self._batch.status == "cancelling" else {"status": "in_progress", "in_progress_at": _seconds()}
        self._save(request_counts=RequestCounts(total=total), model=model, **begun)
        return True

    def _fail(self, errors: list[BatchError]) -> None:
        self._save(status="failed", failed_at=_seconds(), errors=BatchErrors(data=tuple(errors)))

    async def _collect(self) -> None:
        output, error = (self._store.working_file(self._batch, kind) for kind in ("output", "error"))
        self._answers = answers = await asyncio.to_thread(Answers, output, error, with_ids=self._dialect.lines_have_ids)
        try:
            await self._ask_for_all(answers)
            end = self._early_end(answers) or ("expired" if self._is_open(answers) else "completed")
            if end in _UNEXECUTED:
                await asyncio.to_thread(self._mark_unexecuted, answers, _UNEXECUTED[end])
        finally:
            await asyncio.to_thread(answers.close)
        # The files get their ids before they exist, so that a kill in between makes no second ones.
        ids: dict[str, object] = {
            f"{kind}_file_id": new_id("file-")
            for kind, path, is_wanted in (("output", output, False), ("error", error, self._dialect.error_file_always))
            if is_wanted or _size(path)
        }
        # A batch that is being cancelled stays "cancelling" until it is "cancelled" (OpenAI's statuses).
        if self._batch.status != "cancelling":
            ids |= {"status": "finalizing", "finalizing_at": _seconds()}
        self._save(usage=answers.usage(), **ids)

    async def _ask_for_all(self, answers: Answers) -> None:
        """Ask the engine for what is open, until all is answered or no more may begin; what began is waited for."""
        loop = asyncio.get_running_loop()
        left = None if self._expires_at is None else self._expires_at - time.time()
        with self._path.open("rb") as stream:
            async with asyncio.TaskGroup() as asked:
                self._beginning = asked.create_task(self._begin_all(stream, answers, asked))
                expiry = None if left is None else loop.call_later(max(left, 0), self._begin_no_more)
        self._beginning = None
        if expiry is not None:
            expiry.cancel()

    async def _begin_all(self, stream: BufferedReader, answers: Answers, asked: asyncio.TaskGroup) -> None:
        async for request in self._open_requests(stream, answers):
            if self._early_end(answers) is not None:
                return
            await self._places.acquire()
            if self._early_end(answers) is not None:
                self._places.release()
                return
            # An answer is kept before its place is free: what a kill loses is never more than there are places.
            asked.create_task(self._ask(request, answers)).add_done_callback(self._leave_place)

    def _leave_place(self, _asked: asyncio.Task[None]) -> None:
        self._places.release()

    async def _open_requests(self, stream: BufferedReader, answers: Answers) -> AsyncIterator[RequestLine]:
        passed_over = 0
        for line in stream:
            request = _decode_line(line)
            if request.custom_id not in answers.done:
                yield request
            elif (passed_over := passed_over + 1) % _LINES_AT_ONCE == 0:
                await asyncio.sleep(0)

    async def _ask(self, request: RequestLine, answers: Answers) -> None:
        answer = await self._answer(request, answers)
        if answer is not None:
            answers.add(request.custom_id, answer)

    async def _answer(self, request: RequestLine, answers: Answers) -> Answer | None:
        """``None``: the batch was stopped while the engine was away, and the request stays open."""
        served = self._engine.model
        if served is not None and self._batch.model != served:
            message = f"The model {self._batch.model!r} does not exist here; {served!r} does."
            return refusal(404, "model_not_found", message, "model")
        try:
            return await self._engine.answer_while(request, lambda: self._early_end(answers) is None)
        except Exception as error:  # an engine's fault costs one request, never the batch
            log.exception("The engine failed on a request of %s", self._batch.id)
            return refusal(500, "server_error", f"The engine failed ({type(error).__name__}).")

    def _early_end(self, answers: Answers) -> BatchStatus | None:
        """Why no further request may begin, if there is a reason."""
        if self._batch.status == "cancelling":
            return "cancelled"
        if self._is_over(answers) and self._is_open(answers):
            return "expired"
        return None

    def _is_over(self, answers: Answers) -> bool:
        if self._engine.ends_early(self._batch, len(answers.done)):
            return True
        return self._expires_at is not None and time.time() >= self._expires_at

    @property
    def _expires_at(self) -> int | None:
        return self._batch.expires_at if self._dialect.batches_expire else None

    def _is_open(self, answers: Answers) -> bool:
        return len(answers.done) < self._batch.request_counts.total

    def _mark_unexecuted(self, answers: Answers, reason: ResultError) -> None:
        with self._path.open("rb") as stream:
            for request in map(_decode_line, stream):
                if request.custom_id not in answers.done:
                    answers.add_unexecuted(request.custom_id, reason)

    def _finish(self) -> None:
        for kind, file_id in (("output", self._batch.output_file_id), ("error", self._batch.error_file_id)):
            working = self._store.working_file(self._batch, kind)
            if file_id is None:
                working.unlink(missing_ok=True)
            else:
                self._store.add_file(self._result_file(kind, file_id, working), working)
        end = self._end()
        self._save(status=end, **{_TOLD_AT[end]: _seconds()})

    def _result_file(self, kind: str, file_id: str, working: Path) -> File:
        now, lifetime = _seconds(), self._store.results_lifetime(self._batch)
        file = File(
            id=file_id,
            created_at=now,
            expires_at=None if lifetime is None else now + lifetime,
            filename=f"{self._batch.id}_{kind}.jsonl",
            purpose="batch_output",
            status="processed",
        )
        moved = self._store.content(file)  # a kill may have come between its move and its row
        return file.model_copy(update={"bytes": _size(working if working.exists() else moved)})

    def _end(self) -> BatchStatus:
        if self._batch.cancelling_at is not None:
            return "cancelled"
        counts = self._batch.request_counts
        return "completed" if counts.done >= counts.total else "expired"


def without_results_to_come(batch: Batch) -> Batch:
    """The ids of result files are picked before the files exist, and nobody is told until they do."""
    if batch.is_terminal:
        return batch
    return batch.model_copy(update={"output_file_id": None, "error_file_id": None, "usage": None})


def _has_all_answers(batch: Batch) -> bool:
    return batch.status == "finalizing" or batch.has_results


def _size(path: Path) -> int:
    return path.stat().st_size


def _seconds() -> int:
    return int(time.time())
