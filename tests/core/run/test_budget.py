"""``max_cost_usd``: nothing is uploaded that will cost too much, and nothing more is submitted once it would.

Each output token costs a dollar here, input costs nothing, and each answer has two tokens.
"""

from __future__ import annotations

import shutil
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.memory_provider import Clock, MemoryProvider
from support.runs import CHAT, Task, end_all, published, waiting

from airflow_provider_llmbatch.core.costs.estimate import Calibration, CostRange, TokenRange
from airflow_provider_llmbatch.core.costs.prices import Prices
from airflow_provider_llmbatch.core.costs.table import price_table
from airflow_provider_llmbatch.core.run.beforehand import calibrations
from airflow_provider_llmbatch.core.run.run import Published
from airflow_provider_llmbatch.errors import BudgetExceededError

if TYPE_CHECKING:
    from airflow_provider_llmbatch.core.run.manifest import Manifest

A_TOKEN_A_DOLLAR = {"batch": {"input": "0", "output": "1000000"}, "standard": {"input": "0", "output": "2000000"}}
PRICES = Prices(None, price_table({"source": "us", "models": {"m": A_TOKEN_A_DOLLAR}}, name="the test's"))
ANSWER = Decimal(2)


def cap(amount: str | int) -> dict[str, Any]:
    return {"max_cost_usd": Decimal(amount), "max_parallel_batches": 1}


@pytest.fixture
def task(task: Task) -> Task:
    """Five rows in parts of two, two and one, with answers of at most five tokens."""
    task.prices = PRICES
    task.max_tokens = 5
    return task


def refusal(task: Task, try_number: int = 1, **options: Any) -> str:
    with pytest.raises(BudgetExceededError) as refused:
        task.run(try_number, **options).advance()
    return str(refused.value)


def spent(manifest: Manifest) -> Decimal:
    assert manifest.costs is not None
    assert manifest.costs.total_usd is not None
    return manifest.costs.total_usd


def test_what_will_cost_too_much_is_not_uploaded(task: Task, provider: MemoryProvider) -> None:
    assert refusal(task, **cap("24.99")) == (
        "About $25.00 ($25.00 to $25.00) for 5 rows on m, $50.00 without batch; prices: us. What counts is $25.00: the "
        "high figure, since the answers may be that long. max_cost_usd is $24.99. Nothing was uploaded or billed now. "
        "A retry would find the same: raise max_cost_usd, ask for shorter answers, for fewer rows or for a cheaper "
        "model, and clear the task."
    )
    assert (provider.calls, provider.submitted) == ([], [])


def test_a_run_that_just_fits_is_whole_and_its_estimate_stands_beside_its_bill(
    task: Task, provider: MemoryProvider
) -> None:
    manifest = end_all(task.run(**cap(25)), provider).manifest
    assert manifest.outcomes == {"succeeded": 5}
    assert manifest.estimate is not None
    assert manifest.estimate.total_usd == CostRange(low=Decimal(25), likely=Decimal(25), high=Decimal(25))
    assert spent(manifest) == 5 * ANSWER


def test_after_a_refusal_a_higher_cap_goes_on_with_what_was_staged(task: Task, provider: MemoryProvider) -> None:
    refusal(task, **cap(1))
    assert end_all(task.run(2, max_tries=3, **cap(25)), provider).manifest.outcomes == {"succeeded": 5}


def test_without_a_bound_the_likely_figure_counts(task: Task) -> None:
    task.max_tokens = None
    assert "What counts is $1,690.00: the likely figure, where nothing bounds the answers" in refusal(task, **cap(1689))
    waiting(task.run(2, max_tries=3, **cap(1690)))


def test_a_cap_cannot_be_kept_without_a_price(task: Task, provider: MemoryProvider) -> None:
    task.prices = Prices()
    assert refusal(task, **cap(1_000)) == (
        "The price of m in batches is not known. So max_cost_usd, which is $1,000.00, cannot be kept. Nothing was "
        "uploaded or billed. A retry would find the same: give a price in the prices of the connection, or drop "
        "max_cost_usd, and clear the task."
    )
    assert provider.calls == []


