"""What the published set means for the task: nothing, or an error that says what lacks, what it cost, what next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from airflow_provider_llmbatch.core.run.manifest import MANIFEST, OUTCOMES
from airflow_provider_llmbatch.errors import (
    BatchFailedError,
    BudgetExceededError,
    DeadlineExceededError,
    UnansweredRowsError,
)

if TYPE_CHECKING:
    from airflow_provider_llmbatch.core.run.manifest import Manifest
    from airflow_provider_llmbatch.core.run.options import OnFailedRows
    from airflow_provider_llmbatch.errors import LLMBatchError

_NAMED: Final = 5  # batches in a message


@dataclass(frozen=True)
class Shortfall:
    """What a run left undone, beside rows that failed by themselves.

    :param refused: Batches that the provider refused before they ran, each with its reasons.
    :param late: Batches that were cancelled at their deadline, or not ended even then.
    :param running: Of those, the ones that may still run.
    :param unsent: Rows that were not submitted before the ``run_deadline``, or for ``max_cost_usd``.
    :param over_budget: Why the latter, if it is so.
    """

    refused: tuple[tuple[str, str], ...] = ()
    late: tuple[str, ...] = ()
    running: tuple[str, ...] = ()
    unsent: int = 0
    over_budget: str | None = None


def error_of_set(
    manifest: Manifest, shortfall: Shortfall, *, on_failed_rows: OnFailedRows, output: str
) -> LLMBatchError | None:
    """The error of a published set that is not what was wanted, else ``None``.

    :param output: Where it was published.
    """
    where = f"{output.rstrip('/')}/{MANIFEST}"
    published = f"What was answered is billed, and published with all other rows: {where} ({counted(manifest)})."
    if shortfall.refused:
        batch_id, reason = shortfall.refused[0]
        more = f" {len(shortfall.refused) - 1:,} more batches were refused." if len(shortfall.refused) > 1 else ""
        return BatchFailedError(
            f"{reason}{more} {published} Clearing this task submits what was refused once more, if the input is "
            "unchanged, and everything anew if it is mended.",
            batch_id=batch_id,
        )
    if shortfall.over_budget is not None:
        return BudgetExceededError(
            f"{shortfall.over_budget} {shortfall.unsent:,} rows were not submitted, and nothing was billed for them. "
            f"{published} A retry would submit nothing; clearing this task with a higher max_cost_usd submits the rows "
            "that lack an answer, and pays for no answer twice."
        )
    if shortfall.late or shortfall.unsent:
        return DeadlineExceededError(
            f"{' '.join(_lateness(shortfall))} {published} A retry would submit nothing; clearing this task submits "
            "the rows that lack an answer, and pays for no answer twice.",
            batch_id=shortfall.late[0] if shortfall.late else "",
        )
    failed = manifest.rows - manifest.outcomes.get("succeeded", 0)
    if not is_allowed(failed, manifest.rows, on_failed_rows):
        return UnansweredRowsError(
            f"{failed:,} of {manifest.rows:,} rows have no good answer, and on_failed_rows is {on_failed_rows!r}. "
            f"{published} A retry would submit nothing: rows that may succeed were submitted as often as max_attempts "
            "says. Look at their errors in the set; mend the input, or allow more."
        )
    return None


def is_allowed(failed: int, rows: int, on_failed_rows: OnFailedRows) -> bool:
    """Whether so many of the rows may lack a good answer."""
    if isinstance(on_failed_rows, str):
        return on_failed_rows == "succeed" or not failed
    # Divided, not multiplied: 0.29 * 100 is less than 29, but 29 / 100 is what Python reads 0.29 as.
    return failed / rows <= on_failed_rows if isinstance(on_failed_rows, float) else failed <= on_failed_rows


def counted(manifest: Manifest) -> str:
    """The outcomes as messages and logs show them, such as ``48 succeeded, 2 failed``."""
    counts = ((outcome, manifest.outcomes.get(outcome, 0)) for outcome in OUTCOMES)
    return ", ".join(f"{count:,} {outcome}" for outcome, count in counts if count) or "no rows"


def _lateness(shortfall: Shortfall) -> list[str]:
    told = []
    if shortfall.late:
        told.append(f"{_named(shortfall.late)} had not ended at the deadline.")
    if shortfall.running:
        told.append(f"{_named(shortfall.running)} may still run, and be billed.")
    if shortfall.unsent:
        told.append(
            f"{shortfall.unsent:,} rows were not submitted before the run_deadline, and nothing was billed for them."
        )
    return told


def _named(batch_ids: tuple[str, ...]) -> str:
    more = len(batch_ids) - _NAMED
    return ", ".join(batch_ids[:_NAMED]) + (f" and {more:,} more batches" if more > 0 else "")
