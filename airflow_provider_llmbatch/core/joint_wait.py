"""Waiting for the batches of one run together, decided without I/O: whom to look at, when, and when the wait is over.

A worker looks at all of them in one round, whose pause is that of the batch that needs the next look soonest. A
triggerer is told of each batch when it changes (``core.watcher``). What looks mean is the same in both.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from airflow_provider_llmbatch.core.polling import Done, GiveUp, OutOfTime, Streak, Wait
from airflow_provider_llmbatch.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping, Sequence

    from airflow_provider_llmbatch.core.polling import Look, PollPolicy, Verdict


@dataclass(frozen=True)
class Round:
    """Look at these batches after so many seconds; at none of them, if it is only time that is waited for."""

    seconds: float
    batch_ids: tuple[str, ...]


@dataclass(frozen=True)
class Ended:
    """All batches ended, well or badly; or one did, and that was to be told."""


@dataclass(frozen=True)
class Due:
    """The moment came to submit what did not fit before."""


JointVerdict: TypeAlias = Ended | Due | GiveUp | OutOfTime


class JointWait:
    """What looks at several batches mean together, however they are made.

    :param resubmit_at: When something that did not fit is to be submitted, in seconds since 1970.
    :param any_end: Whether the first batch that ends ends the wait, since another one may take its place.
    """

    __slots__ = ("_any_end", "_given_up", "_has_ended", "policy", "running", "until")

    def __init__(
        self,
        batch_ids: Iterable[str],
        policy: PollPolicy,
        *,
        resubmit_at: float | None = None,
        any_end: bool = False,
    ) -> None:
        self.policy = policy
        self.running = dict.fromkeys(batch_ids)
        """The batches that have not ended yet."""
        self.until = policy.deadline if resubmit_at is None else min(resubmit_at, policy.deadline)
        """When the wait ends by itself, in seconds since 1970."""
        self._any_end = any_end
        self._has_ended = False
        self._given_up: GiveUp | None = None

    def take(self, batch_id: str, decision: Wait | Verdict) -> None:
        """Take what a look at one of the batches means for that one."""
        if isinstance(decision, GiveUp):
            self._given_up = self._given_up or decision
        elif isinstance(decision, Done):
            self.running.pop(batch_id, None)
            self._has_ended = True

    def verdict(self, now: float) -> JointVerdict | None:
        """What ends the wait, if anything does; ``now`` in seconds since 1970."""
        if self._given_up is not None:
            return self._given_up
        if self._has_ended and (self._any_end or not self.running):
            return Ended()
        if now >= self.until:
            return OutOfTime() if now >= self.policy.deadline else Due()
        return None


def watch_together(
    batch_ids: Sequence[str],
    policy: PollPolicy,
    *,
    resubmit_at: float | None = None,
    any_end: bool = False,
    clock: Callable[[], float] = time.time,
) -> Generator[Round, Mapping[str, Look], JointVerdict]:
    """Yield the next round, take what it saw of each of its batches, and return the verdict.

    The parameters are those of ``JointWait``.
    """
    wait = JointWait(batch_ids, policy, resubmit_at=resubmit_at, any_end=any_end)
    streaks = {batch_id: Streak() for batch_id in wait.running}
    seconds = 0.0
    while True:
        left = max(wait.until - clock(), 0.0)
        looks = yield Round(min(seconds, left) if wait.running else left, tuple(wait.running))
        now = clock()
        jitter = random.uniform(-1.0, 1.0)
        decisions = {
            batch_id: streaks[batch_id].decide(look, now, policy, jitter=jitter) for batch_id, look in looks.items()
        }
        for batch_id, decision in decisions.items():
            wait.take(batch_id, decision)
        verdict = wait.verdict(now)
        if verdict is not None:
            return verdict
        seconds = _pause(looks, decisions)


def _pause(looks: Mapping[str, Look], decisions: Mapping[str, Wait | Verdict]) -> float:
    waits = [decision.seconds for decision in decisions.values() if isinstance(decision, Wait)]
    # Who asks to be called later means all calls, not those about one batch.
    asked = [look.retry_after or 0.0 for look in looks.values() if isinstance(look, UnavailableError)]
    return max(min(waits, default=0.0), *asked, 0.0)
