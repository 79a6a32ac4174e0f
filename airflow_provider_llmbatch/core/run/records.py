"""What a run keeps in its ledger, beside one record for each file and batch: an index, and what was landed.

Records are small, and there is one for each part and attempt, so that none outgrows Airflow's 64 kB.
"""

from __future__ import annotations

import json
from decimal import Decimal  # noqa: TC003 - pydantic reads it
from typing import TYPE_CHECKING, Final, Literal

from pydantic import BaseModel, ConfigDict, JsonValue

from airflow_provider_llmbatch.core.costs.bill import Costs  # noqa: TC001 - pydantic reads the annotation
from airflow_provider_llmbatch.core.ledger import Record
from airflow_provider_llmbatch.models import BatchStatus, Outcome, Usage

if TYPE_CHECKING:
    from airflow_provider_llmbatch.core.storage import Folder

INDEX: Final = "run"
"""The name of the index in the ledger."""

QUEUE: Final = "queue"
"""The name of the record of a full queue."""


def name_of(kind: Literal["file", "batch", "landed"], part: int, attempt: int) -> str:
    """The name of a record, such as ``batch-00017-1``."""
    return f"{kind}-{part:05}-{attempt}"


class IndexRecord(Record):
    """Where a run stands.

    :param state: ``staging``: the source is being read, and nothing of this generation was submitted. ``running``:
        the stage is whole. ``published``: so is the result set.
    :param generation: Counts the inputs, from 1; a part of the key of each batch.
    :param stage_id: The folder of the stage.
    :param max_tries: Of the task instance; a clear changes it, a retry does not.
    :param rows_sha256: Of all that the rows hold, whatever their order, in hexadecimal.
    :param parts_sha256: Of how they were cut into parts.
    :param started_at: In seconds since 1970.
    :param settled: Parts below that number have nothing left to do, and are not looked at again before the end.
    :param publish_id: The folder of the data, from the first attempt to publish them on.
    :param forgotten_at: When the run began without the record of an earlier try, in seconds since 1970: then the
        provider is asked before anything is created.
    :param settled_usd: What those parts cost, where ``max_cost_usd`` is set and prices are known.
    :param earlier_usd: What the generations before this one cost.
    :param replaces: The generation that this one takes the place of, if a new stage tells that its input has changed.
    """

    state: Literal["staging", "running", "published"]
    generation: int
    stage_id: str
    max_tries: int
    parameters_sha256: str
    model: str | None = None
    rows_sha256: str | None = None
    parts_sha256: str | None = None
    rows: int = 0
    parts: int = 0
    settled: int = 0
    settled_usd: Decimal | None = None
    earlier_usd: Decimal | None = None
    started_at: float
    publish_id: str | None = None
    forgotten_at: float | None = None
    replaces: IndexRecord | None = None


class Subset(BaseModel):
    """The lines of a part that are submitted again."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    rows: int
    bytes: int
    sha256: str


class LandedRecord(Record):
    """A batch of a run whose results lie in the stage.

    :param landed_at: In seconds since 1970.
    :param max_tries: Of the task instance when it was landed.
    :param stage_id: The stage that they lie in.
    :param retry: The lines that may be submitted again, if there are any.
    :param stopped: ``deadline``: we cancelled it, or stopped waiting. ``refused``: the provider refused it before it
        ran. Either way its rows are submitted again only after a clear.
    :param reason: Why it was refused, in the provider's words.
    :param costs: ``None`` if an older release landed it.
    :param result_file_ids: At the provider.
    """

    generation: int
    stage_id: str
    batch_id: str
    file_id: str
    key: str
    status: BatchStatus
    outcomes: dict[Outcome, int]
    usage: Usage = Usage()
    costs: Costs | None = None
    created_at: int | None = None
    ended_at: int | None = None
    landed_at: float
    max_tries: int
    retry: Subset | None = None
    stopped: Literal["deadline", "refused"] | None = None
    reason: str | None = None
    result_file_ids: tuple[str, ...] = ()


class QueueRecord(Record):
    """How long the provider's queue of tokens has been full for this run.

    :param since: The first refusal after a batch of the run ended last, in seconds since 1970.
    :param refusals: How many there were.
    :param again_at: When to submit again, in seconds since 1970; ``None`` once ``queue_deadline`` has passed.
    :param max_tries: Of the task instance; a clear waits anew.
    :param batch_ids: Batches that were failed for it, each of which counts once.
    """

    since: float
    refusals: int
    again_at: float | None = None
    max_tries: int
    batch_ids: tuple[str, ...] = ()


class FolderStore:
    """A ledger's store beside the stage, for an Airflow without a task state store."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def get(self, key: str) -> JsonValue:
        content = self._folder.get(f"{key}.json")
        value: JsonValue = None if content is None else json.loads(content)
        return value

    def set(self, key: str, value: JsonValue) -> None:
        self._folder.put(f"{key}.json", json.dumps(value).encode())
