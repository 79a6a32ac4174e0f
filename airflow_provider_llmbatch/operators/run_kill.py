"""A kill while a run uploads or lands, which may take far longer than the seconds that Airflow then allows.

The main thread cannot be interrupted without leaving things half done, and a signal handler may do nothing; so a thread
of its own looks for the kill, and cancels what is under way, if a person ended the task.
"""

from __future__ import annotations

from contextlib import contextmanager
from threading import Event, Thread
from typing import TYPE_CHECKING, Final

from airflow_provider_llmbatch.core.run.old_batches import begun_batches
from airflow_provider_llmbatch.triggers.kill import cancel_all_if_over

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow.sdk import Context

    from airflow_provider_llmbatch.core.run.run import Run
    from airflow_provider_llmbatch.operators.wait import KillSwitch

_LOOK: Final = 0.2
_GRACE: Final = 0.5  # seconds for the main thread to come to its wait, which sees the kill by itself
_TO_CANCEL: Final = 2.5  # of the five seconds after which the process is killed; the ledger is read in the others


@contextmanager
def cancelling_when_killed(run: Run, kill: KillSwitch, context: Context) -> Iterator[None]:
    """See to a kill that comes while the block is at work."""
    is_over = Event()

    def watch() -> None:
        while not is_over.wait(_LOOK):
            if not kill.empty():
                if not is_over.wait(_GRACE):
                    _cancel(run, context)
                return

    thread = Thread(target=watch, name="llmbatch-kill", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _cancel(run: Run, context: Context) -> None:
    try:
        batch_ids = begun_batches(run)
        if batch_ids:
            told = cancel_all_if_over(context["ti"], batch_ids, run.adapter.cancel_batch, seconds=_TO_CANCEL)
            run.log.warning(f"The task is being killed while it is at work. {told}")
    except Exception as error:  # noqa: BLE001 - nobody is left to catch anything
        run.log.warning(f"The task is being killed, and what it has under way could not be cancelled: {error}")
