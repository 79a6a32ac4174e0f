"""What the log says of several batches that are waited for together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
from structlog.testing import capture_logs

from airflow_provider_llmbatch.core.progress import JointProgress
from airflow_provider_llmbatch.errors import UnavailableError
from airflow_provider_llmbatch.models import Batch, BatchStatus, RequestCounts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_llmbatch.core.polling import Look

BEGAN = 1_700_000_000


def batch(status: BatchStatus, total: int = 0, completed: int = 0, failed: int = 0) -> Batch:
    counts = RequestCounts(total=total, completed=completed, failed=failed)
    return Batch(id="batch_1", status=status, in_progress_at=BEGAN, request_counts=counts)


def said(*rounds: Mapping[str, Look]) -> list[tuple[object, object]]:
    """What is logged of rounds 100 s apart, the first one 100 s after the batches began."""
    progress = JointProgress()
    with capture_logs() as lines:
        for number, looks in enumerate(rounds, start=1):
            progress.report(looks, BEGAN + 100.0 * number, structlog.get_logger())
    return [(line["event"], line.get("batches")) for line in lines]


def test_counts_and_rates_are_added_and_the_slowest_says_how_long() -> None:
    assert said({"a": batch("in_progress", 1_000, 500), "b": batch("in_progress", 1_000, 95, 5)}) == [
        ("[######..............]   30%  600/2,000 done, 5 failed, 6.0/s, about 15 min left", "2 in_progress")
    ]


def test_a_batch_that_ended_counts_on_without_being_looked_at_again() -> None:
    assert said(
        {"a": batch("completed", 10, 10), "b": batch("validating")},
        {"b": batch("in_progress", 10, 5)},
        {"b": batch("completed", 10, 9, 1)},
    ) == [
        ("[####################]  100%  10/10 done, 0 failed", "1 completed, 1 validating"),
        ("[###############.....]   75%  15/20 done, 0 failed, 90/h, about 3 min left", "1 completed, 1 in_progress"),
        ("[####################]  100%  20/20 done, 1 failed", "2 completed"),
    ]


def test_nothing_is_said_twice() -> None:
    looks = {"a": batch("in_progress", 10), "b": batch("in_progress", 10)}
    assert said(looks, looks, looks) == [("[....................]    0%  0/20 done, 0 failed", "2 in_progress")]


def test_before_anything_is_counted_the_statuses_are_said() -> None:
    assert said({"a": batch("validating"), "b": batch("validating")}) == [("Batches: 2 validating", None)]


def test_an_outage_of_all_is_said_once_and_so_is_its_end() -> None:
    down, up = UnavailableError("Down.", status_code=503), batch("in_progress", 10)
    line = ("[....................]    0%  0/20 done, 0 failed", "2 in_progress")
    borne = "Down. The batch goes on at the provider; looking again, with growing pauses, until the deadline."
    rounds = [{"a": up, "b": up}, {"a": down, "b": down}, {"a": up, "b": down}, {"a": up, "b": up}]
    assert said(*rounds) == [line, (borne, None), line]


def test_a_round_without_batches_says_nothing() -> None:
    assert said({}, {}) == []
