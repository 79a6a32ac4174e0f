"""The way to one provider: an adapter that is opened when needed, renewed, and closed when its last call has ended."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, TypeVar

from airflow_provider_llmbatch.errors import LLMBatchError, RateLimitError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from concurrent.futures import Future

    from airflow_provider_llmbatch.adapters.base import Adapter

ResultT = TypeVar("ResultT")

_THREADS: Final = 16
_DOUBTFUL_THREADS: Final = 4
_RENEWAL_SECONDS: Final = 600.0
_SECONDS_TO_CLOSE: Final = 1.0  # for calls that are under way; later ones close by themselves


class Access(Protocol):
    """What a connection says at one moment; equal to another one that says the same."""

    def open(self) -> Adapter:
        """Make the adapter; blocks.

        :raises LLMBatchError: It cannot be made.
        """


Fetch: TypeAlias = "Callable[[], Awaitable[Access]]"
"""Fetches what the connection says now; raises ``LLMBatchError`` if it cannot be had."""


class Threads(Protocol):
    """Where calls that block are made."""

    def submit(self, function: Callable[[], ResultT], *, doubtful: bool) -> Future[ResultT]:
        """Call it as soon as a thread is free.

        :param doubtful: Whether the last call of its connection failed, so that this one may take long.
        """

    def close(self) -> None:
        """Let the threads go; those that are busy end with their calls."""


class ThreadPools:
    """First come, first served; connections that failed last have few threads apart, where they hold up nobody else.

    The pools are the package's own, since an event loop's default one has six threads on two cores, which every
    provider's triggers share. Threads are made when first needed.
    """

    def __init__(self) -> None:
        self._answering = ThreadPoolExecutor(_THREADS, thread_name_prefix="llmbatch")
        self._doubtful = ThreadPoolExecutor(_DOUBTFUL_THREADS, thread_name_prefix="llmbatch-doubtful")

    def submit(self, function: Callable[[], ResultT], *, doubtful: bool) -> Future[ResultT]:
        return (self._doubtful if doubtful else self._answering).submit(function)

    def close(self) -> None:
        for pool in (self._answering, self._doubtful):
            pool.shutdown(wait=False)


class _Opened:
    """An adapter that several threads use, closed once it is given up and none uses it any more."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self._adapter: Adapter | None = None
        self._lock = threading.Lock()
        self._calls = 0
        self._is_given_up = False

    def open(self) -> None:
        """Make the adapter; blocks."""
        adapter = self.access.open()
        with self._lock:
            self._adapter = adapter
            is_over = self._is_given_up
        if is_over:
            adapter.close()

    def call(self, function: Callable[[Adapter], ResultT]) -> ResultT:
        """Use the adapter; blocks."""
        with self._lock:
            adapter = self._adapter
            if adapter is None or self._is_given_up:
                raise UnavailableError("The connection was closed before it was used.", reached=False)
            self._calls += 1
        try:
            return function(adapter)
        finally:
            if self._last_call_ended():
                adapter.close()

    def _last_call_ended(self) -> bool:
        with self._lock:
            self._calls -= 1
            return self._is_given_up and not self._calls

    def give_up(self) -> None:
        """Close the adapter, now or when the last call of it ends."""
        with self._lock:
            adapter = None if self._is_given_up or self._calls else self._adapter
            self._is_given_up = True
        if adapter is not None:
            adapter.close()


class Route:
    """Calls a provider through one connection, off the event loop.

    :param fetch: Asked at the start, every ten minutes, and after a refusal.
    :param clock: Seconds, of any origin.
    """

    def __init__(self, fetch: Fetch, threads: Threads, clock: Callable[[], float]) -> None:
        self._fetch = fetch
        self._threads = threads
        self._clock = clock
        self._opened: _Opened | None = None
        self._renew_at = 0.0
        self._under_way: set[Future[Any]] = set()
        self.is_doubtful = False
        """Whether the last call failed for want of an answer."""

    async def open(self) -> None:
        """Make sure that there is an adapter, made of what the connection said within the last ten minutes.

        :raises LLMBatchError: There is none to be had; an adapter that was there already is kept instead.
        """
        if self._opened is None:
            await self._reopen(await self._fetch())
        elif self._clock() >= self._renew_at:
            self._renew_at = self._clock() + _RENEWAL_SECONDS
            try:
                access = await self._fetch()
                if access != self._opened.access:
                    await self._reopen(access)
            except LLMBatchError:
                pass  # what works is kept: secrets backends have outages too

    async def renew(self) -> bool:
        """Make the adapter anew after a refusal.

        :return: Whether the connection says something else than before.
        """
        before = self._opened.access if self._opened else None
        try:
            access = await self._fetch()
            # Also if it says the same: a file that it names may hold another key.
            await self._reopen(access)
        except LLMBatchError:
            return False
        return access != before

    async def call(self, function: Callable[[Adapter], ResultT]) -> ResultT:
        """Call an adapter's verb in a thread.

        :raises LLMBatchError: Whatever went wrong. What nobody foresaw does not pass by itself, and is told without
            its text, which may quote anything.
        """
        opened = self._opened
        if opened is None:
            raise RuntimeError("the route is not open")
        try:
            result = await self._in_thread(lambda: opened.call(function))
        except LLMBatchError as error:
            self.is_doubtful = isinstance(error, UnavailableError) and not isinstance(error, RateLimitError)
            raise
        except Exception as error:
            raise LLMBatchError(f"Looking failed in a way that nobody foresaw ({type(error).__name__}).") from error
        self.is_doubtful = False
        return result

    async def close(self) -> None:
        """Give the adapter back; waits a moment for calls that are under way."""
        self.give_up()
        calls = [asyncio.wrap_future(call) for call in tuple(self._under_way)]
        if calls:
            await asyncio.wait(calls, timeout=_SECONDS_TO_CLOSE)
        for call in calls:
            call.cancel()  # those that take longer close the adapter themselves

    def give_up(self) -> None:
        """Give the adapter back at once; where calls are under way, the last of them closes it."""
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.give_up()

    async def _reopen(self, access: Access) -> None:
        opened = _Opened(access)
        try:
            await self._in_thread(opened.open)
        except BaseException:
            opened.give_up()
            raise
        self.give_up()
        self._opened = opened
        self._renew_at = self._clock() + _RENEWAL_SECONDS

    async def _in_thread(self, function: Callable[[], ResultT]) -> ResultT:
        call = self._threads.submit(function, doubtful=self.is_doubtful)
        self._under_way.add(call)
        call.add_done_callback(self._under_way.discard)
        return await asyncio.wrap_future(call)
