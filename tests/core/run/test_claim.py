"""One output, one task of a DAG's run: mapped tasks that share one would replace each other's paid sets."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from support.runs import SLOT, Task, end_all, published, waiting

from airflow_provider_llmbatch.core.ledger import MemoryStore
from airflow_provider_llmbatch.errors import BatchInputError, ResultSetError

if TYPE_CHECKING:
    from pathlib import Path

    from support.memory_provider import MemoryProvider

    from airflow_provider_llmbatch.core.run.run import Run


def mapped(task: Task, index: int, **more: str) -> Run:
    """A task beside the first one, with a record of its own, and the same output."""
    return replace(task.run(1), slot=replace(SLOT, map_index=index, **more), store=MemoryStore())


@pytest.mark.parametrize("first_has_ended", [False, True])
def test_a_second_task_of_the_same_dag_run_is_refused_before_anything_is_uploaded(
    task: Task, provider: MemoryProvider, *, first_has_ended: bool
) -> None:
    first = mapped(task, 0)
    waiting(first)
    if first_has_ended:
        end_all(first, provider)
    with pytest.raises(BatchInputError, match=r"is that of task\[0\] of the same DAG run already"):
        mapped(task, 1).advance()
    assert len(provider.submitted) == 3


def test_of_two_that_began_in_the_same_moment_one_publishes_and_the_other_loses_nothing(
    task: Task, provider: MemoryProvider, tmp_path: Path
) -> None:
    first, second = mapped(task, 0), mapped(task, 1)
    waiting(first)
    [claim] = (task.folder / "_llmbatch").glob("*.json")
    claim.unlink()  # as the second one saw it when it looked
    waiting(second)
    manifest = end_all(second, provider).manifest
    with pytest.raises(ResultSetError, match=r"that of task\[1\] of the same DAG run as well"):
        end_all(first, provider)
    assert published(second).manifest == manifest
    elsewhere = replace(task, folder=tmp_path / "own").run(2, max_tries=3)
    cleared = replace(elsewhere, slot=first.slot, store=first.store)
    assert published(cleared).manifest.outcomes == {"succeeded": 5}
    assert len(provider.submitted) == 6


@pytest.mark.parametrize("other", [{"run_id": "tomorrow"}, {"dag_id": "another"}])
def test_another_run_may_replace_the_set(task: Task, provider: MemoryProvider, other: dict[str, str]) -> None:
    first = end_all(mapped(task, 0), provider).manifest
    second = end_all(mapped(task, 1, **other), provider).manifest
    assert second.previous == first.publish_id


def test_half_a_claim_holds_nobody_up_and_none_stays_after_success(task: Task, provider: MemoryProvider) -> None:
    first = mapped(task, 0)
    waiting(first)
    [claim] = (task.folder / "_llmbatch").glob("*.json")
    claim.write_text('{"task_')
    end_all(first, provider)
    assert list((task.folder / "_llmbatch").glob("*.json")) == []
