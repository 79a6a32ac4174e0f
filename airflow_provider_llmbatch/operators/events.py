"""Telling of the end of a task's work, to whoever ``on_batch_event`` names; nothing here fails a task."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from airflow_provider_llmbatch.errors import LLMBatchError
from airflow_provider_llmbatch.notifications.calling import call
from airflow_provider_llmbatch.operators.task import ledger_of, slot_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from airflow.sdk import Context
    from structlog.typing import FilteringBoundLogger

    from airflow_provider_llmbatch.core.events import LLMBatchEvent, ToldRecord
    from airflow_provider_llmbatch.core.ledger import Ledger
    from airflow_provider_llmbatch.models import Batch

OnBatchEvent: TypeAlias = "Callable[[Context], Any] | Iterable[Callable[[Context], Any]] | None"
"""A notifier of Airflow's, a function of the context, or several; the event is ``context["llmbatch"]``."""


def callbacks_of(given: OnBatchEvent) -> tuple[Callable[[Context], Any], ...]:
    """:raises TypeError: Something of it cannot be called, told while the DAG is read."""
    callbacks = () if given is None else (given,) if callable(given) else tuple(given)
    for callback in callbacks:
        if not callable(callback):
            raise TypeError(
                "on_batch_event= takes a notifier, a function of the context, or a list of them, and not "
                f"{type(callback).__name__}"
            )
    return callbacks


@contextmanager
def telling(
    callbacks: tuple[Callable[[Context], Any], ...],
    context: Context,
    log: FilteringBoundLogger,
    *,
    event: Callable[[LLMBatchError | None], LLMBatchEvent | None],
    ledger: Callable[[], Ledger[ToldRecord]],
) -> Iterator[None]:
    """Tell how the block ends, if that is the end of the task's work: well, or with an error that no retry follows.

    :param event: Makes it of the error that the task fails with; ``None`` if there is nothing to tell yet.
    :param ledger: Where it is kept what was told.
    """
    try:
        yield
    except LLMBatchError as error:
        if callbacks and not _is_retried(context, error):
            _tell(callbacks, context, log, event=partial(event, error), ledger=ledger)
        raise
    if callbacks:
        _tell(callbacks, context, log, event=partial(event, None), ledger=ledger)


def telling_of_batch(
    callbacks: tuple[Callable[[Context], Any], ...],
    context: Context,
    log: FilteringBoundLogger,
    *,
    batch: Callable[[], Batch | None],
) -> AbstractContextManager[None]:
    """As ``telling``, for a task that waits for one batch.

    :param batch: As it was seen last; nothing is told while it goes on, unless the task fails.
    """
    from airflow_provider_llmbatch.core.events import ToldRecord, event_of_batch  # noqa: PLC0415 - no DAG file needs it

    def event(error: LLMBatchError | None) -> LLMBatchEvent | None:
        seen = batch()
        if error is None and (seen is None or not seen.is_terminal):
            return None
        return event_of_batch(slot_of(context), seen, error)

    return telling(callbacks, context, log, event=event, ledger=lambda: ledger_of(context, "llmbatch_told", ToldRecord))


def _is_retried(context: Context, error: LLMBatchError) -> bool:
    instance = context["ti"]
    return error.retriable and instance.try_number <= instance.max_tries


def _tell(
    callbacks: tuple[Callable[[Context], Any], ...],
    context: Context,
    log: FilteringBoundLogger,
    *,
    event: Callable[[], LLMBatchEvent | None],
    ledger: Callable[[], Ledger[ToldRecord]],
) -> None:
    try:
        told, record = event(), ledger()
        if told is None or _was_told(told, record, log):
            return
    except Exception:  # whatever it is, the work is done, and was paid for
        log.warning("What on_batch_event is to be told could not be put together", exc_info=True)
        return
    for callback in callbacks:
        try:
            call(callback, cast("Context", {**context, "llmbatch": told}))
        except Exception:
            name = getattr(callback, "__name__", type(callback).__name__)
            log.warning(
                f"{name} failed to tell that this is {told.event}; the task ends as it would have, and what was "
                "published stays",
                exc_info=True,
            )
    _remember(told, record, log)


def _was_told(told: LLMBatchEvent, ledger: Ledger[ToldRecord], log: FilteringBoundLogger) -> bool:
    try:
        last = ledger.read()
    except LLMBatchError as error:
        log.warning(f"Whether on_batch_event was told before is not known, so it is told: {error}")
        return False
    return last is not None and (last.event, last.subject) == (told.event, told.subject)


def _remember(told: LLMBatchEvent, ledger: Ledger[ToldRecord], log: FilteringBoundLogger) -> None:
    from airflow_provider_llmbatch.core.events import ToldRecord  # noqa: PLC0415 - no DAG file needs it

    try:
        ledger.write(ToldRecord(event=told.event, subject=told.subject))
    except LLMBatchError as error:
        log.warning(f"A later try may tell on_batch_event the same again: {error}")
