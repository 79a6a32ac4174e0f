"""What a person's clear means: the source is read again and compared, and only what changed is paid for anew."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.runs import end_all, published, waiting

from airflow_provider_llmbatch.core.ledger import MemoryStore
from airflow_provider_llmbatch.errors import BatchInputError

if TYPE_CHECKING:
    from pydantic import JsonValue
    from support.memory_provider import MemoryProvider
    from support.runs import Task


def statuses(provider: MemoryProvider) -> list[str]:
    return [batch.status for batch in provider.batches.values()]


def test_clearing_an_unchanged_task_after_success_costs_nothing_and_keeps_the_set(
    task: Task, provider: MemoryProvider
) -> None:
    manifest = end_all(task.run(1), provider).manifest
    assert published(task.run(2, max_tries=3)).manifest == manifest
    assert (len(provider.submitted), task.times_read) == (3, 2)


def test_clearing_an_unchanged_task_halfway_goes_on_with_what_was_paid_for(
    task: Task, provider: MemoryProvider
) -> None:
    waiting(task.run(1))
    provider.end("batch-1")
    waiting(task.run(1))
    assert waiting(task.run(2, max_tries=3)).batch_ids == ("batch-2", "batch-3")
    assert end_all(task.run(2, max_tries=3), provider).manifest.outcomes == {"succeeded": 5}
    assert len(provider.submitted) == 3


@pytest.mark.parametrize("has_ended", [False, True])
def test_rows_that_come_in_another_order_as_from_a_query_without_one_are_the_same_input(
    task: Task, provider: MemoryProvider, *, has_ended: bool
) -> None:
    waiting(task.run(1))
    if has_ended:
        end_all(task.run(1), provider)
    task.texts.reverse()
    end = end_all(task.run(2, max_tries=3), provider)
    assert (end.manifest.outcomes, len(provider.submitted)) == ({"succeeded": 5}, 3)
    assert [row["key"] for row in task.results()] == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize("texts", ["abcdf", "abcd", "abcdee"])
def test_other_rows_are_another_input_however_alike(task: Task, provider: MemoryProvider, texts: str) -> None:
    waiting(task.run(1))
    task.texts = list(texts)
    assert end_all(task.run(2, max_tries=3), provider).manifest.rows == len(texts)
    assert sum(map(len, provider.submitted)) == 5 + len(texts)


def test_on_clear_restart_pays_for_new_answers(task: Task, provider: MemoryProvider) -> None:
    first = end_all(task.run(1), provider).manifest
    again = task.run(2, max_tries=3, on_clear="restart")
    assert waiting(again).batch_ids == ("batch-4", "batch-5", "batch-6")
    second = end_all(task.run(3, max_tries=3, on_clear="restart"), provider).manifest
    assert (second.previous, len(provider.submitted)) == (first.publish_id, 6)


def test_on_clear_restart_cancels_what_is_under_way(task: Task, provider: MemoryProvider) -> None:
    waiting(task.run(1))
    provider.end("batch-1")
    waiting(task.run(2, max_tries=3, on_clear="restart"))
    assert statuses(provider) == ["completed", "cancelling", "cancelling", *["in_progress"] * 3]


@pytest.mark.parametrize("changed", ["rows", "parameters", "model"])
def test_a_clear_after_a_change_begins_anew_and_cancels_what_was_under_way(
    task: Task, provider: MemoryProvider, changed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    waiting(task.run(1))
    more = {"rows": {}, "parameters": {"parameters": "q"}, "model": {"model": "m2"}}[changed]
    if changed == "rows":
        task.texts = ["v", "w"]
    found = waiting(task.run(2, max_tries=3, **more))
    assert statuses(provider)[:3] == ["cancelling"] * 3
    assert found.batch_ids[0] == "batch-4"
    assert f"The {changed} of this run changed since its last try" in capsys.readouterr().out
    assert end_all(task.run(3, max_tries=3, **more), provider).manifest.rows == len(task.texts)


def test_a_creation_in_doubt_of_the_old_input_is_looked_for_and_cancelled(task: Task, provider: MemoryProvider) -> None:
    run = task.run(1, max_rows_per_batch=5)
    provider.die_after_creation = True
    with pytest.raises(SystemExit):
        run.advance()
    provider.die_after_creation = False
    waiting(task.run(2, max_tries=3, max_rows_per_batch=5, parameters="q"))
    assert statuses(provider) == ["cancelling", "in_progress"]


def test_on_changed_input_fail_touches_nothing_and_an_undone_change_goes_on(
    task: Task, provider: MemoryProvider
) -> None:
    first = waiting(task.run(1))
    texts, task.texts = task.texts, ["v"]
    with pytest.raises(BatchInputError, match="The rows and parameters of this run changed"):
        task.run(2, max_tries=3, parameters="q", on_changed_input="fail").advance()
    assert statuses(provider) == ["in_progress"] * 3
    task.texts = texts
    assert waiting(task.run(3, max_tries=4, on_changed_input="fail")).batch_ids == first.batch_ids


def test_a_change_after_success_publishes_a_new_set_and_keeps_the_old_one_until_then(
    task: Task, provider: MemoryProvider
) -> None:
    first = end_all(task.run(1), provider).manifest
    task.texts = ["v"]
    waiting(task.run(2, max_tries=3))
    assert len(task.results()) == 5
    second = end_all(task.run(2, max_tries=3), provider).manifest
    assert (task.outcomes(), second.previous) == ({"v": "succeeded"}, first.publish_id)


def test_a_clear_without_a_record_is_served_by_the_published_set(task: Task, provider: MemoryProvider) -> None:
    manifest = end_all(task.run(1), provider).manifest
    task.store = MemoryStore()
    assert published(task.run(2, max_tries=3)).manifest == manifest
    task.store = MemoryStore()
    waiting(task.run(3, max_tries=4, parameters="q"))
    assert len(provider.submitted) == 6


def test_a_clear_of_a_try_without_a_record_still_asks_the_provider_for_what_was_not_looked_for_yet(
    task: Task, provider: MemoryProvider
) -> None:
    waiting(task.run(1))
    task.store = MemoryStore()
    waiting(task.run(2, max_parallel_batches=1))
    assert len(waiting(task.run(3, max_tries=3)).batch_ids) == 3
    assert len(provider.submitted) == 3


def test_a_changed_input_cancels_what_was_given_up_at_its_deadline_as_well(
    task: Task, provider: MemoryProvider
) -> None:
    run = task.run(1, deadline=3600.0, cancel_on_deadline=False, max_rows_per_batch=5)
    task.clock.now = waiting(run).deadline
    published(run)
    waiting(task.run(2, max_tries=3, max_rows_per_batch=5, parameters="q"))
    assert statuses(provider) == ["cancelling", "in_progress"]


def test_a_clear_whose_set_was_deleted_publishes_it_again_at_no_cost(task: Task, provider: MemoryProvider) -> None:
    end_all(task.run(1), provider)
    (task.folder / "manifest.json").unlink()
    end = published(task.run(2, max_tries=3))
    assert (end.manifest.outcomes, len(provider.submitted)) == ({"succeeded": 5}, 3)


def test_rows_that_a_person_cancelled_are_submitted_again_in_the_same_try(task: Task, provider: MemoryProvider) -> None:
    run = task.run(1, max_rows_per_batch=5)
    waiting(run)
    provider.cancel_batch("batch-1")
    assert waiting(run).batch_ids == ("batch-1",)
    provider.end("batch-1", lambda i: "succeeded" if i < "3" else "batch_cancelled", status="cancelled")
    waiting(run)
    assert provider.submitted[1:] == [["3", "4"]]


def test_what_a_kill_cancelled_is_landed_by_the_try_after_a_clear_and_only_the_rest_is_paid(
    task: Task, provider: MemoryProvider
) -> None:
    run = task.run(1, max_rows_per_batch=5)
    waiting(run)
    provider.cancel_batch("batch-1")
    provider.end("batch-1", lambda i: "succeeded" if i < "3" else "batch_cancelled", status="cancelled")
    end = end_all(task.run(2, max_tries=3, max_rows_per_batch=5), provider)
    assert (end.manifest.outcomes, provider.submitted[1:]) == ({"succeeded": 5}, [["3", "4"]])


def test_spent_attempts_stay_spent_after_a_clear(task: Task, provider: MemoryProvider) -> None:
    run = task.run(1, max_rows_per_batch=5, max_attempts=2, on_failed_rows="fail")
    for batch_id in ("batch-1", "batch-2"):
        waiting(run)
        provider.end(batch_id, lambda _: "server_error")
    assert "5 of 5 rows have no good answer" in str(published(run).error)
    cleared = task.run(2, max_tries=3, max_rows_per_batch=5, max_attempts=2, on_failed_rows="fail")
    assert published(cleared).manifest.outcomes == {"failed": 5}
    assert len(provider.submitted) == 2


@pytest.mark.parametrize("parameters", ["p", "q"])
def test_what_a_process_was_writing_when_it_died_is_not_left_behind_by_a_clear(
    task: Task, provider: MemoryProvider, monkeypatch: pytest.MonkeyPatch, parameters: str
) -> None:
    def dies(*_: object, **__: object) -> None:
        (task.folder / "data" / task.run().index.read().publish_id).mkdir(parents=True)  # type: ignore[union-attr]
        raise SystemExit

    monkeypatch.setattr("airflow_provider_llmbatch.core.run.ending.publish", dies)
    with pytest.raises(SystemExit):
        end_all(task.run(1), provider)
    monkeypatch.undo()
    end_all(task.run(2, max_tries=3, parameters=parameters), provider)
    assert len(list((task.folder / "data").iterdir())) == 1


def test_a_clear_finds_the_set_of_a_process_that_died_before_it_could_say_so(
    task: Task, provider: MemoryProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = task.store.set

    def dying(key: str, value: JsonValue) -> None:
        if isinstance(value, dict) and value.get("state") == "published":
            raise SystemExit
        keep(key, value)

    monkeypatch.setattr(task.store, "set", dying)
    with pytest.raises(SystemExit):
        end_all(task.run(1), provider)
    monkeypatch.undo()
    first = task.results()
    assert published(task.run(2, max_tries=3)).error is None
    assert (task.results(), len(list((task.folder / "data").iterdir()))) == (first, 1)
