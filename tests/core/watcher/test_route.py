"""Real threads: what is slow or dead on one way to a provider, and what is closed when."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING

import pytest
import structlog
from support.memory_provider import Clock, MemoryProvider
from typing_extensions import override

from airflow_provider_llmbatch.core.polling import PollPolicy
from airflow_provider_llmbatch.core.watcher.route import Route, ThreadPools
from airflow_provider_llmbatch.core.watcher.watcher import _WATCHERS, Watcher, watcher_of_running_loop
from airflow_provider_llmbatch.errors import UnavailableError
from airflow_provider_llmbatch.models import Batch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_llmbatch.adapters.base import Adapter
    from airflow_provider_llmbatch.core.watcher.route import Access

FAR = 4_000_000_000.0


class OneBatch(MemoryProvider):
    """``answer`` holds up every call until it is set; each then fails if ``is_down``."""

    def __init__(self) -> None:
        super().__init__(Clock())
        self.answer = threading.Event()
        self.answer.set()
        self.is_down = False
        self.under_way = 0
        self.is_closed = False

    @override
    def retrieve_batch(self, batch_id: str) -> Batch:
        assert not self.is_closed
        self.under_way += 1
        try:
            self.answer.wait(10)
            if self.is_down:
                raise UnavailableError("It is down.")
            return Batch(id=batch_id, status="completed")
        finally:
            self.under_way -= 1

    @override
    def close(self) -> None:
        assert not self.under_way
        self.is_closed = True


class Opens:
    """What a connection says, always the same."""

    def __init__(self, provider: OneBatch) -> None:
        self.provider = provider
        self.may_open = threading.Event()
        self.may_open.set()

    def open(self) -> Adapter:
        self.may_open.wait(10)
        return self.provider

    async def __call__(self) -> Access:
        return self


@pytest.fixture
def threads() -> Iterator[ThreadPools]:
    pools = ThreadPools()
    yield pools
    pools.close()


@pytest.fixture
def provider() -> Iterator[OneBatch]:
    provider = OneBatch()
    yield provider
    provider.answer.set()


async def until(is_so: object) -> None:
    async with asyncio.timeout(5):
        while not is_so():  # type: ignore[operator]  # noqa: ASYNC110 - threads set it
            await asyncio.sleep(0.005)


async def ended(watcher: Watcher, name: str, provider: OneBatch) -> float:
    """Seconds until a batch that has ended is seen."""
    begin = time.monotonic()
    async with watcher.watch(name, Opens(provider), ["batch_1"], PollPolicy(FAR, 0.01, 0.02)) as waiting:
        while waiting.verdict is None:
            await waiting.changes()
    return time.monotonic() - begin


def test_connections_that_never_answer_hold_up_no_other_one() -> None:
    dead = [OneBatch() for _ in range(3)]

    async def main() -> float:
        watcher = Watcher(log=structlog.get_logger())
        for provider in dead:
            provider.answer.clear()
        policy = PollPolicy(FAR, 0.01, 0.02)
        waits = [
            watcher.watch(f"dead-{n}", Opens(provider), [f"batch_{m}" for m in range(3)], policy)
            for n, provider in enumerate(dead)
        ]
        await until(lambda: all(provider.under_way == 3 for provider in dead))
        seconds = await ended(watcher, "healthy", OneBatch())
        for provider in dead:
            provider.answer.set()
        for wait in waits:
            await wait.__aexit__(None, None, None)
        return seconds

    assert asyncio.run(main()) < 1
    assert all(provider.is_closed for provider in dead)


def test_connections_that_failed_last_have_threads_of_their_own(threads: ThreadPools, provider: OneBatch) -> None:
    async def main() -> set[str]:
        route = Route(Opens(provider), threads, time.monotonic)
        await route.open()
        names = []
        for provider.is_down in (False, True, False, False):
            await asyncio.gather(route.call(lambda adapter: adapter.retrieve_batch("batch_1")), return_exceptions=True)
            names.append(await route.call(lambda _: threading.current_thread().name.rpartition("_")[0]))
        await route.close()
        return names

    # A call that tells the name answers, so that it is the one after a failure that is made apart.
    assert asyncio.run(main()) == ["llmbatch", "llmbatch-doubtful", "llmbatch", "llmbatch"]


def test_an_adapter_is_closed_when_its_last_call_has_ended_and_nobody_waits_for_that(
    threads: ThreadPools, provider: OneBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_llmbatch.core.watcher.route._SECONDS_TO_CLOSE", 0.05)

    async def main() -> None:
        route = Route(Opens(provider), threads, time.monotonic)
        await route.open()
        provider.answer.clear()
        call = asyncio.create_task(route.call(lambda adapter: adapter.retrieve_batch("batch_1")))
        await until(lambda: provider.under_way)
        call.cancel()
        await route.close()
        assert not provider.is_closed
        provider.answer.set()
        await until(lambda: provider.is_closed)

    asyncio.run(main())


def test_an_adapter_that_is_opened_for_nobody_is_closed(threads: ThreadPools, provider: OneBatch) -> None:
    async def main() -> None:
        says = Opens(provider)
        says.may_open.clear()
        opening = asyncio.create_task(Route(says, threads, time.monotonic).open())
        await asyncio.sleep(0.05)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        says.may_open.set()
        await until(lambda: provider.is_closed)

    asyncio.run(main())


def test_nothing_is_left_of_an_event_loop_that_was_closed_with_all_its_tasks() -> None:
    providers = [OneBatch(), OneBatch()]
    before = set(threading.enumerate())

    async def made() -> Watcher:
        return Watcher(log=structlog.get_logger())

    async def main(provider: OneBatch) -> Watcher:
        provider.answer.clear()
        watcher = await watcher_of_running_loop(made)
        assert await watcher_of_running_loop(made) is watcher
        watcher.watch("conn", Opens(provider), ["batch_1"], PollPolicy(FAR, 0.01, 0.02))
        await until(lambda: provider.under_way)
        provider.answer.set()
        return watcher

    first, second = (asyncio.run(main(provider)) for provider in providers)
    assert first is not second
    assert len(_WATCHERS) <= 1
    assert [provider.is_closed for provider in providers] == [True, True]
    deadline = time.monotonic() + 5
    while set(threading.enumerate()) > before:
        assert time.monotonic() < deadline, threading.enumerate()
        time.sleep(0.01)
