"""A queue of tokens that is full: submissions pause, what is under way goes on, and nothing is lost or paid twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.runs import end_all, waiting

from airflow_provider_llmbatch.core.run import full_queue
from airflow_provider_llmbatch.errors import EnqueuedTokenLimitError

if TYPE_CHECKING:
    from support.memory_provider import MemoryProvider
    from support.runs import Task

FULL = EnqueuedTokenLimitError("The queue of tokens is full.")
WORDS = ("token_limit_exceeded", "Enqueued token limit reached for m. Limit: 9 enqueued tokens.")


@pytest.fixture(autouse=True)
def _no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full_queue.random, "uniform", lambda _low, _high: 0.0)


def test_a_refused_creation_pauses_all_further_ones_while_others_go_on(task: Task, provider: MemoryProvider) -> None:
    provider.refuse = [None, FULL]
    found = waiting(task.run(1))
    assert (found.batch_ids, found.resubmit_at, found.any_end) == (("batch-1",), task.clock.now + 60, True)
    assert provider.calls.count("create_batch") == 2


def test_with_nothing_under_way_the_run_waits_for_time_alone(task: Task, provider: MemoryProvider) -> None:
    provider.refuse = [FULL]
    found = waiting(task.run(1))
    assert (found.batch_ids, found.resubmit_at, found.deadline) == ((), task.clock.now + 60, task.clock.now + 60)
    task.clock.now += 60
    assert waiting(task.run(1)).batch_ids == ("batch-1", "batch-2", "batch-3")


def test_a_try_that_comes_too_early_waits_on(task: Task, provider: MemoryProvider) -> None:
    provider.refuse = [FULL]
    found = waiting(task.run(1))
    task.clock.now += 30
    assert waiting(task.run(2)) == found
    assert provider.calls.count("create_batch") == 1


def test_pauses_double_with_each_refusal(task: Task, provider: MemoryProvider) -> None:
    provider.refuse = [FULL] * 4
    pauses = []
    for _ in range(4):
        again_at = waiting(task.run(1)).resubmit_at
        assert again_at is not None
        pauses.append(again_at - task.clock.now)
        task.clock.now = again_at
    assert pauses == [60, 120, 240, 480]


def test_a_batch_that_ends_ends_the_pause(task: Task, provider: MemoryProvider) -> None:
    provider.refuse = [None, FULL]
    run = task.run(1)
    waiting(run)
    task.clock.now += 10
    provider.end("batch-1")
    assert waiting(run).batch_ids == ("batch-2", "batch-3")


def test_batches_that_are_failed_for_it_count_once_and_are_submitted_again(
    task: Task, provider: MemoryProvider
) -> None:
    run = task.run(1)
    waiting(run)
    provider.refuse_whole("batch-2", *WORDS)
    provider.refuse_whole("batch-3", *WORDS)
    found = waiting(run)
    assert (found.batch_ids, found.resubmit_at, found.any_end) == (("batch-1",), task.clock.now + 60, True)
    assert waiting(task.run(2)) == found
    task.clock.now += 60
    assert waiting(task.run(2)).batch_ids == ("batch-1", "batch-4", "batch-5")
    assert provider.submitted[3:] == [["2", "3"], ["4"]]
    assert end_all(task.run(2), provider).manifest.outcomes == {"succeeded": 5}


def test_at_the_queue_deadline_the_error_says_what_was_tried_and_a_retry_tries_once_more(
    task: Task, provider: MemoryProvider
) -> None:
    provider.refuse = [FULL] * 3
    for _ in range(2):
        task.clock.now = waiting(task.run(1, queue_deadline=100)).resubmit_at or 0
    with pytest.raises(
        EnqueuedTokenLimitError, match=r"found full 3 times since .* A retry submits the rest once more"
    ):
        task.run(1, queue_deadline=100).advance()
    assert waiting(task.run(2, queue_deadline=100)).batch_ids == ("batch-1", "batch-2", "batch-3")


def test_at_the_queue_deadline_batches_that_are_under_way_are_waited_for(task: Task, provider: MemoryProvider) -> None:
    provider.refuse = [None, FULL, FULL]
    run = task.run(1, queue_deadline=60)
    task.clock.now = waiting(run).resubmit_at or 0
    found = waiting(run)
    assert (found.batch_ids, found.resubmit_at, found.any_end) == (("batch-1",), None, True)
    task.clock.now += 10
    assert waiting(run) == found
    provider.end("batch-1")
    assert waiting(run).batch_ids == ("batch-2", "batch-3")


def test_a_clear_waits_anew(task: Task, provider: MemoryProvider) -> None:
    provider.refuse = [FULL, FULL]
    waiting(task.run(1))
    found = waiting(task.run(2, max_tries=3))
    assert found.resubmit_at == task.clock.now + 60


def test_many_tasks_that_are_refused_together_do_not_come_back_together(
    task: Task, provider: MemoryProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    provider.refuse = [FULL] * 20
    moments = set()
    for number in range(20):
        found = waiting(task.run(number + 1, max_tries=number + 10))
        moments.add(round((found.resubmit_at or 0) - task.clock.now, 3))
    assert len(moments) > 15
    assert all(45 <= moment <= 75 for moment in moments)
