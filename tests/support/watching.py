"""A provider whose list is paged, may hold other people's batches, lag or repeat itself, and that may fail by plan."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import structlog
from typing_extensions import override

from airflow_provider_llmbatch.core.polling import PollPolicy
from airflow_provider_llmbatch.core.watcher.watcher import Watcher
from airflow_provider_llmbatch.models import Batch
from support.memory_provider import Clock, MemoryProvider
from support.virtual_time import EPOCH, run_in_virtual_time, wall_clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from airflow_provider_llmbatch.adapters.base import Adapter
    from airflow_provider_llmbatch.core.joint_wait import JointVerdict
    from airflow_provider_llmbatch.core.polling import Look
    from airflow_provider_llmbatch.errors import LLMBatchError

ResultT = TypeVar("ResultT")

DAY = 86_400.0


class HangError(Exception):
    """Raised by a call that is never answered."""


@dataclass
class Called:
    """:param at: Seconds since the test began.
    :param what: ``list``, or the id of the batch that was asked for.
    """

    at: float
    what: str


class PagedProvider(MemoryProvider):
    """``batches`` is the account, oldest first; ``hidden`` are those that its list does not show.

    ``plan`` is asked before each call, with ``list`` or an id, and may raise.
    """

    title: ClassVar[str] = "The provider"

    def __init__(self, page_size: int = 100) -> None:
        super().__init__(Clock(EPOCH))
        self.page_size = page_size
        self.hidden: set[str] = set()
        self.made: list[Called] = []
        self.plan: Callable[[str], None] = lambda _: None
        self.repeats = False
        self.times_closed = 0
        self.listed_id: Callable[[str], str] = lambda batch_id: batch_id

    def hold(self, *batch_ids: str, age: float = 0.0) -> None:
        """Let it hold batches that are running."""
        for batch_id in batch_ids:
            created_at = int(EPOCH - age)
            self.batches[batch_id] = Batch(id=batch_id, status="in_progress", created_at=created_at)

    def finish(self, batch_id: str) -> None:
        self.change(batch_id, status="completed", completed_at=int(wall_clock()))

    def calls_of(self, what: str | None = None) -> int:
        return sum(what in (None, call.what) for call in self.made)

    @override
    def retrieve_batch(self, batch_id: str) -> Batch:
        self._called(batch_id)
        batch = self.batches[batch_id]
        return batch.model_copy(update={"id": self.listed_id(batch_id)})

    @override
    def batch_pages(self) -> Iterator[list[Batch]]:
        shown = [batch_id for batch_id in reversed(self.batches) if batch_id not in self.hidden]
        for begin in range(0, max(len(shown), 1), self.page_size):
            self._called("list")
            page = shown[: self.page_size] if self.repeats else shown[begin : begin + self.page_size]
            yield [self.batches[batch_id].model_copy(update={"id": self.listed_id(batch_id)}) for batch_id in page]

    @override
    def close(self) -> None:
        self.times_closed += 1

    def _called(self, what: str) -> None:
        self.made.append(Called(asyncio.get_running_loop().time(), what))
        self.plan(what)


class InlineThreads:
    """Makes each call at once, in the event loop's own thread; one that hangs is never answered."""

    def __init__(self) -> None:
        self.is_closed = False

    def submit(self, function: Callable[[], ResultT], *, doubtful: bool) -> Future[ResultT]:
        del doubtful
        future: Future[ResultT] = Future()
        try:
            future.set_result(function())
        except HangError:
            pass
        except Exception as error:  # noqa: BLE001 - as a pool of threads does
            future.set_exception(error)
        return future

    def close(self) -> None:
        self.is_closed = True


@dataclass(frozen=True)
class Key:
    """What a connection says, in so far as it matters here."""

    provider: PagedProvider = field(compare=False)
    text: str = "key-1"

    def open(self) -> Adapter:
        return self.provider


@dataclass
class Task:
    """A task that waits: what it was told, and why it ended."""

    told: list[dict[str, Look]] = field(default_factory=list)
    verdict: JointVerdict | None = None


class Bench:
    """A watcher on the virtual clock, and tasks that wait."""

    def __init__(self, provider: PagedProvider, **more: Any) -> None:
        self.provider = provider
        self.threads = InlineThreads()
        self.keys: list[str] = []
        self.key: Callable[[], Key] = lambda: Key(provider)
        self.watcher = Watcher(
            log=structlog.get_logger(), clock=wall_clock, **{"threads": lambda: self.threads, **more}
        )
        self.running: list[asyncio.Task[Task]] = []

    def wait(self, *batch_ids: str, name: str = "conn", deadline: float = DAY, **more: Any) -> Task:
        """Begin to wait, as a trigger does; ``deadline`` in seconds from the beginning of the test."""
        policy = PollPolicy(EPOCH + deadline, more.pop("shortest", 10.0), more.pop("longest", 300.0))
        task = Task()

        async def fetched() -> Key:
            key = self.key()
            self.keys.append(key.text)
            return key

        async def waiting() -> Task:
            async with self.watcher.watch(name, fetched, batch_ids, policy, **more) as subscription:
                while task.verdict is None:
                    if changes := await subscription.changes():
                        task.told.append(dict(changes))
                    task.verdict = subscription.verdict
            return task

        self.running.append(asyncio.create_task(waiting()))
        return task

    async def stop(self) -> None:
        for task in self.running:
            task.cancel()
        await asyncio.gather(*self.running, return_exceptions=True)


@asynccontextmanager
async def bench(provider: PagedProvider, **more: Any) -> AsyncIterator[Bench]:
    made = Bench(provider, **more)
    try:
        yield made
    finally:
        await made.stop()


def names(count: int) -> list[str]:
    return [f"batch_{n:05}" for n in range(count)]


def watched(provider: PagedProvider, play: Callable[[Bench], Awaitable[None]], **more: Any) -> None:
    async def main() -> None:
        async with bench(provider, **more) as made:
            await play(made)

    run_in_virtual_time(main())


def account(count: int, *, foreign: int = 0, age: float = 0.0) -> PagedProvider:
    """``foreign`` batches of others after each of ours."""
    provider = PagedProvider()
    for batch_id in names(count):
        provider.hold(*(f"{batch_id}-foreign-{n}" for n in range(foreign)), batch_id, age=age)
    return provider


def plan_of(error: LLMBatchError, *, what: str | None = None, times: float = float("inf")) -> Callable[[str], None]:
    left = times

    def plan(called: str) -> None:
        nonlocal left
        if what in (None, called) and left > 0:
            left -= 1
            raise error

    return plan
