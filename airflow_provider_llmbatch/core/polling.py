"""Waiting for a batch, decided without I/O: (batch or error, now) -> wait, done, give up, out of time.

Nothing here sleeps, asks or logs. A worker and a triggerer drive the same generator, each with its own sleep and its
own way to ask, so that they cannot come to differ.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from airflow_provider_llmbatch.errors import AccessRefusedError, LLMBatchError, NotFoundError, UnavailableError
from airflow_provider_llmbatch.models import Batch

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

_SHARE_OF_AGE: Final = 0.05
_JITTER: Final = 0.1
_REFUSALS_TO_BELIEVE: Final = 3


@dataclass(frozen=True)
class PollPolicy:
    """How long and how often to look.

    :param deadline: When to give up, in seconds since 1970: wall-clock time, so that a restart does not move it.
    :param min_interval: Seconds between two looks at a young batch.
    :param max_interval: Seconds between two looks at an old one; between them a twentieth of its age.
    """

    deadline: float
    min_interval: float = 10.0
    max_interval: float = 300.0


@dataclass(frozen=True)
class Wait:
    """Look again after so many seconds."""

    seconds: float


@dataclass(frozen=True)
class Done:
    """The batch ended, well or badly."""

    batch: Batch


@dataclass(frozen=True)
class GiveUp:
    """Looking on is pointless, and says nothing about the batch: it may still run."""

    error: LLMBatchError


@dataclass(frozen=True)
class OutOfTime:
    """The deadline passed, and the batch has not ended as far as is known."""


Look: TypeAlias = Batch | LLMBatchError
Verdict: TypeAlias = Done | GiveUp | OutOfTime


def decide(
    look: Look, now: float, policy: PollPolicy, *, failures: int, refusals: int = 0, jitter: float = 0.0
) -> Wait | Verdict:
    """What one look means.

    :param look: The batch, or why it could not be seen.
    :param now: Seconds since 1970.
    :param failures: How many looks in a row failed, this one included.
    :param refusals: How many in a row, this one included, were refused rather than failed: an outage before them does
        not make them any more credible.
    :param jitter: From -1 to 1: spreads the looks of many tasks that began together.
    """
    if isinstance(look, Batch) and look.is_terminal:
        return Done(look)
    if isinstance(look, LLMBatchError) and not _is_bearable(look, refusals):
        return GiveUp(look)
    if now >= policy.deadline:
        return OutOfTime()
    seconds = _interval(look, now, policy, failures) * (1.0 + _JITTER * jitter)
    if isinstance(look, UnavailableError) and look.retry_after is not None:
        seconds = max(seconds, look.retry_after * (1.0 + _JITTER * abs(jitter)))  # never sooner than asked
    return Wait(min(seconds, policy.deadline - now))


def _interval(look: Look, now: float, policy: PollPolicy, failures: int) -> float:
    if isinstance(look, Batch):
        age = now - look.created_at if look.created_at is not None else 0.0
        return _between(policy.min_interval, age * _SHARE_OF_AGE, policy.max_interval)
    return _between(policy.min_interval, policy.min_interval * 2 ** min(failures - 1, 16), policy.max_interval)


def _between(low: float, value: float, high: float) -> float:
    return max(low, min(value, high))


def is_refusal(look: Look) -> bool:
    """Whether the key or the batch was refused: not believed before it was heard a few times in a row."""
    return isinstance(look, AccessRefusedError | NotFoundError)


def _is_bearable(error: LLMBatchError, refusals: int) -> bool:
    """Outages are borne up to the deadline. Refusals are not believed at once: keys are rotated, and listings lag."""
    return refusals < _REFUSALS_TO_BELIEVE if is_refusal(error) else error.retriable


@dataclass(slots=True)
class Streak:
    """How many looks at one batch failed in a row, and how many of the last were refused."""

    failures: int = 0
    refusals: int = 0

    def decide(self, look: Look, now: float, policy: PollPolicy, *, jitter: float) -> Wait | Verdict:
        """Count a look, and decide as ``decide`` does."""
        self.count(look)
        return decide(look, now, policy, failures=self.failures, refusals=self.refusals, jitter=jitter)

    def count(self, look: Look) -> None:
        self.failures = self.failures + 1 if isinstance(look, LLMBatchError) else 0
        self.refusals = self.refusals + 1 if is_refusal(look) else 0


def watch(policy: PollPolicy, *, clock: Callable[[], float] = time.time) -> Generator[Wait, Look, Verdict]:
    """Yield how long to wait before the next look, take what it saw, and return the verdict."""
    streak = Streak()
    look = yield Wait(0.0)
    while True:
        decision = streak.decide(look, clock(), policy, jitter=random.uniform(-1.0, 1.0))
        if not isinstance(decision, Wait):
            return decision
        look = yield decision
