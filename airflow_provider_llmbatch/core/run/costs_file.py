"""The published bill: ``costs.json`` beside the data of a result set, with every batch that was paid for, each once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from pydantic import BaseModel, ConfigDict

from airflow_provider_llmbatch.core.costs.bill import Costs, total_costs, unknown_costs
from airflow_provider_llmbatch.core.run.manifest import RunIdentity  # noqa: TC001 - pydantic reads the annotation

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from airflow_provider_llmbatch.core.run.manifest import AttemptEntry, PartEntry, RunFacts
    from airflow_provider_llmbatch.core.storage import Folder

COSTS_FILE: Final = "costs.json"


class BatchBill(BaseModel):
    """What one batch cost; ``None`` if an older release landed it."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    part: int
    attempt: int
    batch_id: str | None
    created_at: int | None
    costs: Costs | None


class RunBill(Costs):
    """What a run cost: the sums, the models, and every batch. Within one schema version fields are only added."""

    schema_version: Literal[1] = 1
    run: RunIdentity
    provider: str
    publish_id: str
    batches: tuple[BatchBill, ...]


def bill_of(attempt: AttemptEntry, bills: Mapping[str, Costs]) -> Costs:
    """What an attempt cost. What an older release landed has no known price, unless nothing came of it."""
    found = bills.get(attempt.batch_id or "")
    if found is not None:
        return found
    answered = attempt.outcomes.get("succeeded", 0) + attempt.outcomes.get("invalid", 0)
    return unknown_costs(max(answered, 1) if attempt.usage.total_tokens else answered)


def write_costs(
    folder: Folder, parts: Iterable[PartEntry], bills: Mapping[str, Costs], *, facts: RunFacts, publish_id: str
) -> Costs:
    """Write the bill of a run; returns its sums and models.

    :param bills: By batch.
    """
    attempts = [(part.number, attempt) for part in parts for attempt in part.attempts]
    costs = total_costs(bill_of(attempt, bills) for _, attempt in attempts)
    bill = RunBill(
        **dict(costs),
        run=facts.run,
        provider=facts.provider,
        publish_id=publish_id,
        batches=tuple(
            BatchBill(
                part=part,
                attempt=attempt.attempt,
                batch_id=attempt.batch_id,
                created_at=attempt.created_at,
                costs=bills.get(attempt.batch_id or ""),
            )
            for part, attempt in attempts
        ),
    )
    folder.put(COSTS_FILE, bill.model_dump_json(indent=1).encode() + b"\n")
    return costs
