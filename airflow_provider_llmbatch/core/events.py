"""What a task has to tell when its work ends: one event, with a message for people."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from airflow_provider_llmbatch.core.costs.wording import dollars, said
from airflow_provider_llmbatch.core.ledger import Record
from airflow_provider_llmbatch.core.run.manifest import OUTCOMES
from airflow_provider_llmbatch.errors import BudgetExceededError, DeadlineExceededError, UnansweredRowsError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from decimal import Decimal

    from pydantic import JsonValue

    from airflow_provider_llmbatch.core.costs.bill import CostTotals
    from airflow_provider_llmbatch.core.run.manifest import Manifest
    from airflow_provider_llmbatch.core.submit import Slot
    from airflow_provider_llmbatch.errors import LLMBatchError
    from airflow_provider_llmbatch.models import Batch

EventName = Literal["done", "partly_failed", "over_budget", "deadline", "failed"]
EVENTS: Final[tuple[EventName, ...]] = ("done", "partly_failed", "over_budget", "deadline", "failed")

_REASONS_SHOWN: Final = 3
_CODE_CHARS: Final = 60


@dataclass(frozen=True)
class LLMBatchEvent:
    """The end of a run or of a batch, as a notifier tells of it.

    :param event: ``done``: every row has a good answer. ``partly_failed``: the work is complete, and some rows have
        none. ``over_budget``, ``deadline``: the task stopped for that. ``failed``: it failed for anything else.
    :param message: All of it in one line, without prompts, answers or keys.
    :param subject: What it is about, as far as Airflow keeps it apart: a later try that finds the same does not tell
        it again.
    :param rows: Of the input; ``None`` if nothing was published, or the batch is not known.
    :param outcomes: How many rows have which outcome.
    :param reasons: The most frequent error codes of rows without a good answer, with their counts.
    :param cost_usd: What it cost, where that is known.
    :param manifest: URI of the published set, if there is one.
    :param batch_ids: The batches at the provider.
    :param error: Why the task fails; ``None`` if it succeeds.
    """

    event: EventName
    message: str
    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    subject: str = field(repr=False)
    rows: int | None = None
    outcomes: Mapping[str, int] = field(default_factory=dict)
    reasons: Mapping[str, int] = field(default_factory=dict)
    cost_usd: Decimal | None = None
    manifest: str | None = None
    batch_ids: tuple[str, ...] = ()
    error: LLMBatchError | None = None


class ToldRecord(Record):
    """What was told last, in a ledger.

    :param subject: As of ``LLMBatchEvent``.
    """

    event: EventName
    subject: str


def event_of_run(slot: Slot, manifest: Manifest | None, error: LLMBatchError | None, *, uri: str) -> LLMBatchEvent:
    """:param manifest: Of the set that was published, if one was.
    :param error: What the task fails with.
    :param uri: Where the manifest lies.
    """
    if manifest is None:
        return _event(slot, "failed", str(error), error, subject=_digest(error))
    succeeded = manifest.outcomes.get("succeeded", 0)
    outcomes = {str(outcome): count for outcome, count in manifest.outcomes.items()}
    spent = _spent(manifest.costs)
    if error is None or isinstance(error, UnansweredRowsError):
        words = (
            f"{succeeded:,} of {manifest.rows:,} rows answered{_others(outcomes)}{_named(manifest.reasons)}"
            f"{f'; {spent}' if spent else ''}; results: {uri}"
        )
        if error is not None:
            words += "; the task fails, as on_failed_rows says"
    else:
        words = f"{error} Cost so far: {spent}." if spent else str(error)
    return _event(
        slot,
        "done" if succeeded == manifest.rows else "partly_failed",
        words,
        error,
        subject=manifest.publish_id,
        rows=manifest.rows,
        outcomes=outcomes,
        reasons=dict(manifest.reasons),
        cost_usd=cost_of(manifest),
        manifest=uri,
        batch_ids=batch_ids_of(manifest),
    )


def event_of_batch(slot: Slot, batch: Batch | None, error: LLMBatchError | None) -> LLMBatchEvent:
    """:param batch: If one was created, or found.
    :param error: What the task fails with.
    """
    if batch is None:
        return _event(slot, "failed", str(error), error, subject=_digest(error))
    counts = batch.request_counts
    words = str(error)
    if error is None:
        failed = f", {counts.failed:,} failed" if counts.failed else ""
        words = f"{counts.completed:,} of {counts.total:,} requests answered{failed}; {batch.id}"
    return _event(
        slot,
        "done" if counts.completed == counts.total else "partly_failed",
        words,
        error,
        subject=batch.id,
        rows=counts.total,
        outcomes={name: count for name, count in (("succeeded", counts.completed), ("failed", counts.failed)) if count},
        batch_ids=(batch.id,),
    )


def extra_of_run(manifest: Manifest, uri: str) -> dict[str, JsonValue]:
    """What the asset event of a run holds.

    :param uri: Of the manifest.
    """
    cost = cost_of(manifest)
    extra: dict[str, JsonValue] = {
        "manifest": uri,
        "rows": manifest.rows,
        "outcomes": {str(outcome): count for outcome, count in manifest.outcomes.items()},
        "provider": manifest.provider,
        "models": list(manifest.models),
    }
    return extra if cost is None else {**extra, "cost_usd": float(cost)}


def batch_ids_of(manifest: Manifest) -> tuple[str, ...]:
    """All batches of a run, in the order of its parts and attempts."""
    attempts = (attempt for part in manifest.parts for attempt in part.attempts)
    return tuple(dict.fromkeys(attempt.batch_id for attempt in attempts if attempt.batch_id))


def cost_of(manifest: Manifest) -> Decimal | None:
    """What a run cost in US dollars; ``None`` if the price of some answers is not known."""
    return manifest.costs.total_usd if manifest.costs is not None else None


def _event(
    slot: Slot,
    event: EventName,
    words: str,
    error: LLMBatchError | None,
    *,
    subject: str,
    rows: int | None = None,
    outcomes: Mapping[str, int] | None = None,
    reasons: Mapping[str, int] | None = None,
    cost_usd: Decimal | None = None,
    manifest: str | None = None,
    batch_ids: tuple[str, ...] = (),
) -> LLMBatchEvent:
    mapped = f"[{slot.map_index}]" if slot.map_index >= 0 else ""
    return LLMBatchEvent(
        event=_name_of(error) or event,
        message=f"{slot.dag_id}.{slot.task_id}{mapped}: {words}",
        dag_id=slot.dag_id,
        run_id=slot.run_id,
        task_id=slot.task_id,
        map_index=slot.map_index,
        subject=subject,
        rows=rows,
        outcomes=outcomes or {},
        reasons=reasons or {},
        cost_usd=cost_usd,
        manifest=manifest,
        batch_ids=batch_ids,
        error=error,
    )


def _name_of(error: LLMBatchError | None) -> EventName | None:
    """``None`` if what was published tells."""
    if error is None or isinstance(error, UnansweredRowsError):
        return None
    if isinstance(error, BudgetExceededError):
        return "over_budget"
    return "deadline" if isinstance(error, DeadlineExceededError) else "failed"


def _digest(error: LLMBatchError | None) -> str:
    return hashlib.sha256(str(error).encode()).hexdigest()[:32]  # and not the text, which Airflow would keep


def _others(outcomes: Mapping[str, int]) -> str:
    counts = ((outcome, outcomes.get(outcome, 0)) for outcome in OUTCOMES if outcome != "succeeded")
    return "".join(f", {count:,} {outcome}" for outcome, count in counts if count)


def _named(reasons: Mapping[str, int]) -> str:
    if not reasons:
        return ""
    shown = [f"{count:,} {code[:_CODE_CHARS]}" for code, count in list(reasons.items())[:_REASONS_SHOWN]]
    return f" ({', '.join(shown)}{', …' if len(reasons) > _REASONS_SHOWN else ''})"


def _spent(costs: CostTotals | None) -> str | None:
    """``None`` if nothing at all is known, as of models without a price."""
    if costs is None or (costs.total_usd is None and not costs.known_usd):
        return None
    return said(costs) if costs.total_usd is None else dollars(costs.total_usd)
