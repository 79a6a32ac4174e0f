"""How a triggerer calls a provider: through a connection, in threads of the package's own, never on its event loop."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from airflow.sdk.exceptions import AirflowNotFoundException
from asgiref.sync import sync_to_async

from airflow_provider_llmbatch.errors import (
    AccessRefusedError,
    ConnectionSettingsError,
    LLMBatchError,
    UnavailableError,
)
from airflow_provider_llmbatch.hooks.batch import LLMBatchHook

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from airflow.sdk import Connection
    from structlog.typing import FilteringBoundLogger

    from airflow_provider_llmbatch.adapters.base import Adapter
    from airflow_provider_llmbatch.core.polling import Look

# Our own, since the event loop's default pool has six threads on two cores, which every provider's triggers share.
_LOOKERS: Final = ThreadPoolExecutor(max_workers=16, thread_name_prefix="llmbatch")

# Apart from those that look, so that an outage that holds up the one does not hold up the other.
_CANCELLERS: Final = ThreadPoolExecutor(max_workers=8, thread_name_prefix="llmbatch-cancel")

_LOOKS_AT_ONCE: Final = 4  # of one trigger, so that a run of many batches leaves threads to the others


class Eye:
    """Looks at batches through a connection, off the event loop; fetches the connection anew after a refusal."""

    def __init__(self, llmbatch_conn_id: str) -> None:
        self._conn_id = llmbatch_conn_id
        self._adapter: Adapter | None = None

    async def look(self, batch_id: str) -> Look:
        return (await self.look_at([batch_id]))[batch_id]

    async def look_at(self, batch_ids: Iterable[str]) -> dict[str, Look]:
        """What each of the batches is now, or why it could not be seen."""
        batch_ids = tuple(batch_ids)
        try:
            adapter = self._adapter = self._adapter or await self._connect()
        except LLMBatchError as error:
            return dict.fromkeys(batch_ids, error)
        free = asyncio.Semaphore(_LOOKS_AT_ONCE)

        async def look(batch_id: str) -> Look:
            async with free:
                try:
                    return await asyncio.get_running_loop().run_in_executor(_LOOKERS, adapter.retrieve_batch, batch_id)
                except LLMBatchError as error:
                    return error

        looks = dict(zip(batch_ids, await asyncio.gather(*map(look, batch_ids)), strict=True))
        if any(isinstance(each, AccessRefusedError) for each in looks.values()):
            await self.close()  # the key may have been rotated
        return looks

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


async def after_kill(
    llmbatch_conn_id: str, names: str, decide: Callable[[Adapter], str], log: FilteringBoundLogger
) -> None:
    """Decide about batches in a thread, and log what became of them; raises nothing but a cancellation.

    :param names: The batches, as the log calls them.
    :param decide: Asks Airflow and the provider, and returns what to log.
    """

    def connected(connection: Connection) -> str:
        adapter = LLMBatchHook.adapter_of(connection)
        try:
            return decide(adapter)
        finally:
            adapter.close()

    try:
        connection = await LLMBatchHook.aget_connection(llmbatch_conn_id)
        # sync_to_async, since Airflow's own calls find the triggerer's event loop through it.
        told = await sync_to_async(connected, thread_sensitive=False, executor=_CANCELLERS)(connection)
    except asyncio.CancelledError:
        log.warning(
            f"Airflow's time for killing a task ended before it was known what becomes of {names}. See at the provider "
            "whether it goes on, and cancel it there if it is not wanted."
        )
        raise
    except Exception as error:  # noqa: BLE001 - nobody is left to catch anything
        told = (
            f"{names} goes on: the connection {llmbatch_conn_id!r} cannot be used ({type(error).__name__}: {error}). "
            "Cancel it at the provider if it is not wanted."
        )
    log.info(told)
