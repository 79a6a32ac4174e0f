"""How a triggerer calls a provider: through a connection, in threads of the package's own, never on its event loop."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowNotFoundException
from asgiref.sync import sync_to_async

from airflow_provider_llmbatch.core.watcher.watcher import Watcher, watcher_of_running_loop
from airflow_provider_llmbatch.errors import ConnectionSettingsError, UnavailableError
from airflow_provider_llmbatch.hooks.batch import LLMBatchHook
from airflow_provider_llmbatch.hooks.telemetry import atelemetry_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from airflow.sdk import Connection
    from structlog.typing import FilteringBoundLogger

    from airflow_provider_llmbatch.adapters.base import Adapter
    from airflow_provider_llmbatch.core.polling import PollPolicy
    from airflow_provider_llmbatch.core.watcher.subscription import Subscription

# Apart from those that look, so that an outage that holds up the one does not hold up the other.
_CANCELLERS: Final = ThreadPoolExecutor(max_workers=8, thread_name_prefix="llmbatch-cancel")

_SECONDS_TO_FETCH: Final = 60.0  # a connection; all that wait on it would wait for this as well


@dataclass(frozen=True)
class _Fetched:
    """A connection as Airflow gave it; what it holds is secret, so nothing of it is shown."""

    connection: Connection = field(repr=False)

    def open(self) -> Adapter:
        return LLMBatchHook.adapter_of(self.connection, looking=True)


async def _fetched(llmbatch_conn_id: str) -> _Fetched:
    try:
        async with asyncio.timeout(_SECONDS_TO_FETCH):
            return _Fetched(await LLMBatchHook.aget_connection(llmbatch_conn_id))
    except AirflowNotFoundException as error:
        raise ConnectionSettingsError(
            f"The connection {llmbatch_conn_id!r} does not exist any more, so its batch cannot be looked at. The "
            "batch goes on at the provider. Add the connection again and clear the task, which then waits on."
        ) from error
    except Exception as error:  # whatever keeps Airflow from answering is to be borne like an outage
        raise UnavailableError(
            f"Airflow did not give the connection {llmbatch_conn_id!r} ({type(error).__name__}: {error})."
        ) from error


async def _made() -> Watcher:
    return Watcher(log=structlog.get_logger(__name__), telemetry=await atelemetry_of(None))


async def watch(
    llmbatch_conn_id: str,
    batch_ids: Iterable[str],
    policy: PollPolicy,
    *,
    resubmit_at: float | None = None,
    any_end: bool = False,
) -> Subscription:
    """Watch batches together with every other trigger of this process; see ``Watcher.watch``."""
    watcher = await watcher_of_running_loop(_made)
    return watcher.watch(
        llmbatch_conn_id,
        partial(_fetched, llmbatch_conn_id),
        batch_ids,
        policy,
        resubmit_at=resubmit_at,
        any_end=any_end,
    )


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

    async def decided() -> str:
        try:
            connection = await LLMBatchHook.aget_connection(llmbatch_conn_id)
            # sync_to_async, since Airflow's own calls find the triggerer's event loop through it.
            return await sync_to_async(connected, thread_sensitive=False, executor=_CANCELLERS)(connection)
        except Exception as error:  # noqa: BLE001 - nobody is left to catch anything
            return (
                f"{names} goes on: the connection {llmbatch_conn_id!r} cannot be used ({type(error).__name__}: "
                f"{error}). Cancel it at the provider if it is not wanted."
            )

    loop = asyncio.get_running_loop()
    end = loop.time() + conf.getint("triggerer", "on_kill_timeout", fallback=30) - 1
    deciding = asyncio.create_task(decided())
    while not deciding.done():
        try:
            await asyncio.wait([deciding])
        except asyncio.CancelledError:
            if loop.time() < end and (task := asyncio.current_task()) is not None:
                # Airflow says it again each second, as long as the trigger is there: triggerer_job_runner,
                # TriggerStateSync.to_cancel. Its time has not ended.
                task.uncancel()
                continue
            log.warning(
                f"Airflow's time for killing a task ended before it was known what becomes of {names}. See at the "
                "provider whether it goes on, and cancel it there if it is not wanted."
            )
            raise
    log.info(deciding.result())
