"""Whether a task that is being killed was ended by a person: only then is its batch cancelled.

Airflow kills a wait for many reasons: a person marks the task or clears it, a worker shuts down, a triggerer that
stalled finds its work given to another one (apache/airflow#73454). In all but the first somebody still wants the
batch, and the state of the task instance tells them apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from airflow_provider_llmbatch.errors import LLMBatchError

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_llmbatch.models import Batch

_GONE: Final = "gone"
_OVER: Final = frozenset({"success", "failed", "skipped", "upstream_failed", "removed", _GONE})


class TaskInstanceIdentity(Protocol):
    """What both a worker's and a triggerer's task instance have."""

    @property
    def dag_id(self) -> str: ...
    @property
    def run_id(self) -> str: ...
    @property
    def task_id(self) -> str: ...
    @property
    def map_index(self) -> int | None: ...


def state_of(instance: TaskInstanceIdentity) -> str:
    """The state of a task instance as Airflow's API server knows it now; ``gone`` if it is not there any more, and will
    not be made anew.
    """
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance  # noqa: PLC0415 - slow, and rarely needed

    index = -1 if instance.map_index is None else instance.map_index
    states = RuntimeTaskInstance.get_task_states(
        dag_id=instance.dag_id, task_ids=[instance.task_id], run_ids=[instance.run_id], map_index=index
    )
    name = instance.task_id if index < 0 else f"{instance.task_id}_{index}"
    of_run = states.get(instance.run_id, {})
    if name in of_run:
        return str(of_run[name] or "not yet scheduled")
    # In a run that goes on, the scheduler makes a task instance that was deleted anew, and that one waits on.
    goes_on = RuntimeTaskInstance.get_dr_count(
        dag_id=instance.dag_id, run_ids=[instance.run_id], states=["queued", "running"]
    )
    return "deleted in a run that goes on" if goes_on else _GONE


def cancel_if_over(instance: TaskInstanceIdentity, batch_id: str, cancel_batch: Callable[[str], Batch]) -> str:
    """Cancel the batch if the task instance is terminal or gone; blocks while it asks Airflow and the provider.

    Never raises, since nobody is left to catch anything.

    :return: What became of the batch, as sentences for the log.
    """
    try:
        state = state_of(instance)
    except Exception as error:  # noqa: BLE001 - in doubt nothing is cancelled, whatever the reason
        return (
            f"{batch_id} goes on: Airflow did not say whether the task has ended ({type(error).__name__}: {error}). "
            "Cancel it at the provider if it is not wanted."
        )
    if state not in _OVER:
        return f"{batch_id} goes on: the task is {state}, so the next try, or another process, waits for it."
    try:
        batch = cancel_batch(batch_id)
    except LLMBatchError as error:
        return (
            f"The task is {state}, but {batch_id} could not be cancelled: {error} Cancel it at the provider if it is "
            "not wanted."
        )
    if batch.is_terminal and batch.status != "cancelled":
        return f"{batch_id} had ended already: it is {batch.status}."
    return f"The task is {state}, so {batch_id} was cancelled. What was answered by then is billed; nothing else is."
