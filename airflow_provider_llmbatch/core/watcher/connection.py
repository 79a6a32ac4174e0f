"""The poll loop of one connection: begins with the first task that waits, and ends with the last."""

from __future__ import annotations

import asyncio
import math
import random
from contextvars import Context
from typing import TYPE_CHECKING, Final

from airflow_provider_llmbatch.core.watcher.cycle import Cycles
from airflow_provider_llmbatch.core.watcher.route import Route
from airflow_provider_llmbatch.core.watcher.watched import WatchedBatches
from airflow_provider_llmbatch.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import FilteringBoundLogger

    from airflow_provider_llmbatch.core.telemetry import Telemetry
    from airflow_provider_llmbatch.core.watcher.route import Fetch, Threads
    from airflow_provider_llmbatch.core.watcher.subscription import Subscription
    from airflow_provider_llmbatch.errors import LLMBatchError

_JITTER: Final = 0.1
_SECONDS_FOR_A_PAGE: Final = 2.0  # of the list: the more of them there are, the less often they are read
_LONGEST_REST: Final = 30.0


class ConnectionLoop:
    """:param name: The connection's id.
    :param clock: Seconds since 1970.
    :param log: Of the process, not of a task: told when the state of the connection changes.
    :param ended: Called when the loop has ended and nothing of it is left.
    """

    def __init__(
        self,
        name: str,
        fetch: Fetch,
        threads: Threads,
        *,
        clock: Callable[[], float],
        telemetry: Telemetry,
        log: FilteringBoundLogger,
        ended: Callable[[ConnectionLoop], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        self._name = name
        self._telemetry = telemetry
        self._log = log
        self._time = loop.time
        self._route = Route(fetch, threads, loop.time)
        self._batches = WatchedBatches(clock)
        self._cycles = Cycles(name, self._route, self._batches, loop.time, telemetry)
        self._subscriptions: set[Subscription] = set()
        self._is_sooner = asyncio.Event()
        self._sleeps_until = -math.inf
        self._troubles = 0
        self._not_before = -math.inf
        # In an empty context: in that of the first task, all that is logged here would go to that task's log.
        self._task = loop.create_task(self._run(), name=f"llmbatch watcher of {name}", context=Context())
        self._task.add_done_callback(lambda _: ended(self))

    def add(self, subscription: Subscription) -> None:
        self._subscriptions.add(subscription)
        if max(self._batches.add(subscription), self._not_before) < self._sleeps_until:
            self._is_sooner.set()

    def remove(self, subscription: Subscription) -> asyncio.Task[None] | None:
        """:return: If it was the last one, the task that ends now."""
        self._batches.remove(subscription)
        self._subscriptions.discard(subscription)
        if self._subscriptions:
            return None
        self._task.cancel()
        return self._task

    def abandon(self) -> None:
        """Give back what is held, after the event loop was closed."""
        self._route.give_up()

    async def _run(self) -> None:
        try:
            while True:
                await self._until_due()
                begun = self._time()
                self._heed(await self._cycles.look(), begun)
                self._telemetry.gauge("batches.watched", len(self._batches), connection=self._name)
        except Exception as error:  # noqa: BLE001 - raised where it is heard: in those who wait
            for subscription in self._subscriptions:
                subscription.fail(error)
        finally:
            self._telemetry.gauge("batches.watched", 0, connection=self._name)
            await self._route.close()

    async def _until_due(self) -> None:
        while True:
            self._is_sooner.clear()
            self._sleeps_until = max(self._batches.earliest(), self._not_before)
            seconds = self._sleeps_until - self._time()
            if seconds <= 0:
                break
            try:
                async with asyncio.timeout(None if seconds == math.inf else seconds):
                    await self._is_sooner.wait()
            except TimeoutError:
                break
        self._sleeps_until = -math.inf

    def _heed(self, trouble: LLMBatchError | None, begun: float) -> None:
        """Back off from a connection that is in trouble, and let one rest whose list is long.

        Batches that began or were seen one after the other would else each have the whole list read.
        """
        if trouble is None:
            if self._troubles > 1:
                self._log.info(f"The connection {self._name!r} answers again.")
            self._troubles = 0
            rest = min(self._cycles.pages_read * _SECONDS_FOR_A_PAGE, _LONGEST_REST)
            self._not_before = begun + min(rest, self._batches.longest_interval())
            return
        self._troubles += 1
        if self._troubles == 2:
            self._log.warning(f"{trouble} {len(self._batches):,} batches of the connection {self._name!r} wait on.")
        shortest, longest = self._batches.shortest_interval(), self._batches.longest_interval()
        pause = min(shortest * 2 ** min(self._troubles - 1, 16), longest)
        asked = trouble.retry_after if isinstance(trouble, UnavailableError) else None
        spread = _JITTER * random.random()  # never sooner than asked
        self._not_before = self._time() + max(pause, asked or 0.0) * (1.0 + spread)
