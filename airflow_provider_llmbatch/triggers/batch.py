"""The deferrable wait: looks at a batch until it ends, logs its progress, and fires once.

It never downloads or submits, and cancels only for a person who ended the task. What it says is no more than a hint:
the worker that it wakes reads the truth again. Serialized are ids, a deadline and intervals; never a key, a prompt or
an answer.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal, TypedDict

from airflow.triggers.base import BaseTrigger, TriggerEvent
from typing_extensions import override

from airflow_provider_llmbatch.core.joint_wait import Ended
from airflow_provider_llmbatch.core.polling import GiveUp, PollPolicy
from airflow_provider_llmbatch.core.progress import Progress
from airflow_provider_llmbatch.hooks.telemetry import atelemetry_of
from airflow_provider_llmbatch.triggers.calls import after_kill, watch
from airflow_provider_llmbatch.triggers.kill import cancel_if_over

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pydantic import JsonValue

    from airflow_provider_llmbatch.core.joint_wait import JointVerdict


class BatchEvent(TypedDict):
    """What the trigger tells the task.

    ``ended``: the batch ended, well or badly. ``out_of_time``: the deadline passed. ``given_up``: looking on is
    pointless, for the reason in ``error``; the batch may still run. The deadline comes along, since ``dag.test()``
    hands nothing but the event to a task that it resumes.
    """

    status: Literal["ended", "out_of_time", "given_up"]
    batch_id: str
    deadline: float
    error: str | None


class LLMBatchTrigger(BaseTrigger):
    """Fires once when a batch has ended, its deadline has passed, or it cannot be looked at any more.

    :param llmbatch_conn_id: The connection, fetched by the triggerer itself.
    :param deadline: In seconds since 1970, so that a restart of the triggerer does not move it.
    :param min_poll_interval: Seconds between two looks at a young batch.
    :param max_poll_interval: Seconds between two looks at an old one.
    :param cancel_on_kill: Whether the batch is cancelled if a person marks the task, or its run, as failed or success,
        or deletes its DAG; only for who created the batch. From Airflow 3.3 on.
    """

    def __init__(
        self,
        llmbatch_conn_id: str,
        batch_id: str,
        deadline: float,
        min_poll_interval: float = 10.0,
        max_poll_interval: float = 300.0,
        cancel_on_kill: bool = False,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # Airflow's own lacks types
        self.llmbatch_conn_id = llmbatch_conn_id
        self.batch_id = batch_id
        self.deadline = deadline
        self.min_poll_interval = min_poll_interval
        self.max_poll_interval = max_poll_interval
        self.cancel_on_kill = cancel_on_kill

    @override
    def serialize(self) -> tuple[str, dict[str, JsonValue]]:
        return (
            "airflow_provider_llmbatch.triggers.batch.LLMBatchTrigger",
            {
                "llmbatch_conn_id": self.llmbatch_conn_id,
                "batch_id": self.batch_id,
                "deadline": self.deadline,
                "min_poll_interval": self.min_poll_interval,
                "max_poll_interval": self.max_poll_interval,
                "cancel_on_kill": self.cancel_on_kill,
            },
        )

    @override
    async def run(self) -> AsyncIterator[TriggerEvent]:
        verdict = await self._verdict()
        status: Literal["ended", "out_of_time", "given_up"] = "out_of_time"
        if isinstance(verdict, Ended):
            status = "ended"
        elif isinstance(verdict, GiveUp):
            status = "given_up"
        error = str(verdict.error) if isinstance(verdict, GiveUp) else None
        event = BatchEvent(status=status, batch_id=self.batch_id, deadline=self.deadline, error=error)
        yield TriggerEvent(event)  # type: ignore[no-untyped-call] # Airflow's own lacks types

    @override
    async def on_kill(self) -> None:
        """Cancel the batch, if it was a person who ended the task. Airflow calls this from 3.3 on."""
        if not self.cancel_on_kill or self.task_instance is None:
            return
        instance, batch_id = self.task_instance, self.batch_id
        await after_kill(
            self.llmbatch_conn_id,
            batch_id,
            lambda adapter: cancel_if_over(instance, batch_id, adapter.cancel_batch),
            self.log,
        )

    async def _verdict(self) -> JointVerdict:
        policy = PollPolicy(self.deadline, self.min_poll_interval, self.max_poll_interval)
        progress = Progress(await atelemetry_of(self.task_instance))
        async with await watch(self.llmbatch_conn_id, [self.batch_id], policy) as waiting:
            while True:
                for look in (await waiting.changes()).values():
                    progress.report(look, time.time(), self.log)
                if (verdict := waiting.verdict) is not None:
                    return verdict
