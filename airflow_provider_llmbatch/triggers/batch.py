"""The deferrable wait: looks at a batch until it ends, logs its progress, and fires once.

It never downloads or submits, and cancels only for a person who ended the task. What it says is no more than a hint:
the worker that it wakes reads the truth again. Serialized are ids, a deadline and intervals; never a key, a prompt or
an answer.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, Literal, TypedDict

from airflow.sdk.exceptions import AirflowNotFoundException
from airflow.triggers.base import BaseTrigger, TriggerEvent
from asgiref.sync import sync_to_async
from typing_extensions import override

from airflow_provider_llmbatch.core.polling import Done, GiveUp, Look, PollPolicy, Verdict, watch
from airflow_provider_llmbatch.core.progress import Progress
from airflow_provider_llmbatch.errors import (
    AccessRefusedError,
    ConnectionSettingsError,
    LLMBatchError,
    UnavailableError,
)
from airflow_provider_llmbatch.hooks.batch import LLMBatchHook
from airflow_provider_llmbatch.triggers.kill import cancel_if_over

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from airflow.sdk import Connection
    from pydantic import JsonValue

    from airflow_provider_llmbatch.adapters.base import Adapter

# Our own, since the event loop's default pool has six threads on two cores, which every provider's triggers share.
_LOOKERS: Final = ThreadPoolExecutor(max_workers=16, thread_name_prefix="llmbatch")

# Apart from those that look, so that an outage that holds up the one does not hold up the other.
_CANCELLERS: Final = ThreadPoolExecutor(max_workers=8, thread_name_prefix="llmbatch-cancel")


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
        if isinstance(verdict, Done):
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
        instance = self.task_instance

        def decide(connection: Connection) -> str:
            adapter = LLMBatchHook.adapter_of(connection)
            try:
                return cancel_if_over(instance, self.batch_id, adapter.cancel_batch)
            finally:
                adapter.close()

        try:
            connection = await LLMBatchHook.aget_connection(self.llmbatch_conn_id)
            # sync_to_async, since Airflow's own calls find the triggerer's event loop through it.
            told = await sync_to_async(decide, thread_sensitive=False, executor=_CANCELLERS)(connection)
        except asyncio.CancelledError:
            self.log.warning(
                f"Airflow's time for killing a task ended before it was known what becomes of {self.batch_id}. See at "
                "the provider whether it goes on, and cancel it there if it is not wanted."
            )
            raise
        except Exception as error:  # noqa: BLE001 - nobody is left to catch anything
            told = (
                f"{self.batch_id} goes on: the connection {self.llmbatch_conn_id!r} cannot be used "
                f"({type(error).__name__}: {error}). Cancel it at the provider if it is not wanted."
            )
        self.log.info(told)

    async def _verdict(self) -> Verdict:
        policy = PollPolicy(self.deadline, self.min_poll_interval, self.max_poll_interval)
        waiting = watch(policy)
        eye = _Eye(self.llmbatch_conn_id)
        progress = Progress()
        try:
            wait = next(waiting)
            while True:
                await asyncio.sleep(wait.seconds)
                look = await eye.look(self.batch_id)
                progress.report(look, time.time(), self.log)
                wait = waiting.send(look)
        except StopIteration as end:
            verdict: Verdict = end.value
            return verdict
        finally:
            await eye.close()


class _Eye:
    """Looks at batches through a connection, off the event loop; fetches the connection anew after a refusal."""

    def __init__(self, llmbatch_conn_id: str) -> None:
        self._conn_id = llmbatch_conn_id
        self._adapter: Adapter | None = None

    async def look(self, batch_id: str) -> Look:
        try:
            if self._adapter is None:
                self._adapter = await self._connect()
            return await asyncio.get_running_loop().run_in_executor(_LOOKERS, self._adapter.retrieve_batch, batch_id)
        except AccessRefusedError as error:
            await self.close()  # the key may have been rotated
            return error
        except LLMBatchError as error:
            return error

    async def _connect(self) -> Adapter:
        try:
            connection = await LLMBatchHook.aget_connection(self._conn_id)
        except AirflowNotFoundException as error:
            raise ConnectionSettingsError(
                f"The connection {self._conn_id!r} does not exist any more, so its batch cannot be looked at. The "
                "batch goes on at the provider. Add the connection again and clear the task, which then waits on."
            ) from error
        except Exception as error:  # whatever keeps Airflow from answering is to be borne like an outage
            raise UnavailableError(
                f"Airflow did not give the connection {self._conn_id!r} ({type(error).__name__}: {error})."
            ) from error
        return await asyncio.get_running_loop().run_in_executor(
            _LOOKERS, lambda: LLMBatchHook.adapter_of(connection, looking=True)
        )

    async def close(self) -> None:
        if self._adapter is not None:
            adapter, self._adapter = self._adapter, None
            await asyncio.get_running_loop().run_in_executor(_LOOKERS, adapter.close)
