"""The bill of a run over all its tries: every batch that was paid for is in it, each once, whatever is repeated."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from support.runs import Task, end_all, published, waiting

from airflow_provider_llmbatch.core.costs.prices import Prices
from airflow_provider_llmbatch.core.costs.table import price_table
from airflow_provider_llmbatch.core.run import parts

if TYPE_CHECKING:
    from support.memory_provider import MemoryProvider

TABLE = price_table({"models": {"m-1": {"batch": {"input": "1", "output": "1"}}}}, name="the test's table")
A_ROW = Decimal("0.000005")  # each answer has 3 tokens in, 2 out


@pytest.fixture
def priced(task: Task) -> Task:
    task.prices = Prices(None, TABLE)
    return task


def test_every_answer_of_every_attempt_is_billed_once(priced: Task, provider: MemoryProvider) -> None:
    run = priced.run(max_rows_per_batch=10)
    [first] = waiting(run).batch_ids
    provider.end(first, lambda row: "succeeded" if row in "012" else "rate_limit_exceeded")
    end = end_all(run, provider)
    assert end.manifest.costs is not None
    assert (end.manifest.costs.total_usd, end.manifest.costs.unpriced_rows) == (5 * A_ROW, 0)
    [part] = end.manifest.parts
    assert [attempt.costs and attempt.costs.total_usd for attempt in part.attempts] == [3 * A_ROW, 2 * A_ROW]


@pytest.mark.parametrize("max_tries", [2, 5])
def test_a_retry_and_a_clear_bill_nothing_again(priced: Task, provider: MemoryProvider, max_tries: int) -> None:
    bill = end_all(priced.run(), provider).manifest.costs
    assert bill is not None
    assert bill.total_usd == 5 * A_ROW
    assert published(priced.run(2, max_tries=max_tries)).manifest.costs == bill
    assert len(provider.batches) == 3


def test_landing_again_after_a_death_bills_nothing_again(
    priced: Task, provider: MemoryProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    [batch_id] = waiting(priced.run(max_rows_per_batch=10)).batch_ids
    provider.end(batch_id)

    def die(**_: object) -> None:
        raise SystemExit

    run = priced.run(2, max_rows_per_batch=10)
    with monkeypatch.context() as patched:
        patched.setattr(parts, "LandedRecord", die)  # the answers lie in the stage, and nothing says so yet
        with pytest.raises(SystemExit):
            run.advance()
    end = published(priced.run(3, max_rows_per_batch=10))
    assert end.manifest.costs is not None
    assert end.manifest.costs.total_usd == 5 * A_ROW


def test_going_on_after_a_clear_adds_only_what_is_new(priced: Task, provider: MemoryProvider) -> None:
    run = priced.run(max_rows_per_batch=10, max_attempts=1, keep_stage=True)
    [batch_id] = waiting(run).batch_ids
    provider.end(batch_id, lambda row: "succeeded" if row in "012" else "rate_limit_exceeded")
    before = published(run).manifest.costs
    after = end_all(priced.run(2, max_tries=5, max_rows_per_batch=10, max_attempts=2), provider).manifest.costs
    assert before is not None
    assert after is not None
    assert (before.total_usd, after.total_usd) == (3 * A_ROW, 5 * A_ROW)
