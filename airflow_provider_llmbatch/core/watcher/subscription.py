"""What one waiting task sees of its batches: it wakes when one of them changed, or when time ends its wait."""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import TYPE_CHECKING, Final, TypeAlias

from airflow_provider_llmbatch.core.polling import OutOfTime

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType
    from typing import Self

    from airflow_provider_llmbatch.core.joint_wait import JointVerdict, JointWait
    from airflow_provider_llmbatch.core.polling import Look, PollPolicy, Verdict, Wait

_SECONDS_FOR_A_LAST_LOOK: Final = 30.0  # at the deadline; a look takes no longer than 20

_EMPTY: Final = Context()  # one for all timers: each would copy, and keep, the context of its task

Leave: TypeAlias = "Callable[[Subscription], asyncio.Task[None] | None]"


class Subscription:
    """Made by ``Watcher.watch``; ``async with`` ends it.

    :param wait: What looks mean for this task.
    :param leave: Ends the watching of its batches; returns what ends with the last subscription of a connection.
    :param clock: Seconds since 1970.
    """

    __slots__ = (
        "_changes",
        "_clock",
        "_failure",
        "_had_last_look",
        "_leave",
        "_moment",
        "_sleeper",
        "_timer",
        "_wait",
        "batch_ids",
    )

    def __init__(self, wait: JointWait, leave: Leave, clock: Callable[[], float]) -> None:
        self.batch_ids = tuple(wait.running)
        self._wait = wait
        self._leave = leave
        self._clock = clock
        self._changes: dict[str, Look] = {}
        self._sleeper: asyncio.Future[None] | None = None
        self._failure: BaseException | None = None
        self._had_last_look = not self.batch_ids
        deadline = wait.policy.deadline
        if wait.until < deadline or not self.batch_ids:
            self._moment = wait.until
        else:
            self._moment = max(deadline, clock()) + _SECONDS_FOR_A_LAST_LOOK
        self._timer = self._timer_to_moment()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()
        closing = self._leave(self)
        if closing is not None:
            await asyncio.wait([closing])

    @property
    def policy(self) -> PollPolicy:
        return self._wait.policy

    @property
    def verdict(self) -> JointVerdict | None:
        """What ended the wait, if anything did.

        The deadline does so after a last look, or without one if that takes too long.
        """
        now = self._clock()
        verdict = self._wait.verdict(now)
        if isinstance(verdict, OutOfTime) and not self._had_last_look and now < self._moment:
            return None
        return verdict

    async def changes(self) -> Mapping[str, Look]:
        """Sleep until a batch changed or the wait ended, and return what changed meanwhile, by batch.

        A batch comes with its status, its counts and its moments; what may be long, such as its metadata, is not kept.
        """
        while not self._changes and self.verdict is None:
            if self._failure is not None:
                raise self._failure
            self._sleeper = asyncio.get_running_loop().create_future()
            await self._sleeper
        changes, self._changes = self._changes, {}
        return changes

    def take(self, batch_id: str, look: Look, decision: Wait | Verdict) -> None:
        """Take what a look saw that is news, without waking up."""
        self._changes[batch_id] = look
        self._wait.take(batch_id, decision)
        if isinstance(decision, OutOfTime):
            self._had_last_look = True

    def wake(self) -> None:
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    def fail(self, failure: BaseException) -> None:
        """Let ``changes`` raise it."""
        self._failure = failure
        self.wake()

    def _timer_to_moment(self) -> asyncio.TimerHandle:
        seconds = max(self._moment - self._clock(), 0.0)
        return asyncio.get_running_loop().call_later(seconds, self._at_moment, context=_EMPTY)

    def _at_moment(self) -> None:
        if self._clock() < self._moment:  # the event loop's clock is another one
            self._timer = self._timer_to_moment()
        else:
            self.wake()
