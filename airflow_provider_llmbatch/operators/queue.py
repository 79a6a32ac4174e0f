"""Waiting for room at a provider whose queue of tokens is full: until when, told how, and how on a worker."""

from __future__ import annotations

import random
import time
from queue import Empty
from typing import TYPE_CHECKING

from airflow.sdk.exceptions import AirflowException

from airflow_provider_llmbatch.core.backoff import Queueing, count_refusal, next_try
from airflow_provider_llmbatch.core.verdict import moment
from airflow_provider_llmbatch.errors import EnqueuedTokenLimitError

if TYPE_CHECKING:
    from datetime import timedelta

    from structlog.typing import FilteringBoundLogger

    from airflow_provider_llmbatch.core.ledger import BatchRecord, Ledger
    from airflow_provider_llmbatch.operators.wait import KillSwitch


def after_refusal(
    error: EnqueuedTokenLimitError,
    ledger: Ledger[BatchRecord],
    earlier: Queueing | None,
    *,
    allowed: timedelta,
    log: FilteringBoundLogger,
) -> tuple[Queueing, float]:
    """Count a refusal, and say in the log what comes next.

    :param earlier: What was counted before, for a ledger that forgets.
    :param allowed: How long after the first refusal to go on trying.
    :return: What is counted now, and when to submit again, in seconds since 1970.
    :raises EnqueuedTokenLimitError: That time has passed.
    """
    now = time.time()
    queueing = count_refusal(ledger, earlier, now=now)
    deadline = queueing.since + allowed.total_seconds()
    again = next_try(queueing, now, deadline, jitter=random.uniform(-1.0, 1.0), retry_after=error.retry_after)
    if again is None:
        raise EnqueuedTokenLimitError(
            f"{error} It was submitted {queueing.refusals:,} times since {moment(queueing.since)}, and the "
            f"queue_deadline was {moment(deadline)}. A retry submits it once more without waiting; clearing this "
            "task waits anew.",
            status_code=error.status_code,
            code=error.code,
            request_id=error.request_id,
            limit=error.limit,
            enqueued=error.enqueued,
            retry_after=error.retry_after,
        ) from error
    log.warning(f"{type(error).__name__}: {error}")
    log.info(f"Waiting {_duration(again - now)} before the next try, at most until {moment(deadline)}")
    return queueing, again


def sleep_until(again: float, kill: KillSwitch) -> None:
    """Wait on the worker.

    :raises AirflowException: The task is being killed.
    """
    try:
        kill.get(timeout=max(again - time.time(), 0.0))
    except Empty:
        return
    raise AirflowException(
        "The task was killed while it waited for room in the provider's queue. No batch of it is queued or running, "
        "and nothing was billed. The next try submits the same file."
    )


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
