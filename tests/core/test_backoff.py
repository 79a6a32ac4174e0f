"""When to submit again while the queue is full: decided without I/O."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from airflow_provider_llmbatch.core.backoff import Queueing, count_refusal, next_try, queue_refusal_of
from airflow_provider_llmbatch.core.ledger import BatchRecord, Ledger, MemoryStore
from airflow_provider_llmbatch.models import Batch

NOW = 1_700_000_000.0
DAY = 86_400.0


def pause(refusals: int, **more: Any) -> float | None:
    again = next_try(Queueing(NOW, refusals), NOW, NOW + DAY, **more)
    return None if again is None else again - NOW


def test_pauses_double_from_a_minute_to_half_an_hour() -> None:
    assert [pause(n) for n in range(1, 8)] == [60, 120, 240, 480, 960, 1800, 1800]
    assert pause(10_000) == 1800


@pytest.mark.parametrize("refusals", [1, 3, 9])
def test_jitter_moves_a_pause_by_at_most_a_quarter(refusals: int) -> None:
    plain = pause(refusals)
    assert plain is not None
    assert [pause(refusals, jitter=j) for j in (-1.0, 1.0)] == [plain * 0.75, plain * 1.25]


def test_a_provider_that_names_a_longer_pause_gets_it() -> None:
    assert [pause(1, retry_after=seconds) for seconds in (5.0, 600.0)] == [60, 600]


def test_the_last_try_is_at_the_deadline_and_none_after_it() -> None:
    queueing = Queueing(NOW, 6)
    assert next_try(queueing, NOW, NOW + 100) == NOW + 100
    assert next_try(queueing, NOW + 100, NOW + 100) is None


def test_a_whole_day_of_refusals_takes_few_tries_each_later_than_the_one_before() -> None:
    moments = [NOW]
    while (again := next_try(Queueing(NOW, len(moments)), moments[-1], NOW + DAY)) is not None:
        moments.append(again)
    assert 48 <= len(moments) <= 60
    assert moments[-1] == NOW + DAY
    assert all(earlier < later for earlier, later in pairwise(moments))


def failed(*errors: dict[str, object], **more: object) -> Batch:
    return Batch.model_validate({"id": "batch_1", "status": "failed", "errors": {"data": errors}, **more})


AZURES = "The number of enqueued tokens has surpassed the configured limit of 1000 for the deployment 'night'."


@pytest.mark.parametrize(
    ("error", "limit"),
    [
        ({"code": "token_limit_exceeded"}, None),
        ({"code": "token_limit_exceeded", "message": AZURES}, 1_000),
        ({"code": None, "message": "Enqueued token limit reached for m in organization o. Limit: 90,000."}, 90_000),
    ],
)
def test_a_batch_that_failed_for_the_queue_is_told_from_others(error: dict[str, object], limit: int | None) -> None:
    refusal = queue_refusal_of(failed(error, output_file_id="file-empty"), title="OpenAI")
    assert refusal is not None
    assert refusal.limit == limit
    assert "OpenAI refused batch_1 before running it" in str(refusal)
    assert "Nothing was billed" in str(refusal)


@pytest.mark.parametrize(
    "batch",
    [
        failed(),
        failed({"code": "invalid_json_line"}),
        failed({"code": "token_limit_exceeded"}, {"code": "invalid_json_line"}),
        failed({"code": "token_limit_exceeded"}, request_counts={"total": 5, "completed": 1}),
        failed({"code": "token_limit_exceeded"}, status="in_progress"),
        Batch(id="batch_1", status="failed"),
    ],
)
def test_a_batch_that_failed_for_anything_else_or_ran_is_none(batch: Batch) -> None:
    assert queue_refusal_of(batch, title="OpenAI") is None


def test_refusals_are_counted_in_the_ledger_before_what_was_carried_along() -> None:
    ledger = Ledger(MemoryStore(), "batch", BatchRecord, durable=True)
    ledger.write(BatchRecord(number=1, key="k", input_file_id="file-1", state="refused", intended_at=NOW, max_tries=0))
    assert count_refusal(ledger, None, now=NOW) == Queueing(NOW, 1)
    assert count_refusal(ledger, Queueing(0.0, 99), now=NOW + 60) == Queueing(NOW, 2)


def test_without_a_record_refusals_are_counted_from_what_was_carried_along() -> None:
    forgetful = Ledger(MemoryStore(), "batch", BatchRecord, durable=False)
    assert count_refusal(forgetful, Queueing(NOW, 3), now=NOW + 60) == Queueing(NOW, 4)
    assert count_refusal(forgetful, None, now=NOW + 60) == Queueing(NOW + 60, 1)
