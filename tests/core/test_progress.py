"""What a waiting task says: every change once, and what can be told of pace and time left."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import structlog
from structlog.testing import capture_logs

from airflow_provider_llmbatch.core.progress import Progress
from airflow_provider_llmbatch.errors import (
    AccessRefusedError,
    LLMBatchError,
    NotFoundError,
    RequestRefusedError,
    UnavailableError,
)
from airflow_provider_llmbatch.models import Batch, BatchStatus, RequestCounts

if TYPE_CHECKING:
    from collections.abc import Mapping

BEGAN = 1_700_000_000


def batch(
    total: int = 100,
    completed: int = 0,
    failed: int = 0,
    *,
    status: BatchStatus = "in_progress",
    in_progress_at: int | None = BEGAN,
    provider_status: str | None = None,
) -> Batch:
    return Batch(
        id="batch_1",
        status=status,
        provider_status=provider_status,
        in_progress_at=in_progress_at,
        request_counts=RequestCounts(total=total, completed=completed, failed=failed),
    )


def said(*looks: Batch | LLMBatchError) -> list[Mapping[str, object]]:
    """What is logged of looks a minute apart, the first one a minute after the batch began."""
    progress = Progress()
    with capture_logs() as lines:
        for number, look in enumerate(looks, start=1):
            progress.report(look, BEGAN + 60.0 * number, structlog.get_logger())
    return lines


@pytest.mark.parametrize(
    ("seen", "seconds", "line"),
    [
        (batch(0, status="validating"), 60, "Batch batch_1 is validating"),
        (batch(0, status="unknown", provider_status="scheduling"), 60, "Batch batch_1 is scheduling"),
        (batch(1_000, 0), 60, "[....................]    0%  0/1,000 done, 0 failed"),
        (
            batch(1_000, 240, 10),
            100,
            "[#####...............]   25%  250/1,000 done, 10 failed, 2.5/s, about 5 min left",
        ),
        (batch(100, 1), 300, "[....................]    1%  1/100 done, 0 failed, 12/h, about 8.2 h left"),
        (batch(2, 1), 86_400, "[##########..........]   50%  1/2 done, 0 failed, 0.0417/h, about 24.0 h left"),
        (batch(1_000, 998, 1), 100, "[###################.]   99%  999/1,000 done, 1 failed, 10.0/s, about 0 s left"),
        (batch(10, 10), 100, "[####################]  100%  10/10 done, 0 failed, 0.1/s"),
        (batch(10, 12), 100, "[####################]  100%  12/10 done, 0 failed, 0.1/s"),
        (batch(10, 9, 1, status="completed"), 100, "[####################]  100%  10/10 done, 1 failed"),
        (batch(10, 5, in_progress_at=None), 100, "[##########..........]   50%  5/10 done, 0 failed"),
        (batch(10, 5), 0, "[##########..........]   50%  5/10 done, 0 failed"),
        (batch(10, 5), -30, "[##########..........]   50%  5/10 done, 0 failed"),
    ],
    ids=[
        "without counts",
        "in the provider's own word",
        "nothing done",
        "a quarter done",
        "slow",
        "slower than one an hour",
        "never 100 % before the end",
        "all done, not ended",
        "more done than there are",
        "ended",
        "beginning unknown",
        "in the second it began",
        "our clock behind the provider's",
    ],
)
def test_a_change_is_one_readable_line(seen: Batch, seconds: float, line: str) -> None:
    assert Progress().of_batch(seen, BEGAN + seconds) == line


def test_pace_counts_from_the_batchs_own_beginning_also_for_who_comes_when_it_is_half_done() -> None:
    first_look = Progress().of_batch(batch(100, 50), BEGAN + 50.0)
    assert first_look == "[##########..........]   50%  50/100 done, 0 failed, 1.0/s, about 50 s left"


def test_what_did_not_change_is_not_said_again_though_time_goes_on() -> None:
    lines = said(batch(100, 1), batch(100, 1), batch(100, 2), batch(100, 2), batch(100, 2, status="cancelling"))
    assert {line.pop("batch_id") for line in lines} == {"batch_1"}
    assert lines == [
        {
            "event": "[....................]    1%  1/100 done, 0 failed, 60/h, about 1.6 h left",
            "status": "in_progress",
            "log_level": "info",
        },
        {
            "event": "[....................]    2%  2/100 done, 0 failed, 40/h, about 2.5 h left",
            "status": "in_progress",
            "log_level": "info",
        },
        {
            "event": "[....................]    2%  2/100 done, 0 failed, 24/h, about 4.1 h left",
            "status": "cancelling",
            "log_level": "info",
        },
    ]


def test_an_outage_is_said_once_in_each_kind_and_so_is_its_end() -> None:
    down, limited = UnavailableError("Down.", status_code=503), UnavailableError("Bad gateway.", status_code=502)
    unchanged = batch(0, status="validating")
    lines = said(unchanged, down, down, limited, down, limited, unchanged, unchanged, down)
    borne = "The batch goes on at the provider; looking again, with growing pauses, until the deadline."
    assert [(line["log_level"], line["event"]) for line in lines] == [
        ("info", "Batch batch_1 is validating"),
        ("warning", f"Down. {borne}"),
        ("warning", f"Bad gateway. {borne}"),
        ("info", "Batch batch_1 is validating"),
        ("warning", f"Down. {borne}"),
    ]


@pytest.mark.parametrize(
    ("error", "lines"),
    [
        (AccessRefusedError("No such key."), ["No such key. Looking again a few times, in case that passes."]),
        (NotFoundError("Not there."), ["Not there. Looking again a few times, in case that passes."]),
        (RequestRefusedError("No."), []),
    ],
)
def test_a_refusal_does_not_promise_to_look_until_the_deadline(error: LLMBatchError, lines: list[str]) -> None:
    assert [line["event"] for line in said(error, error)] == lines
