"""Whether a task that is being killed was ended by a person: only then is its batch cancelled.

Airflow kills a wait for many reasons: a person marks the task or clears it, a worker shuts down, a triggerer that
stalled finds its work given to another one (apache/airflow#73454). In all but the first somebody still wants the
batch, and the state of the task instance tells them apart.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from airflow_provider_llmbatch.models import Batch

_CANCELS_AT_ONCE: Final = 8

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
    """``cancel_all_if_over`` for the one batch of a task, waited for as long as Airflow allows."""
    return cancel_all_if_over(instance, [batch_id], cancel_batch, seconds=None)


def cancel_all_if_over(
    instance: TaskInstanceIdentity,
    batch_ids: Sequence[str],
    cancel_batch: Callable[[str], Batch],
    *,
    seconds: float | None,
) -> str:
    """Cancel batches, eight at a time, if their task instance is terminal or gone; blocks while it asks Airflow and the
    provider.

    Never raises, since nobody is left to catch anything.

    :param seconds: How long to go on cancelling; as long as it takes if ``None``.
    :return: What became of the batches, as sentences for the log.
    """
    names = named(batch_ids)
    go, them = ("goes", "it") if len(batch_ids) == 1 else ("go", "them")
    try:
        state = state_of(instance)
    except Exception as error:  # noqa: BLE001 - in doubt nothing is cancelled, whatever the reason
        return (
            f"{names} {go} on: Airflow did not say whether the task has ended ({type(error).__name__}: {error}). "
            f"Cancel {them} at the provider if {'it is' if them == 'it' else 'they are'} not wanted."
        )
    if state not in _OVER:
        return f"{names} {go} on: the task is {state}, so the next try, or another process, waits for {them}."
    return " ".join(_cancelled(state, batch_ids, cancel_batch, seconds))


def named(batch_ids: Sequence[str]) -> str:
    """``batch_1, batch_2 and batch_3``: all of them, since a person may have to look for each."""
    *first, last = batch_ids
    return f"{', '.join(first)} and {last}" if first else last


def _cancelled(
    state: str, batch_ids: Sequence[str], cancel_batch: Callable[[str], Batch], seconds: float | None
) -> Iterator[str]:
    pool = ThreadPoolExecutor(_CANCELS_AT_ONCE, thread_name_prefix="llmbatch-cancel")
    calls = {batch_id: pool.submit(cancel_batch, batch_id) for batch_id in batch_ids}
    wait(calls.values(), timeout=seconds)
    pool.shutdown(wait=False, cancel_futures=True)
    batches: list[Batch] = []
    late: list[str] = []
    for batch_id, call in calls.items():
        if call.cancelled() or not call.done():
            late.append(batch_id)
            continue
        try:
            batches.append(call.result())
        except Exception as error:  # noqa: BLE001 - whatever it was, the others are to be told of too
            yield (
                f"The task is {state}, but {batch_id} could not be cancelled: {error} Cancel it at the provider if it "
                "is not wanted."
            )
    for batch in batches:
        if batch.is_terminal and batch.status != "cancelled":
            yield f"{batch.id} had ended already: it is {batch.status}."
    if cancelled := [batch.id for batch in batches if not batch.is_terminal or batch.status == "cancelled"]:
        were = "was" if len(cancelled) == 1 else "were"
        yield (
            f"The task is {state}, so {named(cancelled)} {were} cancelled. What was answered by then is billed; "
            "nothing else is."
        )
    if late:
        yield (
            f"The task is {state}, but there was no time to see whether {named(late)} could be cancelled. Look at the "
            "provider, and cancel there what is not wanted; the next try of this task, if there is one, does so too."
        )
