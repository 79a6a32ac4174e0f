"""What a run tells beside its log: each batch once, when it is landed, and each row once, when its set is published."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from support.heard import Heard
from support.runs import published, waiting

from airflow_provider_llmbatch.errors import UnavailableError

if TYPE_CHECKING:
    from support.memory_provider import Clock, MemoryProvider
    from support.runs import Task

TAGS = {"provider": "memory", "model": "m"}


def counts_of(heard: Heard) -> list[tuple[object, ...]]:
    """What was counted, but for uploads, since the last call."""
    counted = [told for told in heard.told if len(told) == 3 and told[2] == TAGS and "." in told[0]]
    heard.told.clear()
    return [told[:2] for told in counted if not told[0].startswith("upload") and not told[0].endswith("duration")]


def test_batches_are_counted_when_they_are_landed_and_rows_once_when_the_set_is_published(
    task: Task, provider: MemoryProvider, clock: Clock
) -> None:
    heard = Heard()
    run = replace(task.run(max_rows_per_batch=5, max_attempts=2), telemetry=heard)
    waiting(run)
    assert ("batches.created", 1, {"provider": "memory", "model": None}) in heard.told
    assert counts_of(heard) == []
    clock.now += 60
    provider.end("batch-1", lambda custom_id: "server_error" if custom_id in "13" else "succeeded", status="expired")
    waiting(run)
    assert counts_of(heard) == [("batches.expired", 1), ("tokens.input", 9), ("tokens.output", 6)]
    provider.end("batch-2", lambda custom_id: "server_error" if custom_id == "3" else "succeeded")
    published(run)
    assert counts_of(heard) == [
        ("batches.completed", 1),
        ("tokens.input", 3),
        ("tokens.output", 2),
        ("rows.succeeded", 4),
        ("rows.failed", 1),
    ]
    published(run)
    assert counts_of(heard) == []


def test_the_span_of_a_batch_reaches_from_its_creation_to_its_end_whenever_it_is_landed(
    task: Task, provider: MemoryProvider, clock: Clock
) -> None:
    heard = Heard()
    run = replace(task.run(max_rows_per_batch=5), telemetry=heard)
    waiting(run)
    begin = int(clock.now)
    clock.now += 60
    provider.end("batch-1")
    clock.now += 3600
    published(run)
    [(_, began_at, ended_at, attributes)] = [told for told in heard.told if told[0] == "batch"]
    assert (began_at, ended_at) == (begin, begin + 60)
    assert attributes == {
        **TAGS,
        "status": "completed",
        "endpoint": "/v1/chat/completions",
        "batch_id": "batch-1",
        "key": provider.batches["batch-1"].metadata["llmbatch_key"],  # type: ignore[index] # it has some
        "part": 0,
        "attempt": 1,
        "rows.succeeded": 5,
        "input_tokens": 15,
        "cached_input_tokens": 0,
        "output_tokens": 10,
        "reasoning_output_tokens": 0,
    }
    assert ("batch.duration", 60.0, TAGS) in heard.told
    assert ("run.duration", 3660.0, {"provider": "memory"}) in heard.told


def test_a_submission_that_fails_leaves_its_part_unended_for_the_listener(task: Task, provider: MemoryProvider) -> None:
    heard = Heard()
    provider.refuse = [UnavailableError("down")]
    with pytest.raises(UnavailableError):
        replace(task.run(), telemetry=heard).advance()
    begun = [told[0] for told in heard.told if told[1] == "begins"]
    ended = [told[0] for told in heard.told if told[1] == "ends"]
    assert (begun, ended) == (["stage", "part", "upload", "create_batch"], ["stage", "upload"])
