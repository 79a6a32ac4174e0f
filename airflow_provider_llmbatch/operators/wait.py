"""Waiting for a batch, which an operator and a sensor share: how long, how on a worker, and what its end means."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final, TypeAlias

from airflow_provider_llmbatch.core.joint_wait import watch_together
from airflow_provider_llmbatch.core.polling import PollPolicy, Verdict, watch
from airflow_provider_llmbatch.core.progress import JointProgress, Progress
from airflow_provider_llmbatch.core.telemetry import OFF, tell_end
from airflow_provider_llmbatch.core.verdict import error_of_end, shortcomings_of
from airflow_provider_llmbatch.errors import LLMBatchError
from airflow_provider_llmbatch.hooks.telemetry import telemetry_of

if TYPE_CHECKING:
    from datetime import timedelta

    from airflow.sdk import Context
    from structlog.typing import FilteringBoundLogger

    from airflow_provider_llmbatch.adapters.base import Adapter
    from airflow_provider_llmbatch.core.joint_wait import JointVerdict
    from airflow_provider_llmbatch.core.polling import Look
    from airflow_provider_llmbatch.core.run.run import Waiting
    from airflow_provider_llmbatch.core.telemetry import Telemetry
    from airflow_provider_llmbatch.models import Batch

_HOUR: Final = 3600.0
_LOOKS_AT_ONCE: Final = 8

KillSwitch: TypeAlias = "SimpleQueue[None]"
"""Something in it: the task is being killed.

``on_kill`` runs in a signal handler on the thread that waits, where a ``threading.Event`` may deadlock on its own lock.
A SimpleQueue is made for that: its ``put`` may interrupt its ``get`` (Python's documentation of ``queue``).
"""


@dataclass(frozen=True)
class Killed:
    """The wait ended because the task is being killed."""


def check_intervals(min_poll_interval: float, max_poll_interval: float) -> None:
    """Refuse intervals that cannot hold, while the DAG is read."""
    if not 0 < min_poll_interval <= max_poll_interval:
        raise ValueError(
            f"0 < min_poll_interval <= max_poll_interval must hold, not {min_poll_interval} and {max_poll_interval}"
        )


def policy_of(
    batch: Batch, adapter: Adapter, *, deadline: timedelta | None, min_poll_interval: float, max_poll_interval: float
) -> PollPolicy:
    """How long and how often to look, counted from the batch's creation, so that a retry does not wait anew.

    :param deadline: If ``None``, the provider's worst case and an hour.
    """
    allowed = deadline.total_seconds() if deadline is not None else (adapter.worst_case_hours + 1) * _HOUR
    begin = batch.created_at if batch.created_at is not None else time.time()
    return PollPolicy(begin + allowed, min_poll_interval, max_poll_interval)


def wait_on_worker(
    adapter: Adapter,
    batch_id: str,
    policy: PollPolicy,
    kill: KillSwitch,
    log: FilteringBoundLogger,
    telemetry: Telemetry = OFF,
) -> Verdict | Killed:
    """The trigger's wait without a triggerer."""
    waiting = watch(policy)
    progress = Progress(telemetry)
    try:
        wait = next(waiting)
        while True:
            try:
                kill.get(timeout=wait.seconds)
            except Empty:
                look = _look(adapter, batch_id)
            else:
                return Killed()
            progress.report(look, time.time(), log)
            wait = waiting.send(look)
    except StopIteration as end:
        verdict: Verdict = end.value
        return verdict


def wait_together_on_worker(
    adapter: Adapter,
    waiting: Waiting,
    kill: KillSwitch,
    *,
    min_poll_interval: float,
    max_poll_interval: float,
    log: FilteringBoundLogger,
    telemetry: Telemetry = OFF,
) -> JointVerdict | Killed:
    """The wait for the batches of a run, without a triggerer."""
    policy = PollPolicy(waiting.deadline, min_poll_interval, max_poll_interval)
    rounds = watch_together(waiting.batch_ids, policy, resubmit_at=waiting.resubmit_at, any_end=waiting.any_end)
    progress = JointProgress(telemetry)
    with ThreadPoolExecutor(_LOOKS_AT_ONCE, thread_name_prefix="llmbatch") as pool:
        try:
            turn = next(rounds)
            while True:
                try:
                    kill.get(timeout=turn.seconds)
                except Empty:
                    seen = pool.map(lambda batch_id: _look(adapter, batch_id), turn.batch_ids)
                    looks = dict(zip(turn.batch_ids, seen, strict=True))
                else:
                    return Killed()
                progress.report(looks, time.time(), log)
                turn = rounds.send(looks)
        except StopIteration as end:
            verdict: JointVerdict = end.value
            return verdict


def _look(adapter: Adapter, batch_id: str) -> Look:
    try:
        return adapter.retrieve_batch(batch_id)
    except LLMBatchError as error:
        return error


def ended(context: Context, batch: Batch, *, title: str, log: FilteringBoundLogger) -> str:
    """Push the ids of the result files, and return the batch's id.

    :param title: The provider's name in messages.
    :raises BatchNotCompletedError: The batch failed, expired or was cancelled.
    """
    tell_end(telemetry_of(context["ti"], provider=batch.provider), batch)
    context["ti"].xcom_push(key="output_file_id", value=batch.output_file_id)
    context["ti"].xcom_push(key="error_file_id", value=batch.error_file_id)
    if error := error_of_end(batch, title=title):
        raise error
    if told := shortcomings_of(batch):
        log.warning(
            f"{batch.id} is completed, but not whole: {told}. Requests without a result count as missing",
            batch_id=batch.id,
        )
    counts = batch.request_counts
    if counts.failed:
        log.warning(
            f"{counts.failed:,} of {counts.total:,} requests failed: their reasons are in "
            f"{batch.error_file_id or batch.output_file_id}, and in what LLMBatchDownloadResultsOperator lands",
            batch_id=batch.id,
        )
    return batch.id


def given_up(batch_id: str, reason: str | None) -> LLMBatchError:
    """The error for a batch that cannot be looked at any more, whatever it does."""
    return LLMBatchError(
        f"{reason} {batch_id} was not cancelled, and goes on if it had not ended. Clear this task when that is "
        "mended: it then waits for the same batch, and nothing is paid again."
    )


def all_given_up(reason: str | None) -> LLMBatchError:
    """The error for a run whose batches cannot be looked at any more, whatever they do."""
    return LLMBatchError(
        f"{reason} No batch was cancelled, and those that had not ended go on. Clear this task when that is mended: it "
        "then waits for the same batches, and nothing is paid again."
    )
