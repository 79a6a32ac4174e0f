"""What the core tells of waits and batches, to whoever listens."""

from __future__ import annotations

from typing import Any

import pytest
import structlog
from support.heard import Heard

from airflow_provider_llmbatch.core.progress import JointProgress, Progress
from airflow_provider_llmbatch.core.telemetry import OFF, tell_end
from airflow_provider_llmbatch.errors import UnavailableError
from airflow_provider_llmbatch.models import Batch, Usage

LOG = structlog.get_logger()
TAGS = {"provider": "openai", "model": "m"}


def batch(batch_id: str = "b", status: str = "in_progress", **fields: Any) -> Batch:
    return Batch.model_validate({"id": batch_id, "status": status, "created_at": 100, **TAGS, **fields})


def test_a_wait_tells_how_old_its_batch_is_at_each_look_and_how_late_its_end_was_seen() -> None:
    heard = Heard()
    progress = Progress(heard)
    progress.report(batch(), 110.0, LOG)
    progress.report(UnavailableError("down"), 115.0, LOG)
    progress.report(batch(), 120.0, LOG)
    progress.report(batch(status="completed", completed_at=125), 128.5, LOG)
    assert heard.told == [("batch.age", 10.0, TAGS), ("batch.age", 20.0, TAGS), ("poll.lag", 3.5, TAGS)]


def test_a_joint_wait_tells_of_its_oldest_batch_and_of_each_end_once() -> None:
    heard = Heard()
    progress = JointProgress(heard)
    ended = batch("a", "completed", completed_at=109)
    progress.report({"a": batch("a"), "b": batch("b", created_at=90)}, 110.0, LOG)
    progress.report({"a": ended, "b": UnavailableError("down")}, 111.0, LOG)
    progress.report({"a": ended, "b": batch("b", created_at=90)}, 112.0, LOG)
    progress.report({"b": batch("b", "cancelled", created_at=90, cancelled_at=112)}, 113.0, LOG)
    assert heard.told == [
        ("batch.age", 20.0, TAGS),
        ("poll.lag", 2.0, TAGS),
        ("batch.age", 22.0, TAGS),
        ("poll.lag", 1.0, TAGS),
    ]


@pytest.mark.parametrize(
    ("clock", "expected"), [(99.0, [("batch.age", 0.0, TAGS)]), (101.0, [("batch.age", 1.0, TAGS)])]
)
def test_a_clock_that_is_behind_the_providers_makes_no_negative_age(clock: float, expected: list[Any]) -> None:
    heard = Heard()
    Progress(heard).report(batch(), clock, LOG)
    assert heard.told == expected


def test_a_provider_that_tells_no_moments_is_not_guessed_at() -> None:
    heard = Heard()
    progress = Progress(heard)
    progress.report(batch(created_at=None), 110.0, LOG)
    progress.report(batch(status="completed"), 120.0, LOG)
    tell_end(heard, batch(status="completed"))
    assert heard.told == [("batches.completed", 1, TAGS)]


@pytest.mark.parametrize(
    ("status", "moment", "rest"),
    [
        ("completed", "completed_at", "missing"),
        ("failed", "failed_at", "missing"),
        ("expired", "expired_at", "expired"),
        ("cancelled", "cancelled_at", "cancelled"),
    ],
)
def test_the_end_of_a_batch_accounts_for_each_of_its_requests_and_tokens(status: str, moment: str, rest: str) -> None:
    heard = Heard()
    usage = Usage.model_validate(
        {"input_tokens": 30, "input_tokens_details": {"cached_tokens": 4}, "output_tokens": 7, "total_tokens": 37}
    )
    counts = {"total": 10, "completed": 6, "failed": 1}
    tell_end(
        heard,
        batch(status=status, request_counts=counts, usage=usage, endpoint="/v1/embeddings", **{moment: 160}),
    )
    span = {"endpoint": "/v1/embeddings", "batch_id": "b", "status": status, **TAGS}
    tokens = {"input_tokens": 30, "cached_input_tokens": 4, "output_tokens": 7, "reasoning_output_tokens": 0}
    assert heard.told == [
        (f"batches.{status}", 1, TAGS),
        ("tokens.input", 30, TAGS),
        ("tokens.cached_input", 4, TAGS),
        ("tokens.output", 7, TAGS),
        ("batch.duration", 60.0, TAGS),
        ("batch", 100, 160, {**span, **tokens}),
        ("rows.succeeded", 6, TAGS),
        ("rows.failed", 1, TAGS),
        (f"rows.{rest}", 3, TAGS),
    ]


def test_nobody_listens_by_default() -> None:
    with OFF.span("run", key="k") as span:
        span.set(rows=1)
    OFF.count("rows", 1)
    assert Progress().telemetry is OFF
