"""Deadlines: of each batch from its creation, and of the run for parts that still wait for their place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.runs import end_all, published, waiting

from airflow_provider_llmbatch.errors import DeadlineExceededError

if TYPE_CHECKING:
    from support.memory_provider import MemoryProvider
    from support.runs import Task

HOUR = 3600.0


def partly(custom_id: str) -> str:
    return "succeeded" if custom_id == "0" else "batch_cancelled"


def test_a_batch_is_cancelled_at_its_deadline_and_what_it_answered_is_published(
    task: Task, provider: MemoryProvider
) -> None:
    run = task.run(1, deadline=HOUR)
    found = waiting(run)
    task.clock.now = found.deadline
    provider.end("batch-2")
    provider.end("batch-3")
    stopped = waiting(run)
    assert (stopped.batch_ids, stopped.deadline) == (("batch-1",), found.deadline + 900)
    provider.end("batch-1", partly, status="cancelled")
    end = published(run)
    assert end.manifest.outcomes == {"succeeded": 4, "cancelled": 1}
    assert isinstance(end.error, DeadlineExceededError)
    assert str(end.error).startswith(
        "batch-1 had not ended at the deadline. What was answered is billed, and published with all other rows: "
    )
    assert len(provider.submitted) == 3


def test_after_a_deadline_a_clear_submits_the_rows_that_lack_an_answer(task: Task, provider: MemoryProvider) -> None:
    run = task.run(1, deadline=HOUR, max_rows_per_batch=5)
    task.clock.now = waiting(run).deadline
    waiting(run)
    provider.end("batch-1", partly, status="cancelled")
    published(run)
    end = end_all(task.run(2, max_tries=3, deadline=HOUR, max_rows_per_batch=5), provider)
    assert (end.error, end.manifest.outcomes) == (None, {"succeeded": 5})
    assert provider.submitted[1:] == [["1", "2", "3", "4"]]


def test_a_retry_after_a_deadline_says_the_same_and_submits_nothing(task: Task, provider: MemoryProvider) -> None:
    run = task.run(1, deadline=HOUR, max_rows_per_batch=5)
    task.clock.now = waiting(run).deadline
    waiting(run)
    provider.end("batch-1", partly, status="cancelled")
    first = published(run)
    again = published(task.run(2, deadline=HOUR, max_rows_per_batch=5))
    assert (again.manifest, str(again.error), len(provider.submitted)) == (first.manifest, str(first.error), 1)


def test_a_batch_that_ends_well_in_the_last_moment_is_no_failure(task: Task, provider: MemoryProvider) -> None:
    run = task.run(1, deadline=HOUR, max_rows_per_batch=5)
    task.clock.now = waiting(run).deadline
    waiting(run)
    provider.end("batch-1")
    assert published(run).error is None


def test_a_cancelled_batch_that_never_ends_is_given_up_and_may_be_landed_after_a_clear(
    task: Task, provider: MemoryProvider
) -> None:
    run = task.run(1, deadline=HOUR)
    task.clock.now = waiting(run).deadline
    provider.end("batch-2")
    provider.end("batch-3")
    task.clock.now = waiting(run).deadline
    end = published(run)
    assert end.manifest.outcomes == {"succeeded": 3, "missing": 2}
    rows = [row for row in task.results() if row["outcome"] == "missing"]
    assert {(row["error"]["code"], row["batch_id"], row["attempt"]) for row in rows} == {("not_ended", "batch-1", 1)}
    assert [entry.batch_id for entry in end.manifest.parts[0].attempts] == ["batch-1"]
    assert "batch-1 may still run, and be billed." in str(end.error)
    provider.end("batch-1", partly, status="cancelled")
    cleared = task.run(2, max_tries=3, deadline=HOUR)
    assert waiting(cleared).batch_ids == ("batch-4",)
    assert (end_all(cleared, provider).manifest.outcomes, provider.submitted[3:]) == ({"succeeded": 5}, [["1"]])


def test_without_cancel_on_deadline_a_batch_is_left_running(task: Task, provider: MemoryProvider) -> None:
    run = task.run(1, deadline=HOUR, cancel_on_deadline=False, max_rows_per_batch=5)
    task.clock.now = waiting(run).deadline
    end = published(run)
    assert "batch-1 may still run, and be billed." in str(end.error)
    again = task.run(2, deadline=HOUR, cancel_on_deadline=False, max_rows_per_batch=5)
    assert str(published(again).error) == str(end.error)
    assert "cancel_batch" not in provider.calls
    provider.end("batch-1")
    cleared = task.run(3, max_tries=3, deadline=HOUR, cancel_on_deadline=False, max_rows_per_batch=5)
    assert published(cleared).manifest.outcomes == {"succeeded": 5}


def test_after_the_run_deadline_nothing_is_submitted_and_what_is_under_way_is_waited_for(
    task: Task, provider: MemoryProvider
) -> None:
    run = task.run(1, run_deadline=HOUR, max_parallel_batches=2)
    found = waiting(run)
    assert (found.deadline, found.any_end) == (task.clock.now + HOUR, True)
    task.clock.now = found.deadline
    late = waiting(run)
    assert (late.batch_ids, late.any_end) == (("batch-1", "batch-2"), False)
    end = end_all(run, provider)
    assert task.outcomes() == {**dict.fromkeys("abcd", "succeeded"), "e": "missing"}
    assert str(end.error).startswith(
        "1 rows were not submitted before the run_deadline, and nothing was billed for them"
    )
    cleared = end_all(task.run(2, max_tries=3, run_deadline=HOUR, max_parallel_batches=2), provider)
    assert (cleared.error, provider.submitted[2:]) == (None, [["4"]])


def test_after_the_run_deadline_a_creation_in_doubt_is_still_looked_for(task: Task, provider: MemoryProvider) -> None:
    provider.die_after_creation = True
    try:
        task.run(1, run_deadline=HOUR, max_rows_per_batch=5).advance()
    except SystemExit:
        provider.die_after_creation = False
    task.clock.now += 2 * HOUR
    assert waiting(task.run(2, run_deadline=HOUR, max_rows_per_batch=5)).batch_ids == ("batch-1",)
    assert len(provider.batches) == 1
