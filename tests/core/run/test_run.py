"""A run from its input to its result set, one call of ``advance`` after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.runs import end_all, published, waiting

if TYPE_CHECKING:
    from support.memory_provider import Clock, MemoryProvider
    from support.runs import Task


def test_all_parts_are_submitted_and_waited_for_together(task: Task, provider: MemoryProvider, clock: Clock) -> None:
    found = waiting(task.run())
    assert (found.batch_ids, found.resubmit_at, found.any_end) == (("batch-1", "batch-2", "batch-3"), None, False)
    assert found.deadline == clock.now + 25 * 3600
    assert provider.submitted == [["0", "1"], ["2", "3"], ["4"]]


def test_the_set_is_published_when_all_batches_ended(task: Task, provider: MemoryProvider) -> None:
    end = end_all(task.run(), provider)
    assert end.error is None
    assert end.manifest.outcomes == {"succeeded": 5}
    assert [(row["key"], row["text"], row["batch_id"], row["attempt"]) for row in task.results()] == [
        ("a", "answer 0", "batch-1", 1),
        ("b", "answer 1", "batch-1", 1),
        ("c", "answer 2", "batch-2", 1),
        ("d", "answer 3", "batch-2", 1),
        ("e", "answer 4", "batch-3", 1),
    ]


def test_no_more_batches_are_under_way_than_the_user_allows(task: Task, provider: MemoryProvider) -> None:
    run = task.run(max_parallel_batches=2)
    first = waiting(run)
    assert (first.batch_ids, first.any_end) == (("batch-1", "batch-2"), True)
    provider.end("batch-2")
    second = waiting(run)
    assert (second.batch_ids, second.any_end) == (("batch-1", "batch-3"), False)
    assert [(found.parts, found.parts_done) for found in (first, second)] == [(3, 0), (3, 1)]


def test_only_rows_that_may_still_be_answered_are_submitted_again(task: Task, provider: MemoryProvider) -> None:
    run = task.run(max_rows_per_batch=5)
    waiting(run)
    ends = {"0": "succeeded", "1": "server_error", "2": "content_filter", "3": "missing", "4": "no_response"}
    provider.end("batch-1", ends.__getitem__)
    waiting(run)
    assert provider.submitted == [["0", "1", "2", "3", "4"], ["1", "3", "4"]]
    provider.end("batch-2")
    end = published(run)
    assert task.outcomes() == {"a": "succeeded", "b": "succeeded", "c": "failed", "d": "succeeded", "e": "succeeded"}
    assert [entry.attempt for entry in end.manifest.parts[0].attempts] == [1, 2]


@pytest.mark.parametrize("parts", [20, 40])
def test_a_look_reads_what_was_begun_however_much_waits_behind_it(
    task: Task, monkeypatch: pytest.MonkeyPatch, parts: int
) -> None:
    task.texts = [str(number) for number in range(parts)]
    run = task.run(max_rows_per_batch=1, max_parallel_batches=3)
    waiting(run)
    read: list[str] = []
    get = task.store.get
    monkeypatch.setattr(task.store, "get", lambda key: read.append(key) or get(key))  # type: ignore[func-returns-value] # on purpose
    waiting(run)
    assert [name for name in read if name.startswith("batch")] == [f"batch-0000{number}-1" for number in range(4)]
