"""Waiting for the batches of one run together, decided without I/O: whom to look at, when, and when the wait is over.

As in ``core.polling``, a worker and a triggerer drive the same generator. All batches are looked at in one round, so
that their progress makes one line, and a round's pause is that of the batch that needs the next look soonest.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from airflow_provider_llmbatch.core.polling import Done, GiveUp, OutOfTime, Wait, decide, is_refusal
from airflow_provider_llmbatch.errors import LLMBatchError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

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


@dataclass
class _Seen:
    failures: int = 0
    refusals: int = 0

    def decide(self, look: Look, now: float, policy: PollPolicy, jitter: float) -> Wait | Verdict:
        self.failures = self.failures + 1 if isinstance(look, LLMBatchError) else 0
        self.refusals = self.refusals + 1 if is_refusal(look) else 0
        return decide(look, now, policy, failures=self.failures, refusals=self.refusals, jitter=jitter)


def watch_together(
    batch_ids: Sequence[str],
    policy: PollPolicy,
    *,
    resubmit_at: float | None = None,
    any_end: bool = False,
    clock: Callable[[], float] = time.time,
) -> Generator[Round, Mapping[str, Look], JointVerdict]:
    """Yield the next round, take what it saw of each of its batches, and return the verdict.

    :param resubmit_at: When something that did not fit is to be submitted, in seconds since 1970.
    :param any_end: Whether the first batch that ends ends the wait, since another one may take its place.
    """
    running = {batch_id: _Seen() for batch_id in batch_ids}
    until = policy.deadline if resubmit_at is None else min(resubmit_at, policy.deadline)
    seconds = 0.0
    while True:
        left = max(until - clock(), 0.0)
        looks = yield Round(min(seconds, left) if running else left, tuple(running))
        now = clock()
        jitter = random.uniform(-1.0, 1.0)
        decisions = {batch_id: running[batch_id].decide(look, now, policy, jitter) for batch_id, look in looks.items()}
        for batch_id, decision in decisions.items():
            if isinstance(decision, GiveUp):
                return decision
            if isinstance(decision, Done):
                del running[batch_id]
        if len(running) < len(batch_ids) and (any_end or not running):
            return Ended()
        if now >= until:
            return OutOfTime() if now >= policy.deadline else Due()
        seconds = _pause(looks, decisions)


def _pause(looks: Mapping[str, Look], decisions: Mapping[str, Wait | Verdict]) -> float:
    waits = [decision.seconds for decision in decisions.values() if isinstance(decision, Wait)]
    # Who asks to be called later means all calls, not those about one batch.
    asked = [look.retry_after or 0.0 for look in looks.values() if isinstance(look, UnavailableError)]
    return max(min(waits, default=0.0), *asked, 0.0)
