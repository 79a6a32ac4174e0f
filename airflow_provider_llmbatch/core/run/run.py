"""The steps of a run: stage, submit, land, resubmit, publish.

Every call of ``advance`` reads the truth anew (ledger, stage, provider) and goes on from there, so a process may die
anywhere between two side effects.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from structlog.typing import FilteringBoundLogger

    from airflow_provider_llmbatch.adapters.base import Adapter
    from airflow_provider_llmbatch.core.ledger import Store
    from airflow_provider_llmbatch.core.run.manifest import Manifest
    from airflow_provider_llmbatch.core.run.options import RunOptions
    from airflow_provider_llmbatch.core.run.requests import Row
    from airflow_provider_llmbatch.core.storage import Folder
    from airflow_provider_llmbatch.core.submit import Attempt, Slot, Timing
    from airflow_provider_llmbatch.errors import LLMBatchError


@dataclass(frozen=True)
class RunInput:
    """What a run is made from.

    :param rows: Reads the source from its start; called once for each stage.
    :param parameters_sha256: Of everything but the rows that decides what is asked.
    :param description: The source as logs, messages and the manifest call it, without secrets.
    """

    rows: Callable[[], Iterable[Row]]
    parameters_sha256: str
    model: str | None
    description: str


@dataclass(frozen=True)
class Waiting:
    """Batches are under way, or the provider's queue is full.

    :param batch_ids: Those that have not ended.
    :param resubmit_at: When to submit again, in seconds since 1970; ``None`` if nothing waits for that.
    :param deadline: When to call ``advance`` at the latest, in seconds since 1970.
    :param any_end: Whether to call ``advance`` as soon as one of the batches ended, since a part waits for its place;
        else when all of them have.
    """

    batch_ids: tuple[str, ...]
    resubmit_at: float | None
    deadline: float
    any_end: bool


@dataclass(frozen=True)
class Published:
    """The result set is whole.

    :param error: What it means for the task, ``None`` if that is well.
    """

    manifest: Manifest
    error: LLMBatchError | None = None


@dataclass(frozen=True)
class Run:
    """:param store: Durable: Airflow's task state store, or a ``FolderStore``.
    :param output: Where the result set is published, and the stage lies.
    """

    adapter: Adapter
    output: Folder
    store: Store
    slot: Slot
    attempt: Attempt
    source: RunInput
    options: RunOptions
    timing: Timing
    log: FilteringBoundLogger

    def advance(self) -> Waiting | Published:
        """Go as far as it goes without waiting.

        :raises LLMBatchError: A retriable one leaves everything as it is for the next try; any other needs a person.
        """
        raise NotImplementedError

    def cancel(self) -> dict[str, str]:
        """Cancel what is under way, eight at a time; returns what became of each batch id."""
        raise NotImplementedError
