"""What all steps of a run share: the provider, the output, the ledger, the options."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from airflow_provider_llmbatch.core.costs.prices import Prices
from airflow_provider_llmbatch.core.ledger import BatchRecord, FileRecord, Ledger
from airflow_provider_llmbatch.core.run.records import INDEX, QUEUE, IndexRecord, LandedRecord, QueueRecord, name_of
from airflow_provider_llmbatch.core.run.stage import Stage
from airflow_provider_llmbatch.core.telemetry import OFF
from airflow_provider_llmbatch.errors import LLMBatchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from structlog.typing import FilteringBoundLogger

    from airflow_provider_llmbatch.adapters.base import Adapter
    from airflow_provider_llmbatch.core.ledger import Store
    from airflow_provider_llmbatch.core.run.options import RunOptions
    from airflow_provider_llmbatch.core.run.requests import Row
    from airflow_provider_llmbatch.core.run.shape import Shape
    from airflow_provider_llmbatch.core.run.staging import LineCheck
    from airflow_provider_llmbatch.core.storage import Folder
    from airflow_provider_llmbatch.core.submit import Attempt, Slot, Timing
    from airflow_provider_llmbatch.core.telemetry import Telemetry

STAGES: Final = "_llmbatch"
"""The folder of the output that holds the stages of all runs."""


def key_of(slot: Slot) -> str:
    """The name of the run of a task."""
    return slot.key("run")


def run_folder(output: Folder, slot: Slot) -> Folder:
    """Where the run of a task keeps its stages, and its records where Airflow keeps none."""
    return output.child(STAGES, private=True).child(key_of(slot))


@dataclass(frozen=True)
class RunInput:
    """What a run is made from.

    :param rows: Reads the source from its start; called once for each stage.
    :param parameters_sha256: Of everything but the rows that decides what is asked.
    :param description: The source as logs, messages and the manifest call it, without secrets.
    :param shape: What an answer has to fit, if anything.
    :param check: Makes what the provider asks of the lines of one part besides, if anything.
    """

    rows: Callable[[], Iterable[Row]]
    parameters_sha256: str
    model: str | None
    description: str
    shape: Shape | None = None
    check: Callable[[], LineCheck | None] | None = None


@dataclass(frozen=True)
class Job:
    """:param store: Durable: Airflow's task state store, or a ``FolderStore``.
    :param output: Where the result set is published, and the stage lies.
    :param prices: What answers cost, as far as that is known.
    :param earlier_output: Where an earlier run of the same task has published, if that is known.
    :param is_stopping: Whether the process is about to end: then nothing more is submitted.
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
    is_stopping: Callable[[], bool] = lambda: False
    telemetry: Telemetry = OFF
    prices: Prices = field(default_factory=Prices)
    earlier_output: Callable[[], Folder | None] = lambda: None

    @property
    def key(self) -> str:
        """The run's name: the same on every try."""
        return key_of(self.slot)

    @property
    def folder(self) -> Folder:
        """Where its stages lie."""
        return run_folder(self.output, self.slot)

    @property
    def index(self) -> Ledger[IndexRecord]:
        return Ledger(self.store, INDEX, IndexRecord, durable=True)

    @property
    def queue(self) -> Ledger[QueueRecord]:
        return Ledger(self.store, QUEUE, QueueRecord, durable=True)

    def files(self, part: int, attempt: int) -> Ledger[FileRecord]:
        return Ledger(self.store, name_of("file", part, attempt), FileRecord, durable=True)

    def batches(self, part: int, attempt: int, *, forgotten: bool = False) -> Ledger[BatchRecord]:
        return Ledger(self.store, name_of("batch", part, attempt), BatchRecord, durable=not forgotten)

    def landings(self, part: int, attempt: int) -> Ledger[LandedRecord]:
        return Ledger(self.store, name_of("landed", part, attempt), LandedRecord, durable=True)

    def slot_of(self, part: int) -> Slot:
        return replace(self.slot, part=part)

    def stage_id_of_try(self, generation: int) -> str:
        """For a stage that this try writes anew, when an earlier one wrote, or was writing, that of the generation."""
        return f"{generation}-{self.attempt.try_number}"

    def stage_ids(self, generation: int) -> list[str]:
        """All that a stage of a generation may be called by now."""
        return [str(generation), *(f"{generation}-{number}" for number in range(1, self.attempt.try_number + 1))]

    def stage_folder(self, stage_id: str) -> Folder:
        return self.folder.child(stage_id)

    def forget_stage(self, stage_id: str) -> None:
        """Delete a stage, if it is there; a failure is only warned of."""
        try:
            stage = Stage.open(self.stage_folder(stage_id))
            if stage is not None:
                stage.delete()
            else:
                self.stage_folder(stage_id).delete_tree()
        except LLMBatchError as error:
            self.log.warning(f"A stage that is not needed any more could not be deleted: {error}")

    def forget_data(self, publish_id: str) -> None:
        """Delete data that were never published; a failure is only warned of."""
        try:
            self.output.child("data").child(publish_id).delete_tree()
        except LLMBatchError as error:
            self.log.warning(f"Data that were never published could not be deleted: {error}")
