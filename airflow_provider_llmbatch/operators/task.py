"""What the core needs to know of the running task: its slot, its attempt, its ledger, and how its errors end it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowFailException

from airflow_provider_llmbatch.core.ledger import Ledger, MemoryStore, Record
from airflow_provider_llmbatch.core.submit import Attempt, Slot
from airflow_provider_llmbatch.errors import LLMBatchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow.sdk import Context
    from airflow.sdk.execution_time.context import TaskStateStoreAccessor
    from pydantic import JsonValue

    from airflow_provider_llmbatch.core.ledger import Store

RecordT = TypeVar("RecordT", bound=Record)


class _TaskStateStore:
    """Airflow's task state store (3.3): per task instance, survives retries and clears, kept until it is deleted."""

    def __init__(self, accessor: TaskStateStoreAccessor) -> None:
        self._accessor = accessor

    def get(self, key: str) -> JsonValue:
        return self._accessor.get(key)

    def set(self, key: str, value: JsonValue) -> None:
        from airflow.sdk.execution_time.context import NEVER_EXPIRE  # noqa: PLC0415 - not there before Airflow 3.3

        self._accessor.set(key, value, retention=NEVER_EXPIRE)


def ledger_of(context: Context, name: str, record_type: type[RecordT]) -> Ledger[RecordT]:
    """The ledger of the running task: durable where Airflow keeps state for tasks, else for this attempt only."""
    accessor = context.get("task_state_store")
    if accessor is None:
        return Ledger(MemoryStore(), name, record_type, durable=False)
    return Ledger(_TaskStateStore(accessor), name, record_type, durable=not _forgets())


def run_store_of(context: Context, beside_the_stage: Callable[[], Store]) -> Store:
    """Where a run keeps its records: in Airflow, where it keeps state for tasks beyond their success, else in files."""
    accessor = context.get("task_state_store")
    if accessor is None or _forgets():
        return beside_the_stage()
    return _TaskStateStore(accessor)


def _forgets() -> bool:
    """Whether the store is emptied when the task succeeds, and so does not know, after a clear, what was paid for."""
    return bool(conf.getboolean("state_store", "clear_on_success", fallback=False))


def slot_of(context: Context) -> Slot:
    """The same on every try of this task instance, and different for every other one, in every deployment."""
    instance = context["ti"]
    return Slot(
        namespace=conf.get("api", "base_url", fallback=""),
        dag_id=instance.dag_id,
        run_id=instance.run_id,
        task_id=instance.task_id,
        map_index=-1 if instance.map_index is None else instance.map_index,
    )


def attempt_of(context: Context) -> Attempt:
    instance = context["ti"]
    retries = context["task"].retries or 0
    return Attempt(
        try_number=instance.try_number,
        max_tries=instance.max_tries,
        was_cleared=instance.max_tries != retries,
    )


@contextmanager
def airflow_verdict() -> Iterator[None]:
    """Let Airflow retry only what may succeed without anybody changing anything; fail the task at once for the rest."""
    try:
        yield
    except LLMBatchError as error:
        if error.retriable:
            raise
        raise AirflowFailException(f"{type(error).__name__}: {error}") from error
