"""The deferrable wait of a run: looks at its batches together, logs their progress in one line, and fires once.

As in ``triggers.batch``: it never downloads or submits, cancels only for a person who ended the task, and what it says
is a hint. Serialized are ids, moments and intervals; never a key, a prompt or an answer.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Literal, TypedDict

from airflow.triggers.base import BaseTrigger, TriggerEvent
from typing_extensions import override

from airflow_provider_llmbatch.core.joint_wait import Due, Ended
from airflow_provider_llmbatch.core.polling import GiveUp, PollPolicy
from airflow_provider_llmbatch.core.progress import JointProgress
from airflow_provider_llmbatch.hooks.telemetry import atelemetry_of
from airflow_provider_llmbatch.triggers.calls import after_kill, watch
from airflow_provider_llmbatch.triggers.kill import cancel_all_if_over, named

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from pydantic import JsonValue

    from airflow_provider_llmbatch.core.joint_wait import JointVerdict

_SECONDS_TO_CANCEL: Final = 20.0  # of the 30 that Airflow allows; asking for the task's state takes some five of them


class RunEvent(TypedDict):
    """What the trigger tells the task.

    ``ended``: all batches ended, or one did whose place another one may take. ``due``: the moment came to submit what
    did not fit before. ``out_of_time``: the deadline passed. ``given_up``: looking on is pointless, for the reason in
    ``error``; the batches may still run.
    """

    status: Literal["ended", "due", "out_of_time", "given_up"]
    error: str | None


class LLMBatchRunTrigger(BaseTrigger):
    """Fires once when the batches of a run have ended, something else is to be done, or nothing can be seen any more.

    :param llmbatch_conn_id: The connection, fetched by the triggerer itself.
    :param batch_ids: None, if only a moment is waited for.
    :param deadline: In seconds since 1970, so that a restart of the triggerer does not move it.
    :param resubmit_at: When something is to be submitted that did not fit before, in seconds since 1970.
    :param any_end: Whether it fires as soon as one batch has ended, since another one may take its place.
    :param min_poll_interval: Seconds between two looks at young batches.
    :param max_poll_interval: Seconds between two looks at old ones.
    :param cancel_on_kill: Whether the batches are cancelled if a person marks the task, or its run, as failed or
        success, or deletes its DAG. From Airflow 3.3 on.
    """

    def __init__(
        self,
        llmbatch_conn_id: str,
        batch_ids: Sequence[str],
        deadline: float,
        resubmit_at: float | None = None,
        any_end: bool = False,
        min_poll_interval: float = 10.0,
        max_poll_interval: float = 300.0,
        cancel_on_kill: bool = False,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # Airflow's own lacks types
        self.llmbatch_conn_id = llmbatch_conn_id
        self.batch_ids = tuple(batch_ids)
        self.deadline = deadline
        self.resubmit_at = resubmit_at
        self.any_end = any_end
        self.min_poll_interval = min_poll_interval
        self.max_poll_interval = max_poll_interval
        self.cancel_on_kill = cancel_on_kill

    @override
    def serialize(self) -> tuple[str, dict[str, JsonValue]]:
        return (
            "airflow_provider_llmbatch.triggers.run.LLMBatchRunTrigger",
            {
                "llmbatch_conn_id": self.llmbatch_conn_id,
                "batch_ids": list(self.batch_ids),
                "deadline": self.deadline,
                "resubmit_at": self.resubmit_at,
                "any_end": self.any_end,
                "min_poll_interval": self.min_poll_interval,
                "max_poll_interval": self.max_poll_interval,
                "cancel_on_kill": self.cancel_on_kill,
            },
        )

    @override
    async def run(self) -> AsyncIterator[TriggerEvent]:
        yield TriggerEvent(event_of(await self._verdict()))  # type: ignore[no-untyped-call] # Airflow's own lacks types

    @override
    async def on_kill(self) -> None:
        """Cancel the batches, if it was a person who ended the task. Airflow calls this from 3.3 on."""
        if not self.cancel_on_kill or self.task_instance is None or not self.batch_ids:
            return
        instance, batch_ids = self.task_instance, self.batch_ids
        await after_kill(
            self.llmbatch_conn_id,
            named(batch_ids),
            lambda adapter: cancel_all_if_over(instance, batch_ids, adapter.cancel_batch, seconds=_SECONDS_TO_CANCEL),
            self.log,
        )

    async def _verdict(self) -> JointVerdict:
        policy = PollPolicy(self.deadline, self.min_poll_interval, self.max_poll_interval)
        progress = JointProgress(await atelemetry_of(self.task_instance))
        async with await watch(
            self.llmbatch_conn_id, self.batch_ids, policy, resubmit_at=self.resubmit_at, any_end=self.any_end
        ) as waiting:
            while True:
                if looks := await waiting.changes():
                    progress.report(looks, time.time(), self.log)
                if (verdict := waiting.verdict) is not None:
                    return verdict


def event_of(verdict: JointVerdict) -> RunEvent:
    if isinstance(verdict, GiveUp):
        return RunEvent(status="given_up", error=str(verdict.error))
    if isinstance(verdict, Ended):
        return RunEvent(status="ended", error=None)
    return RunEvent(status="due" if isinstance(verdict, Due) else "out_of_time", error=None)
