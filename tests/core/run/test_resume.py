"""Retries: each is a run of its own, as another process would make it, and pays for nothing that was paid for."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from support.runs import end_all, published, waiting

from airflow_provider_llmbatch.core.ledger import MemoryStore
from airflow_provider_llmbatch.core.run.old_batches import begun_batches
from airflow_provider_llmbatch.core.run.records import FolderStore
from airflow_provider_llmbatch.core.storage import Folder
from airflow_provider_llmbatch.errors import (
    BatchInputError,
    LLMBatchError,
    NotFoundError,
    RequestRefusedError,
    StageGoneError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import JsonValue
    from support.memory_provider import MemoryProvider
    from support.runs import Task

    from airflow_provider_llmbatch.core.run.requests import Row


def test_a_retry_reads_no_source_and_waits_for_the_batches_that_are_there(task: Task, provider: MemoryProvider) -> None:
    first = waiting(task.run(1))
    assert waiting(task.run(2)) == first
    assert (task.times_read, len(provider.submitted)) == (1, 3)


def test_what_was_landed_is_not_downloaded_again(task: Task, provider: MemoryProvider) -> None:
    waiting(task.run(1))
    provider.end("batch-1")
    waiting(task.run(1))
    provider.calls.clear()
    assert waiting(task.run(2)).batch_ids == ("batch-2", "batch-3")
    assert provider.calls == ["retrieve_batch", "retrieve_batch"]


def test_a_source_that_breaks_is_read_anew_by_the_retry(task: Task) -> None:
    task.rows_error = BatchInputError("Row 4 is broken.")
    with pytest.raises(BatchInputError):
        task.run(1).advance()
    task.rows_error = None
    assert waiting(task.run(2)).batch_ids == ("batch-1", "batch-2", "batch-3")


def test_a_creation_that_killed_its_process_is_found_even_if_its_file_is_gone(
    task: Task, provider: MemoryProvider
) -> None:
    run = task.run(1, max_rows_per_batch=5)
    provider.die_after_creation = True
    with pytest.raises(SystemExit):
        run.advance()
    provider.die_after_creation = False
    provider.files.clear()
    assert waiting(task.run(2, max_rows_per_batch=5)).batch_ids == ("batch-1",)
    assert len(provider.batches) == 1


def test_where_lists_lag_a_creation_that_killed_its_process_is_found_when_they_have_caught_up(
    task: Task, provider: MemoryProvider
) -> None:
    provider.lag = 100
    provider.die_after_creation = True
    with pytest.raises(SystemExit):
        task.run(1).advance()
    provider.die_after_creation = False
    assert waiting(task.run(2)).batch_ids == ("batch-1", "batch-2", "batch-3")
    assert (len(provider.batches), task.clock.slept) == (3, [120.0])


def test_a_batch_that_is_not_shown_yet_is_waited_for(task: Task, provider: MemoryProvider) -> None:
    waiting(task.run(1))
    provider.lag = 100
    found = waiting(task.run(1))
    assert (found.batch_ids, found.deadline) == (("batch-1", "batch-2", "batch-3"), task.clock.now + 120)
    assert len(provider.batches) == 3


def test_an_outage_while_batches_are_under_way_is_waited_out(task: Task, provider: MemoryProvider) -> None:
    provider.refuse = [None, UnavailableError("It is down.", reached=False)]
    found = waiting(task.run(1))
    assert (found.batch_ids, found.any_end) == (("batch-1",), True)
    assert found.resubmit_at == task.clock.now + 60
    assert waiting(task.run(1)).batch_ids == ("batch-1", "batch-2", "batch-3")


def test_a_refused_creation_fails_the_task_only_when_nothing_is_under_way(task: Task, provider: MemoryProvider) -> None:
    refusal = RequestRefusedError("No.", status_code=400)
    provider.refuse = [None, refusal, refusal]
    run = task.run(1)
    assert waiting(run).batch_ids == ("batch-1",)
    provider.end("batch-1")
    with pytest.raises(RequestRefusedError):
        run.advance()
    assert end_all(task.run(2, max_tries=3), provider).manifest.outcomes == {"succeeded": 5}
    assert provider.submitted == [["0", "1"], ["2", "3"], ["4"]]


def test_a_stage_that_is_gone_is_made_again_from_a_source_that_gives_the_same(
    task: Task, provider: MemoryProvider
) -> None:
    waiting(task.run(1))
    provider.end("batch-1")
    waiting(task.run(1))
    shutil.rmtree(task.folder)
    assert waiting(task.run(2)).batch_ids == ("batch-2", "batch-3")
    assert end_all(task.run(2), provider).manifest.outcomes == {"succeeded": 5}
    assert len(provider.submitted) == 3


def test_a_stage_that_is_gone_with_a_source_that_gives_other_rows_says_what_can_no_longer_be_had(
    task: Task, provider: MemoryProvider
) -> None:
    waiting(task.run(1))
    shutil.rmtree(task.folder)
    task.texts = ["x", "y"]
    with pytest.raises(StageGoneError, match="the answers of 3 batches, which were paid for, cannot be joined"):
        task.run(2).advance()
    assert len(provider.submitted) == 3


def test_a_batch_that_is_gone_fails_a_retry_and_is_submitted_again_after_a_clear(
    task: Task, provider: MemoryProvider
) -> None:
    waiting(task.run(1))
    task.clock.now += 600
    del provider.batches["batch-2"]
    with pytest.raises(NotFoundError, match="batch-2 is gone at the provider"):
        task.run(2).advance()
    waiting(task.run(3, max_tries=4))
    assert provider.submitted[3:] == [["2", "3"]]


def test_without_a_record_the_batches_of_an_earlier_try_are_found_by_their_keys(
    task: Task, provider: MemoryProvider
) -> None:
    waiting(task.run(1))
    task.store = MemoryStore()
    assert waiting(task.run(2)).batch_ids == ("batch-1", "batch-2", "batch-3")
    assert (len(provider.submitted), task.clock.slept, provider.calls.count("list_batches")) == (3, [120.0], 1)
    assert end_all(task.run(2), provider).manifest.outcomes == {"succeeded": 5}


def test_a_published_set_serves_a_retry_that_has_no_record_of_it(task: Task, provider: MemoryProvider) -> None:
    manifest = end_all(task.run(1), provider).manifest
    task.store = MemoryStore()
    assert published(task.run(2)).manifest == manifest
    assert len(provider.submitted) == 3


def test_a_retry_without_a_record_pays_for_nothing_even_if_a_clear_would(task: Task, provider: MemoryProvider) -> None:
    manifest = end_all(task.run(1, on_clear="restart"), provider).manifest
    task.store = MemoryStore()
    assert published(task.run(2, on_clear="restart")).manifest == manifest
    assert len(provider.submitted) == 3


def test_the_records_may_lie_beside_the_stage(task: Task, provider: MemoryProvider) -> None:
    store = FolderStore(Folder(task.folder / "ledger"))
    task.store = store
    waiting(task.run(1))
    task.store = FolderStore(Folder(task.folder / "ledger"))
    assert end_all(task.run(2), provider).manifest.outcomes == {"succeeded": 5}
    assert (len(provider.submitted), store.get("landed-00009-1")) == (3, None)


def test_parameters_that_changed_between_two_tries_begin_anew(task: Task, provider: MemoryProvider) -> None:
    waiting(task.run(1))
    found = waiting(task.run(2, parameters="q"))
    assert found.batch_ids == ("batch-4", "batch-5", "batch-6")
    assert [batch.status for batch in provider.batches.values()] == ["cancelling"] * 3 + ["in_progress"] * 3


def test_rows_that_changed_between_two_tries_are_not_looked_at(task: Task) -> None:
    first = waiting(task.run(1))
    task.texts = ["x"]
    assert waiting(task.run(2)) == first


def test_a_try_that_was_taken_for_dead_while_it_read_the_source_changes_nothing_for_its_successor(
    task: Task, provider: MemoryProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = task.run(1)
    rows = iter(run.source.rows())

    def slow() -> Iterator[Row]:
        yield next(rows)
        task.texts = ["v", "w", "x"]
        waiting(task.run(2))
        monkeypatch.setattr(task.store, "set", _refused)  # by Airflow, as it refuses those of superseded attempts
        yield from rows

    with pytest.raises(LLMBatchError):
        replace(run, source=replace(run.source, rows=slow)).advance()
    monkeypatch.undo()
    task.texts = ["y"]
    assert end_all(task.run(2), provider).manifest.outcomes == {"succeeded": 3}
    assert list(task.outcomes()) == ["v", "w", "x"]


def _refused(*_: object) -> None:
    raise RuntimeError("404")


def test_a_retry_of_a_published_run_returns_its_set(task: Task, provider: MemoryProvider) -> None:
    manifest = end_all(task.run(1), provider).manifest
    provider.calls.clear()
    assert published(task.run(2)).manifest == manifest
    assert provider.calls == []


@pytest.mark.parametrize("cleanup", ["none", "inputs", "all"])
def test_after_success_the_provider_keeps_what_it_was_told_to(
    task: Task, provider: MemoryProvider, cleanup: str
) -> None:
    end_all(task.run(1, cleanup=cleanup), provider)
    inputs = {name for name, _ in provider.files.values() if name.startswith("llmb-")}
    results = {name for name, _ in provider.files.values() if not name.startswith("llmb-")}
    assert (len(inputs), len(results)) == {"none": (3, 3), "inputs": (0, 3), "all": (0, 0)}[cleanup]


@pytest.mark.parametrize("keep_stage", [False, True])
def test_after_success_the_stage_stays_only_if_wanted(
    task: Task, provider: MemoryProvider, *, keep_stage: bool
) -> None:
    run = task.run(1, keep_stage=keep_stage)
    end_all(run, provider)
    assert bool(list((task.folder / "_llmbatch").rglob("stage.json"))) == keep_stage


def test_what_is_under_way_is_known_from_the_ledger_alone(task: Task, provider: MemoryProvider) -> None:
    run = task.run(1, max_parallel_batches=2)
    assert begun_batches(run) == []
    waiting(run)
    provider.end("batch-1")
    waiting(run)
    provider.calls.clear()
    assert (begun_batches(task.run(1)), provider.calls) == (["batch-2", "batch-3"], [])


def test_a_process_that_dies_between_the_manifest_and_its_record_leaves_one_set(
    task: Task, provider: MemoryProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = task.run(1)
    keep = task.store.set

    def dying(key: str, value: JsonValue) -> None:
        if isinstance(value, dict) and value.get("state") == "published":
            raise SystemExit
        keep(key, value)

    monkeypatch.setattr(task.store, "set", dying)
    with pytest.raises(SystemExit):
        end_all(run, provider)
    first = task.results()
    monkeypatch.undo()
    assert published(task.run(2)).manifest.outcomes == {"succeeded": 5}
    assert (task.results(), len(list((task.folder / "data").iterdir()))) == (first, 1)
