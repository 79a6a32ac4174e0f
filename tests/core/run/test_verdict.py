"""What a published set means for its task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support.runs import end_all, published, waiting

from airflow_provider_llmbatch.core.run.manifest import Fingerprints, Manifest, RunIdentity
from airflow_provider_llmbatch.core.run.options import RunOptions
from airflow_provider_llmbatch.core.run.verdict import Shortfall, error_of_set
from airflow_provider_llmbatch.errors import BatchFailedError, DeadlineExceededError, UnansweredRowsError
from airflow_provider_llmbatch.models import Usage

if TYPE_CHECKING:
    from support.memory_provider import MemoryProvider
    from support.runs import Task

    from airflow_provider_llmbatch.core.run.options import OnFailedRows
    from airflow_provider_llmbatch.errors import LLMBatchError


def verdict(
    outcomes: dict[str, int], on_failed_rows: OnFailedRows = "succeed", shortfall: Shortfall | None = None
) -> LLMBatchError | None:
    manifest = Manifest(
        run=RunIdentity(key="llmb-1"),
        provider="memory",
        source="s",
        fingerprints=Fingerprints(rows="r", parameters="p"),
        started_at=0,
        publish_id="1",
        published_at=0,
        format="jsonl",
        rows=sum(outcomes.values()),
        outcomes=outcomes,
        usage=Usage(),
    )
    return error_of_set(manifest, shortfall or Shortfall(), on_failed_rows=on_failed_rows, output="s3://out/")


@pytest.mark.parametrize(
    ("on_failed_rows", "failed", "is_well"),
    [
        (0.29, 29, True),
        (0.29, 30, False),
        ("succeed", 100, True),
        ("fail", 0, True),
        ("fail", 1, False),
        (0, 1, False),
        (5, 5, True),
        (5, 6, False),
        (0.05, 5, True),
        (0.05, 6, False),
        (0.0, 1, False),
    ],
)
def test_so_many_rows_may_fail(on_failed_rows: OnFailedRows, failed: int, *, is_well: bool) -> None:
    error = verdict({"succeeded": 100 - failed, "failed": failed}, on_failed_rows)
    assert (error is None) == is_well


def test_rows_that_are_invalid_or_missing_have_no_good_answer_either() -> None:
    error = verdict({"succeeded": 7, "invalid": 2, "missing": 1}, "fail")
    assert isinstance(error, UnansweredRowsError)
    assert str(error) == (
        "3 of 10 rows have no good answer, and on_failed_rows is 'fail'. What was answered is billed, and published "
        "with all other rows: s3://out/manifest.json (7 succeeded, 2 invalid, 1 missing). A retry would submit "
        "nothing: rows that may succeed were submitted as often as max_attempts says. Look at their errors in the "
        "set; mend the input, or allow more."
    )


def test_a_passed_deadline_fails_the_task_whatever_rows_may_fail() -> None:
    error = verdict({"succeeded": 7}, "succeed", Shortfall(late=("b1", "b2"), running=("b2",), unsent=3))
    assert isinstance(error, DeadlineExceededError)
    assert str(error).startswith(
        "b1, b2 had not ended at the deadline. b2 may still run, and be billed. 3 rows were not submitted before the "
        "run_deadline, and nothing was billed for them."
    )


def test_a_batch_that_was_refused_as_a_whole_fails_the_task_after_the_rest_was_published(
    task: Task, provider: MemoryProvider
) -> None:
    run = task.run(1)
    waiting(run)
    provider.refuse_whole("batch-2", "model_not_found", "The model m does not exist.")
    end = end_all(run, provider)
    assert task.outcomes() == {"a": "succeeded", "b": "succeeded", "c": "failed", "d": "failed", "e": "succeeded"}
    assert isinstance(end.error, BatchFailedError)
    assert str(end.error).startswith(
        "The provider refused batch-2 before running it: model_not_found: The model m does not exist."
    )
    again = published(task.run(2))
    assert (str(again.error), len(provider.submitted)) == (str(end.error), 3)


def test_a_refused_batch_is_submitted_once_more_after_each_clear_and_costs_no_attempt(
    task: Task, provider: MemoryProvider
) -> None:
    run = task.run(1, max_attempts=1)
    waiting(run)
    provider.refuse_whole("batch-2", "model_not_found", "No.")
    end_all(run, provider)
    cleared = task.run(2, max_tries=3, max_attempts=1)
    assert waiting(cleared).batch_ids == ("batch-4",)
    assert (end_all(cleared, provider).error, provider.submitted[3:]) == (None, [["2", "3"]])


def test_a_batch_that_failed_for_a_passing_reason_is_submitted_again_by_itself(
    task: Task, provider: MemoryProvider
) -> None:
    run = task.run(1)
    waiting(run)
    provider.refuse_whole("batch-2", "server_error", "Something went wrong.")
    assert waiting(run).batch_ids == ("batch-1", "batch-3", "batch-4")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"max_parallel_batches": 0}, "max_parallel_batches must be a whole number from 1 on, not 0"),
        ({"max_attempts": True}, "max_attempts must be a whole number from 1 on, not True"),
        ({"max_rows_per_batch": 2.5}, "max_rows_per_batch must be a whole number from 1 on, not 2.5"),
        ({"deadline": -1.0}, "deadline must not be negative, and is -1 s"),
        ({"on_clear": "fail"}, "on_clear must be one of resume, restart, not 'fail'"),
        ({"cleanup": "some"}, "cleanup must be one of inputs, all, none, not 'some'"),
        ({"on_failed_rows": 1.0}, "a share of them such as 0.01, not 1.0"),
        ({"on_failed_rows": -1}, "not -1"),
        ({"on_failed_rows": "never"}, "not 'never'"),
        ({"on_failed_rows": False}, "not False"),
    ],
)
def test_options_that_cannot_hold_are_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        RunOptions(**options)
