"""The deferrable pause before an input that met a full queue is submitted again: sleeps until a moment, and fires."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Literal, TypedDict

from airflow.triggers.base import BaseTrigger, TriggerEvent
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pydantic import JsonValue


class QueueEvent(TypedDict):
    """What the trigger tells the task: to submit again, and how long it has been waiting for room.

    Both come along, since ``dag.test()`` hands nothing but the event to a task that it resumes.
    """

    status: Literal["resubmit"]
    queued_since: float
    refusals: int


class LLMBatchQueueTrigger(BaseTrigger):
    """Fires once, at a moment. It asks nobody, so a thousand of them cost nothing.

    :param until: In seconds since 1970, so that a restart of the triggerer does not move it.
    :param queued_since: The first refusal, in seconds since 1970.
    :param refusals: How many there were.
    """

    def __init__(self, until: float, queued_since: float, refusals: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # Airflow's own lacks types
        self.until = until
        self.queued_since = queued_since
        self.refusals = refusals

    @override
    def serialize(self) -> tuple[str, dict[str, JsonValue]]:
        return (
            "airflow_provider_llmbatch.triggers.queue.LLMBatchQueueTrigger",
            {"until": self.until, "queued_since": self.queued_since, "refusals": self.refusals},
        )

    @override
    async def run(self) -> AsyncIterator[TriggerEvent]:
        await asyncio.sleep(max(self.until - time.time(), 0.0))
        event = QueueEvent(status="resubmit", queued_since=self.queued_since, refusals=self.refusals)
        yield TriggerEvent(event)  # type: ignore[no-untyped-call] # Airflow's own lacks types
