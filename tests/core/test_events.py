"""The message of each end: how much was answered, why some was not, what it cost, where it lies."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast

import pytest
from support.result_sets import FACTS

from airflow_provider_llmbatch.core.costs.bill import Costs
from airflow_provider_llmbatch.core.events import event_of_batch, event_of_run
from airflow_provider_llmbatch.core.run.manifest import AttemptEntry, ErrorEntry, Manifest, PartEntry
from airflow_provider_llmbatch.core.submit import Slot
from airflow_provider_llmbatch.errors import (
    BatchExpiredError,
    BatchInputError,
    BudgetExceededError,
    DeadlineExceededError,
    UnansweredRowsError,
)
from airflow_provider_llmbatch.models import Batch, RequestCounts, Usage

if TYPE_CHECKING:
    from airflow_provider_llmbatch.errors import LLMBatchError

SLOT = Slot("airflow", "nightly_sentiment", "run-1", "classify")
URI = "s3://warehouse/out/manifest.json"
SOME = {"succeeded": 47_998, "failed": 110, "invalid": 4}
REASONS = {"content_filter": 89, "server_error": 20, "not_json": 4, "other": 1}


def manifest(outcomes: dict[str, int], reasons: dict[str, int] | None = None) -> Manifest:
    attempts = (AttemptEntry(attempt=1, batch_id="batch_1"), AttemptEntry(attempt=2, batch_id="batch_2"))
    part = PartEntry(number=0, uri="data/p/x", rows=sum(outcomes.values()), bytes=9, outcomes={}, attempts=attempts)
    return Manifest(
        **dict(FACTS),
        publish_id="p-1",
        published_at=1,
        format="jsonl",
        rows=sum(outcomes.values()),
        outcomes=cast("Any", outcomes),
        errors=tuple(
            ErrorEntry(outcome="failed", code=code, count=count, uri="data/p/x", line=1)
            for code, count in (reasons or {}).items()
        ),
        usage=Usage(),
        parts=(part,),
    )


def priced(outcomes: dict[str, int], **costs: Any) -> Manifest:
    return manifest(outcomes).model_copy(update={"costs": Costs(**costs)})


@pytest.mark.parametrize(
    ("published", "error", "event", "message"),
    [
        (
            manifest({"succeeded": 48_112}),
            None,
            "done",
            "nightly_sentiment.classify: 48,112 of 48,112 rows answered; results: s3://warehouse/out/manifest.json",
        ),
        (
            manifest(SOME, REASONS),
            None,
            "partly_failed",
            (
                "nightly_sentiment.classify: 47,998 of 48,112 rows answered, 4 invalid, 110 failed (89 content_filter, "
                "20 server_error, 4 not_json, …); results: s3://warehouse/out/manifest.json"
            ),
        ),
        (
            manifest({"succeeded": 1, "missing": 1}),
            UnansweredRowsError("1 of 2 rows have no good answer."),
            "partly_failed",
            (
                "nightly_sentiment.classify: 1 of 2 rows answered, 1 missing; results: "
                "s3://warehouse/out/manifest.json; the task fails, as on_failed_rows says"
            ),
        ),
        (
            manifest({"missing": 2}),
            DeadlineExceededError("Too late.", batch_id="batch_1"),
            "deadline",
            "nightly_sentiment.classify: Too late.",
        ),
        (None, BudgetExceededError("Too dear."), "over_budget", "nightly_sentiment.classify: Too dear."),
        (None, BatchInputError("Line 1 is blank."), "failed", "nightly_sentiment.classify: Line 1 is blank."),
    ],
    ids=["done", "partly failed", "too many rows failed", "deadline", "over budget", "bad input"],
)
def test_the_end_of_a_run_is_told_in_one_line(
    published: Manifest | None, error: LLMBatchError | None, event: str, message: str
) -> None:
    told = event_of_run(SLOT, published, error, uri=URI)
    assert (told.event, told.message, told.error) == (event, message, error)
    if published is not None:
        assert (told.manifest, told.batch_ids, told.outcomes) == (URI, ("batch_1", "batch_2"), published.outcomes)


def test_what_a_run_cost_is_told_where_it_is_known() -> None:
    done = event_of_run(SLOT, priced({"succeeded": 2}, total_usd="1.234", standard_usd="2.468"), None, uri=URI)
    assert (done.cost_usd, done.message.split("; ")[1]) == (Decimal("1.234"), "$1.23")
    stopped = event_of_run(SLOT, priced({"missing": 2}, total_usd="7"), BudgetExceededError("Too dear."), uri=URI)
    assert stopped.message == "nightly_sentiment.classify: Too dear. Cost so far: $7.00."
    partly = event_of_run(SLOT, priced({"succeeded": 2}, known_usd="0.5", unpriced_rows=1), None, uri=URI)
    assert (partly.cost_usd, partly.message.split("; ")[1]) == (None, "$0.50 and 1 answer of unknown price")


@pytest.mark.parametrize(
    ("counts", "error", "event", "message"),
    [
        ((2, 2, 0), None, "done", "2 of 2 requests answered; batch_7"),
        ((3, 2, 1), None, "partly_failed", "2 of 3 requests answered, 1 failed; batch_7"),
        ((3, 2, 0), BatchExpiredError("batch_7 expired.", batch_id="batch_7"), "failed", "batch_7 expired."),
    ],
)
def test_the_end_of_a_batch_is_told_in_one_line_by_a_mapped_task_too(
    counts: tuple[int, int, int], error: LLMBatchError | None, event: str, message: str
) -> None:
    total, completed, failed = counts
    counted = RequestCounts(total=total, completed=completed, failed=failed)
    batch = Batch(id="batch_7", status="completed", request_counts=counted)
    told = event_of_batch(Slot("", "d", "r", "t", 3), batch, error)
    assert (told.event, told.message, told.batch_ids) == (event, f"d.t[3]: {message}", ("batch_7",))


def test_what_is_told_once_is_known_by_what_it_is_about_and_holds_no_text() -> None:
    same = [event_of_run(SLOT, None, BatchInputError("a secret row"), uri=URI).subject for _ in range(2)]
    other = event_of_run(SLOT, None, BatchInputError("another"), uri=URI).subject
    assert same[0] == same[1] != other
    assert "secret" not in same[0]
    assert event_of_run(SLOT, manifest({"succeeded": 1}), None, uri=URI).subject == "p-1"
