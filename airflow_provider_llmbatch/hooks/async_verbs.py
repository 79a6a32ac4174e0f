"""The hook's verbs for async tasks: each runs the synchronous one in a thread, so that no adapter exists twice.

A coroutine that is cancelled lets its call go on in its thread, and throws the answer away: what was asked for may have
been done.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Final, Literal, ParamSpec, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
    from concurrent.futures import Future

    from pydantic import BaseModel, JsonValue

    from airflow_provider_llmbatch.core.costs.bill import Costs
    from airflow_provider_llmbatch.core.costs.estimate import Estimate
    from airflow_provider_llmbatch.hooks.batch import LLMBatchHook, Source
    from airflow_provider_llmbatch.models import Batch, File, Result

T = TypeVar("T")
P = ParamSpec("P")

# Our own, since the event loop's default pool has six threads on two cores, which everything in the process shares.
_THREADS: Final = ThreadPoolExecutor(max_workers=16, thread_name_prefix="llmbatch-async")

_ITEMS_AT_ONCE: Final = (
    100  # what one step of a thread brings: a thread for each single line would take most of the time
)


class AsyncVerbs:
    """Mixed into ``LLMBatchHook``. The connection is fetched without blocking the event loop."""

    async def acreate_file(
        self, source: Source, *, purpose: str = "batch", filename: str | None = None, expires_after: int | None = None
    ) -> File:
        """``create_file`` for async tasks."""
        hook = await self._ready()
        return await _in_thread(
            hook.create_file, source, purpose=purpose, filename=filename, expires_after=expires_after
        )

    async def aretrieve_file(self, file_id: str) -> File:
        """``retrieve_file`` for async tasks."""
        hook = await self._ready()
        return await _in_thread(hook.retrieve_file, file_id)

    def alist_files(self, *, purpose: str | None = None, limit: int | None = None) -> AsyncGenerator[File, None]:
        """``list_files`` for async tasks."""
        return self._pulled(lambda hook: hook.list_files(purpose=purpose, limit=limit), _ITEMS_AT_ONCE)

    async def adelete_file(self, file_id: str) -> None:
        """``delete_file`` for async tasks."""
        hook = await self._ready()
        await _in_thread(hook.delete_file, file_id)

    def afile_content(self, file_id: str) -> AsyncGenerator[bytes, None]:
        """``file_content`` for async tasks: a block is read when it is asked for."""
        return self._pulled(lambda hook: hook.file_content(file_id), 1)

    async def acreate_batch(
        self,
        input_file_id: str,
        *,
        endpoint: str = "/v1/chat/completions",
        completion_window: str = "24h",
        metadata: Mapping[str, str] | None = None,
        output_expires_after: int | None = None,
    ) -> Batch:
        """``create_batch`` for async tasks: one attempt, which a cancelled coroutine does not take back.

        :raises LostAnswerError: The batch may exist: look with ``alist_batches`` before calling again.
        """
        hook = await self._ready()
        return await _in_thread(
            hook.create_batch,
            input_file_id,
            endpoint=endpoint,
            completion_window=completion_window,
            metadata=metadata,
            output_expires_after=output_expires_after,
        )

    async def aretrieve_batch(self, batch_id: str) -> Batch:
        """``retrieve_batch`` for async tasks."""
        hook = await self._ready()
        return await _in_thread(hook.retrieve_batch, batch_id)

    def alist_batches(self, *, after: str | None = None, limit: int | None = None) -> AsyncGenerator[Batch, None]:
        """``list_batches`` for async tasks."""
        return self._pulled(lambda hook: hook.list_batches(after=after, limit=limit), _ITEMS_AT_ONCE)

    async def abatch_cost(self, batch: Batch | str) -> Costs:
        """``batch_cost`` for async tasks."""
        hook = await self._ready()
        return await _in_thread(hook.batch_cost, batch)

    async def acancel_batch(self, batch_id: str) -> Batch:
        """``cancel_batch`` for async tasks."""
        hook = await self._ready()
        return await _in_thread(hook.cancel_batch, batch_id)

    def aresults(self, batch_id: str) -> AsyncGenerator[Result, None]:
        """``results`` for async tasks: lines are read on when those that were read are used up."""
        return self._pulled(lambda hook: hook.results(batch_id), _ITEMS_AT_ONCE)

    async def aestimate_cost(
        self,
        source: str | Iterable[object],
        *,
        source_format: Literal["jsonl", "csv", "parquet"] | None = None,
        prompt: str | None = None,
        system: str | None = None,
        model: str | None = None,
        parameters: Mapping[str, JsonValue] | None = None,
        response_format: type[BaseModel] | Mapping[str, JsonValue] | None = None,
        endpoint: str = "/v1/chat/completions",
    ) -> Estimate:
        """``estimate_cost`` for async tasks."""
        hook = await self._ready()
        return await _in_thread(
            hook.estimate_cost,
            source,
            source_format=source_format,
            prompt=prompt,
            system=system,
            model=model,
            parameters=parameters,
            response_format=response_format,
            endpoint=endpoint,
        )

    async def _ready(self) -> LLMBatchHook:
        """The hook with its connection and adapter, which its synchronous verbs would fetch in a blocking way."""
        hook = cast("LLMBatchHook", self)
        made = vars(hook)  # where cached_property looks
        if "adapter" not in made:
            connection = made.get("connection") or await hook.aget_connection(hook.llmbatch_conn_id)
            adapter = await _in_thread(hook.adapter_of, connection)
            made.setdefault("connection", connection)
            if made.setdefault("adapter", adapter) is not adapter:
                adapter.close()  # another coroutine was faster
        return hook

    async def _pulled(self, verb: Callable[[LLMBatchHook], Iterator[T]], at_once: int) -> AsyncGenerator[T, None]:
        """What an iterator brings, at most ``at_once`` items ahead; it is closed when nobody wants more of it."""
        items = await _in_thread(verb, await self._ready())
        step: Future[tuple[list[T], Exception | None]] | None = None
        try:
            while True:
                step = _submit(partial(_next_items, items, at_once))
                block, error = await asyncio.wrap_future(step)
                for item in block:
                    yield item
                if error is not None:
                    raise error
                if len(block) < at_once:
                    return
        finally:
            # A step that still runs closes it when it ends: a generator cannot be closed while it works.
            if step is not None and (close := getattr(items, "close", None)):
                step.add_done_callback(lambda _: close())


def _submit(function: Callable[[], T]) -> Future[T]:
    # With the caller's context, in which Airflow keeps where a task's log lines go.
    return _THREADS.submit(copy_context().run, function)


async def _in_thread(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    return await asyncio.wrap_future(_submit(partial(function, *args, **kwargs)))


def _next_items(items: Iterator[T], count: int) -> tuple[list[T], Exception | None]:
    """Some items, and the error that ended them: what came before an error is not lost with it."""
    block: list[T] = []
    try:
        block.extend(islice(items, count))
    except Exception as error:  # noqa: BLE001 - raised again in the coroutine
        return block, error
    return block, None
