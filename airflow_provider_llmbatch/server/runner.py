"""Every batch that has not ended, each a task of the event loop.

After a restart all of them go on: what was answered is on disk, and only what was in flight is asked again.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from airflow_provider_llmbatch.server.dialect import OPENAI
from airflow_provider_llmbatch.server.run import BatchRun, Workplace, without_results_to_come

if TYPE_CHECKING:
    from airflow_provider_llmbatch.models import Batch
    from airflow_provider_llmbatch.server.dialect import Dialect
    from airflow_provider_llmbatch.server.engines.base import Engine
    from airflow_provider_llmbatch.server.store import Store

log = logging.getLogger(__name__)


class Runner:
    """Begins, resumes, shows and cancels batches. Belongs to one event loop.

    :param concurrency: Requests at the engine at once, over all batches, which share them evenly.
    :param completion_window: Seconds from a batch's creation until what was not begun expires.
    :param dialect: The rules that its batches go by.
    """

    def __init__(
        self,
        store: Store,
        engine: Engine,
        *,
        concurrency: int,
        completion_window: float,
        dialect: Dialect = OPENAI,
    ) -> None:
        self.store = store
        self.completion_window = completion_window
        self._workplace = Workplace(store, engine, asyncio.Semaphore(concurrency), dialect)
        self._running: dict[str, BatchRun] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def resume(self) -> None:
        """Go on with what an earlier process left."""
        for batch in self.store.unfinished_batches():
            self.begin(batch)

    def begin(self, batch: Batch) -> BatchRun:
        run = BatchRun(self._workplace, batch)
        self._running[batch.id] = run
        task = asyncio.create_task(run.to_the_end(), name=batch.id)
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(batch.id, done))
        return run

    def _ended(self, batch_id: str, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._running.pop(batch_id, None)
        if not task.cancelled() and (error := task.exception()):
            log.error("%s stopped and goes on at the next start", batch_id, exc_info=error)

    def batch(self, batch_id: str) -> Batch | None:
        """A batch as it is now."""
        run = self._running.get(batch_id)
        if run is not None:
            return run.shown()
        batch = self.store.batch(batch_id)
        return batch and without_results_to_come(batch)

    async def ended(self, batch_id: str) -> None:
        """Wait until nobody works on a batch any more: it has ended, or broke off and goes on at the next start."""
        if tasks := [task for task in self._tasks if task.get_name() == batch_id]:
            await asyncio.wait(tasks)

    def cancel(self, batch_id: str) -> Batch:
        """Begin to cancel a batch that has not ended; one that had stopped goes on, to its cancelled end."""
        run = self._running.get(batch_id)
        if run is None:
            batch = self.store.batch(batch_id)
            if batch is None:
                raise LookupError(batch_id)
            run = self.begin(batch)
        return run.cancel()

    async def stop(self) -> None:
        """Leave everything as it is; the next start goes on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