def test_without_a_cap_a_price_that_is_not_known_is_only_said(
    task: Task, provider: MemoryProvider, capsys: pytest.CaptureFixture[str]
) -> None:
    task.prices = Prices()
    assert end_all(task.run(), provider).error is None
    assert capsys.readouterr().out.count("The price of m in batches is not known. About 36 tokens in") == 1


def dearer_than_expected(task: Task, provider: MemoryProvider) -> Published:
    """A run whose answers have two tokens where one was the limit: 4 dollars for each of the first two parts."""
    task.max_tokens = 1
    return end_all(task.run(**cap(6)), provider)


def test_a_batch_that_no_longer_fits_is_not_submitted_and_the_rest_is_published(
    task: Task, provider: MemoryProvider
) -> None:
    end = dearer_than_expected(task, provider)
    assert task.outcomes() == {"a": "succeeded", "b": "succeeded", "c": "succeeded", "d": "succeeded", "e": "missing"}
    assert task.results()[4]["error"]["code"] == "not_submitted"
    assert isinstance(end.error, BudgetExceededError)
    assert str(end.error).startswith(
        "$8.00 is spent of max_cost_usd, which is $6.00, and the next batch would cost up to $1.00 (prices: us). 1 "
        "rows were not submitted, and nothing was billed for them. What was answered is billed, and published"
    )
    assert len(provider.submitted) == 2


def test_a_try_that_finds_the_set_published_says_the_same(task: Task, provider: MemoryProvider) -> None:
    first = dearer_than_expected(task, provider)
    again = published(task.run(2, **cap(6)))
    assert (type(again.error), str(again.error)) == (type(first.error), str(first.error))


def test_clearing_it_with_a_higher_cap_submits_what_lacks_an_answer(task: Task, provider: MemoryProvider) -> None:
    dearer_than_expected(task, provider)
    assert isinstance(published(task.run(2, max_tries=3, **cap("8.99"))).error, BudgetExceededError)
    end = end_all(task.run(3, max_tries=4, **cap(9)), provider)
    assert (end.error, end.manifest.outcomes, len(provider.submitted)) == (None, {"succeeded": 5}, 3)


def test_a_bill_that_comes_may_make_room(task: Task, provider: MemoryProvider) -> None:
    task.max_tokens = 1
    options = {"max_cost_usd": Decimal(5)}
    assert waiting(task.run(**options)).batch_ids == ("batch-1", "batch-2", "batch-3")
    provider.end("batch-1", lambda line: "succeeded" if line == "0" else "missing")
    # 2 are spent, 3 may be under way, and 1 more would be too much.
    assert (waiting(task.run(**options)).any_end, provider.live) == (True, ["batch-2", "batch-3"])
    provider.end("batch-2", lambda _: "missing")
    waiting(task.run(**options))
    assert provider.live == ["batch-3", "batch-4"]
    assert provider.lines_of("batch-4") == ["1"]


@pytest.mark.parametrize("keep_stage", [True, False])
def test_what_was_spent_before_a_restart_counts(task: Task, provider: MemoryProvider, keep_stage: bool) -> None:
    options = {**cap("25.99"), "keep_stage": keep_stage, "on_clear": "restart"}
    end_all(task.run(**options), provider)
    assert "max_cost_usd is $25.99. $10.00 was spent on this run before." in refusal(task, 2, max_tries=3, **options)
    # Five answers were seen, of two tokens each, and five more are taken for 16 at most.
    waiting(task.run(3, max_tries=3, **{**options, **cap(26)}))


