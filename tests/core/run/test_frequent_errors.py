"""Why rows lack a good answer: counted while the set is written, each code with the place of an example."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from support.runs import published, waiting

from airflow_provider_llmbatch.core.run.frequent_errors import OTHER, FrequentErrors
from airflow_provider_llmbatch.core.run.manifest import ErrorEntry

if TYPE_CHECKING:
    from support.memory_provider import MemoryProvider
    from support.runs import Task


def tail(outcome: str, code: str | None, message: str | None = None) -> bytes:
    error = json.dumps({"code": code, "message": message})
    return f'"outcome":"{outcome}","text":"\\"error\\":{{}}","parsed":null,"error":{error},"usage":null}}'.encode()


def test_a_set_tells_its_errors_with_lines_where_they_stand(task: Task, provider: MemoryProvider) -> None:
    run = task.run(max_attempts=1)
    waiting(run)
    ends = {"0": "succeeded", "1": "content_filter", "2": "bad", "3": "content_filter", "4": "missing"}
    for batch_id in ("batch-1", "batch-2", "batch-3"):
        provider.end(batch_id, ends.__getitem__)
    end = published(run)
    first, second, third = (part.uri for part in end.manifest.parts)
    assert end.manifest.errors == (
        ErrorEntry(outcome="failed", code="content_filter", count=2, uri=first, line=2),
        ErrorEntry(outcome="failed", code="bad", count=1, uri=second, line=1),
        ErrorEntry(outcome="missing", code="missing", count=1, uri=third, line=1),
    )
    for error in end.manifest.errors:
        row = json.loads((task.folder / error.uri).read_text().splitlines()[error.line - 1])
        assert (row["outcome"], row["error"]["code"]) == (error.outcome, error.code)
        assert end.examples[error.outcome, error.code] == row["error"]["message"]
    assert published(task.run(2)).manifest == end.manifest  # a later process knows all but the messages
    assert published(task.run(2)).examples == {}


def test_a_set_without_errors_has_none(task: Task, provider: MemoryProvider) -> None:
    run = task.run(max_rows_per_batch=5)
    waiting(run)
    provider.end("batch-1")
    assert published(run).manifest.errors == ()


def test_the_ten_most_frequent_ones_are_kept_by_count_then_name() -> None:
    errors = FrequentErrors()
    for number in range(12):
        for _ in range(1 + number // 2):
            errors.add(tail("failed", f"code-{number:02}", "m"), "data/p/part-00000.jsonl", number + 1)
    assert [(entry.code, entry.count) for entry in errors.entries()] == [
        ("code-10", 6),
        ("code-11", 6),
        ("code-08", 5),
        ("code-09", 5),
        ("code-06", 4),
        ("code-07", 4),
        ("code-04", 3),
        ("code-05", 3),
        ("code-02", 2),
        ("code-03", 2),
    ]


def test_a_code_that_differs_on_every_row_costs_no_memory_and_no_long_line() -> None:
    errors = FrequentErrors()
    for number in range(2_000):
        errors.add(tail("failed", f"{number:04}{'x' * 100}", "m" * 5_000), "data/p/part-00000.jsonl", number + 1)
    most = errors.entries()[0]
    assert (most.code, most.count, most.line) == (OTHER, 1_000, 1_001)
    assert {len(entry.code) for entry in errors.entries()[1:]} == {60}
    assert {len(message) for message in errors.messages().values()} == {2_000}


def test_an_error_without_a_code_has_its_outcomes_name() -> None:
    errors = FrequentErrors()
    errors.add(tail("failed", None, "a bare text"), "u", 1)
    errors.add(b'"outcome":"expired","text":null,"parsed":null,"error":null}', "u", 2)
    assert [(entry.outcome, entry.code) for entry in errors.entries()] == [("expired", "expired"), ("failed", "failed")]
