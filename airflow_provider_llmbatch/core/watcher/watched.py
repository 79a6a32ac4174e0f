"""The batches that are watched through one connection: which are due, and who is told what a look saw."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from airflow_provider_llmbatch.core.polling import Streak, Wait, decide
from airflow_provider_llmbatch.core.watcher.reading import UNKNOWN
from airflow_provider_llmbatch.models import Batch

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from airflow_provider_llmbatch.core.polling import Look
    from airflow_provider_llmbatch.core.watcher.subscription import Subscription

_DUE: Final = 0.1  # of a pause that may be left: as much as jitter moves it
_SOON: Final = 0.25  # of a pause that may be left for a batch to be looked at along with others
_MOMENTS: Final = ("created_at", "in_progress_at", "completed_at", "failed_at", "expired_at", "cancelled_at")
_AT_ONCE: Final = 32  # looks that are told before the event loop gets a turn

State: TypeAlias = "tuple[str | int | None, ...]"


@dataclass(slots=True)
class Watched:
    """One batch that somebody waits for.

    :param next_look: On the event loop's clock.
    :param pause: Seconds between the last look and the next.
    :param page: The page of the provider's list that it was last seen on.
    :param state: What the last look told, as far as a wait tells of it.
    :param listed_as: Its id in the provider's list.
    """

    next_look: float
    pause: float
    listed_as: str
    page: int = UNKNOWN
    state: State | None = None
    streak: Streak = field(default_factory=Streak)
    subscriptions: list[Subscription] = field(default_factory=list)


class Survey(NamedTuple):
    """:param due: The batches that are due, the longest due first.
    :param soon: Those that are due soon, the others included.
    :param pages: Of all batches, the page of the provider's list that each was last seen on.
    """

    due: list[str]
    soon: list[str]
    pages: dict[str, int]


class WatchedBatches:
    """:param clock: Seconds since 1970."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._time = asyncio.get_running_loop().time
        self._by_id: dict[str, Watched] = {}
        self._by_listed_id: dict[str, str] = {}
        self._to_wake: list[Subscription] = []

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, subscription: Subscription) -> float:
        """:return: When a look is due, on the event loop's clock."""
        pause = subscription.policy.min_interval
        # Not at once: those that begin together are looked at together.
        first = self._time() + pause * _DUE
        for batch_id in subscription.batch_ids:
            watched = self._by_id.get(batch_id)
            if watched is None:
                watched = self._by_id[batch_id] = Watched(first, pause, batch_id)
                self._by_listed_id[batch_id] = batch_id
            watched.next_look = min(watched.next_look, first)
            watched.state = None  # who is new has been told nothing yet
            watched.subscriptions.append(subscription)
        return first

    def remove(self, subscription: Subscription) -> None:
        for batch_id in subscription.batch_ids:
            watched = self._by_id.get(batch_id)
            if watched is not None and subscription in watched.subscriptions:
                watched.subscriptions.remove(subscription)
                self._forget_if_unwatched(batch_id, watched)

    def earliest(self) -> float:
        """When the next look is due, on the event loop's clock; infinity if none is."""
        return min((watched.next_look for watched in self._by_id.values()), default=math.inf)

    def shortest_interval(self) -> float:
        """The shortest pause that anybody asked for, in seconds."""
        policies = (each.policy for watched in self._by_id.values() for each in watched.subscriptions)
        return min((policy.min_interval for policy in policies), default=0.0)

    def longest_interval(self) -> float:
        """The longest pause that everybody accepts, in seconds."""
        policies = (each.policy for watched in self._by_id.values() for each in watched.subscriptions)
        return min((policy.max_interval for policy in policies), default=0.0)

    def survey(self) -> Survey:
        """What a cycle is planned by."""
        now = self._time()
        due: list[tuple[float, str]] = []
        soon: list[str] = []
        pages: dict[str, int] = {}
        for batch_id, watched in self._by_id.items():
            pages[batch_id] = watched.page
            left = watched.next_look - now
            if left <= watched.pause * _SOON:
                soon.append(batch_id)
                if left <= watched.pause * _DUE:
                    due.append((left, batch_id))
        due.sort(key=itemgetter(0))
        return Survey([batch_id for _, batch_id in due], soon, pages)

    def postpone(self, batch_ids: Iterable[str]) -> None:
        """Leave batches to a later cycle, as soon as anybody who waits for them allows."""
        for batch_id in batch_ids:
            if watched := self._by_id.get(batch_id):
                shortest = min(each.policy.min_interval for each in watched.subscriptions)
                watched.next_look = self._time() + shortest

    def expect(self, batch_id: str, page: int) -> None:
        """Remember where to look for a batch in the list."""
        if batch_id in self._by_id:
            self._by_id[batch_id].page = page

    def forget_pages(self) -> None:
        for watched in self._by_id.values():
            watched.page = UNKNOWN

    async def see_page(self, page: Iterable[Batch], number: int, *, jitter: float) -> list[str]:
        """Tell of those batches on a page of the list that are watched, and return their ids."""
        ours = {self._by_listed_id[batch.id]: batch for batch in page if batch.id in self._by_listed_id}
        for batch_id in ours:
            self.expect(batch_id, number)
        await self.see(ours, jitter=jitter)
        return list(ours)

    async def see(self, looks: Mapping[str, Look], *, jitter: float) -> None:
        """Tell of looks. Who waits for several batches wakes no sooner than ``wake_all``."""
        for number, (batch_id, look) in enumerate(looks.items(), 1):
            if watched := self._by_id.get(batch_id):
                self._see_one(batch_id, watched, look, jitter)
            if not number % _AT_ONCE:
                await asyncio.sleep(0)

    async def see_everywhere(self, look: Look, *, besides: Collection[str], jitter: float) -> None:
        """Tell of what concerns all batches, besides those that were told already."""
        await self.see({batch_id: look for batch_id in self._by_id if batch_id not in besides}, jitter=jitter)

    async def wake_all(self) -> None:
        """Wake whoever was told something; one look after the other told them of their batches."""
        to_wake, self._to_wake = self._to_wake, []
        for number, subscription in enumerate(to_wake, 1):
            subscription.wake()
            if not number % _AT_ONCE:
                await asyncio.sleep(0)

    def _see_one(self, batch_id: str, watched: Watched, look: Look, jitter: float) -> None:
        now = self._clock()
        state = _state_of(look)
        is_news = state != watched.state
        watched.state = state
        watched.streak.count(look)
        if isinstance(look, Batch) and look.id != watched.listed_as:
            # Vertex AI takes a project's id and answers with its number.
            self._by_listed_id.pop(watched.listed_as, None)
            watched.listed_as = look.id
            self._by_listed_id[look.id] = batch_id
        kept: Look | None = None
        pause = math.inf
        for subscription in tuple(watched.subscriptions):
            decision = decide(
                look,
                now,
                subscription.policy,
                failures=watched.streak.failures,
                refusals=watched.streak.refusals,
                jitter=jitter,
            )
            if isinstance(decision, Wait):
                pause = min(pause, decision.seconds)
                if not is_news:
                    continue
            else:
                watched.subscriptions.remove(subscription)
            kept = kept or _kept(look)
            subscription.take(batch_id, kept, decision)
            if len(subscription.batch_ids) == 1:
                subscription.wake()
            else:
                self._to_wake.append(subscription)
        watched.pause = pause
        watched.next_look = self._time() + pause
        self._forget_if_unwatched(batch_id, watched)

    def _forget_if_unwatched(self, batch_id: str, watched: Watched) -> None:
        if not watched.subscriptions:
            self._by_id.pop(batch_id, None)
            self._by_listed_id.pop(watched.listed_as, None)


def _state_of(look: Look) -> State:
    if not isinstance(look, Batch):
        return type(look).__name__, look.status_code
    counts = look.request_counts
    return look.status, look.provider_status, counts.total, counts.completed, counts.failed


def _kept(look: Look) -> Look:
    """A batch without what no wait needs: its metadata and errors may be long, and thousands are kept."""
    if not isinstance(look, Batch):
        return look
    moments = {name: getattr(look, name) for name in _MOMENTS}
    return Batch.model_construct(
        id=look.id,
        status=look.status,
        provider_status=look.provider_status,
        request_counts=look.request_counts,
        provider=look.provider,
        model=look.model,
        **moments,
    )