def test_what_was_spent_before_a_restart_also_counts_for_each_batch(task: Task, provider: MemoryProvider) -> None:
    task.max_tokens = 1
    options = {**cap(15), "on_clear": "restart"}
    end_all(task.run(**options), provider)  # 10 instead of 5
    end = end_all(task.run(2, max_tries=3, **options), provider)
    assert str(end.error).startswith(
        "$14.00 is spent of max_cost_usd, which is $15.00, and the next batch would cost up to $2"
    )
    assert end.manifest.outcomes == {"succeeded": 2, "missing": 3}  # in order: the last row alone would have fitted


def test_batches_that_are_cancelled_for_a_changed_input_count_as_estimated(task: Task) -> None:
    waiting(task.run(**cap(25)))  # one batch of two rows
    task.texts[0] = "A"
    assert "$10.00 was spent on this run before." in refusal(task, 2, max_tries=3, **cap(34))
    waiting(task.run(3, max_tries=3, **cap(35)))


def test_an_earlier_run_of_the_same_prompt_makes_the_estimate(
    task: Task, provider: MemoryProvider, clock: Clock, tmp_path: Path
) -> None:
    first = end_all(task.run(), provider).manifest
    assert first.estimate is not None
    size = first.estimate.models[0].bytes
    assert calibrations(first) == {("m", CHAT): Calibration(rows=5, input_per_byte=15 / size, output_per_row=2)}
    later = Task(tmp_path / "later", provider, clock, texts=["f"] * 10, prices=PRICES, earlier=tmp_path / "out")
    made = end_all(later.run(), provider).manifest.estimate
    assert made is not None
    assert made.models[0].calibration == calibrations(first)["m", CHAT]
    assert made.models[0].output_tokens == TokenRange(
        low=8, likely=20, high=32
    )  # 60 % more or less: 5 rows tell little


@pytest.mark.parametrize("parameters", ["other", "p"], ids=["another prompt", "another model"])
def test_an_earlier_run_of_something_else_tells_nothing(
    task: Task, provider: MemoryProvider, clock: Clock, tmp_path: Path, parameters: str
) -> None:
    end_all(task.run(model="m" if parameters == "other" else "n"), provider)
    later = Task(tmp_path / "later", provider, clock, prices=PRICES, earlier=tmp_path / "out")
    made = end_all(later.run(parameters=parameters), provider).manifest.estimate
    assert made is not None
    assert made.models[0].calibration is None


def test_an_earlier_set_that_cannot_be_read_is_no_reason_to_fail(
    task: Task, provider: MemoryProvider, tmp_path: Path
) -> None:
    task.earlier = tmp_path / "earlier"
    task.earlier.mkdir()
    (task.earlier / "manifest.json").write_text("{")
    assert end_all(task.run(), provider).error is None


@settings(max_examples=30)
@given(st.lists(st.sampled_from(["succeeded", "missing"]), min_size=1, max_size=30), st.integers(0, 100), st.data())
def test_a_cap_holds_whatever_is_answered_and_however_it_is_cut(
    ends: list[str], most: int, data: st.DataObject
) -> None:
    clock = Clock()
    provider = MemoryProvider(clock)
    folder = Path(tempfile.mkdtemp())
    options = {
        "max_cost_usd": Decimal(most),
        "max_rows_per_batch": data.draw(st.integers(1, 5)),
        "max_parallel_batches": data.draw(st.integers(1, 4)),
    }
    try:
        texts = [f"row {number}" for number in range(len(ends))]
        task = Task(folder, provider, clock, texts=texts, prices=PRICES, max_tokens=data.draw(st.integers(2, 4)))
        try:
            while not isinstance(answer := task.run(**options).advance(), Published):
                provider.end(data.draw(st.sampled_from(sorted(answer.batch_ids))), lambda line: ends[int(line)])
        except BudgetExceededError:
            assert provider.submitted == []
            assert len(ends) * (task.max_tokens or 0) > most
        else:
            assert spent(answer.manifest) == ends.count("succeeded") * ANSWER <= most
    finally:
        shutil.rmtree(folder)
