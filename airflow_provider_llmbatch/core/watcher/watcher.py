"""The watcher of an event loop: one poll loop for each connection that anybody waits on."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from airflow_provider_llmbatch.core.joint_wait import JointWait
from airflow_provider_llmbatch.core.telemetry import OFF
from airflow_provider_llmbatch.core.watcher.connection import ConnectionLoop
from airflow_provider_llmbatch.core.watcher.route import ThreadPools
from airflow_provider_llmbatch.core.watcher.subscription import Subscription

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from structlog.typing import FilteringBoundLogger

    from airflow_provider_llmbatch.core.polling import PollPolicy
    from airflow_provider_llmbatch.core.telemetry import Telemetry
    from airflow_provider_llmbatch.core.watcher.route import Fetch, Threads

_WATCHERS: Final[dict[asyncio.AbstractEventLoop, Watcher]] = {}


class Watcher:
    """:param log: Of the process, not of a task.
    :param clock: Seconds since 1970.
    :param threads: Makes the threads, when the first connection is watched.
    """

    def __init__(
        self,
        *,
        log: FilteringBoundLogger,
        telemetry: Telemetry = OFF,
        clock: Callable[[], float] = time.time,
        threads: Callable[[], Threads] = ThreadPools,
    ) -> None:
        self._log = log
        self._telemetry = telemetry
        self._clock = clock
        self._make_threads = threads
        self._threads: Threads | None = None
        self._loops: dict[str, ConnectionLoop] = {}
        self._alive = 0
        """Loops that have not ended, those that are ending included."""

    def watch(
        self,
        name: str,
        fetch: Fetch,
        batch_ids: Iterable[str],
        policy: PollPolicy,
        *,
        resubmit_at: float | None = None,
        any_end: bool = False,
    ) -> Subscription:
        """Watch batches; use it in ``async with``, whose end ends it.

        :param name: The connection's id; those who name the same one share its calls.
        :param fetch: Used if nobody watches that connection yet.
        :param resubmit_at: As for ``JointWait``.
        :param any_end: As for ``JointWait``.
        """
        wait = JointWait(batch_ids, policy, resubmit_at=resubmit_at, any_end=any_end)
        loop = self._loop_of(name, fetch) if wait.running else None

        def leave(subscription: Subscription) -> asyncio.Task[None] | None:
            ending = loop.remove(subscription) if loop is not None else None
            if ending is not None:
                self._forget(name, loop)
            return ending

        subscription = Subscription(wait, leave, self._clock)
        if loop is not None:
            loop.add(subscription)
        return subscription

    def abandon(self) -> None:
        """Give back what is held, after the event loop was closed without ending its tasks."""
        for loop in self._loops.values():
            loop.abandon()
        if self._threads is not None:
            self._threads.close()

    def _loop_of(self, name: str, fetch: Fetch) -> ConnectionLoop:
        if name not in self._loops:
            self._threads = self._threads or self._make_threads()
            self._alive += 1
            self._loops[name] = ConnectionLoop(
                name,
                fetch,
                self._threads,
                clock=self._clock,
                telemetry=self._telemetry,
                log=self._log,
                ended=partial(self._ended, name),
            )
        return self._loops[name]

    def _forget(self, name: str, loop: ConnectionLoop | None) -> None:
        if self._loops.get(name) is loop:
            del self._loops[name]

    def _ended(self, name: str, loop: ConnectionLoop) -> None:
        self._forget(name, loop)
        self._alive -= 1
        if not self._alive and self._threads is not None:
            self._threads.close()
            self._threads = None


async def watcher_of_running_loop(make: Callable[[], Awaitable[Watcher]]) -> Watcher:
    """The one watcher of the event loop that runs; nothing is kept across event loops.

    :param make: Makes it if there is none yet; if several tasks do so at once, one of those is kept.
    """
    running = asyncio.get_running_loop()
    if running not in _WATCHERS:
        made = await make()
        for closed in [loop for loop in _WATCHERS if loop.is_closed()]:
            _WATCHERS.pop(closed).abandon()
        _WATCHERS.setdefault(running, made)
    return _WATCHERS[running]
