"""Whatever the input, however it is cut and whatever fails: every row has one outcome, and no answer is paid twice."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from support.memory_provider import Clock, MemoryProvider
from support.runs import Task

from airflow_provider_llmbatch.core.run.run import Published

ENDS = ("succeeded", "missing", "server_error", "batch_expired", "batch_cancelled", "content_filter")
FINAL = {"succeeded", "content_filter"}
EXPECTED = {"server_error": "failed", "batch_expired": "expired", "batch_cancelled": "cancelled"}


@st.composite
def runs(draw: st.DrawFn) -> tuple[list[list[str]], dict[str, int], list[int]]:
    """What becomes of each row in each attempt, how the input is cut, and which batch ends next."""
    attempts = draw(st.integers(1, 4))
    row = st.lists(st.sampled_from(ENDS), min_size=attempts, max_size=attempts)
    ends = draw(st.lists(row, min_size=1, max_size=12))
    options = {
        "max_attempts": attempts,
        "max_rows_per_batch": draw(st.integers(1, 5)),
        "max_parallel_batches": draw(st.integers(1, 4)),
    }
    return ends, options, draw(st.lists(st.integers(0, 3), max_size=30))


@settings(max_examples=40)
@given(runs())
def test_outcomes_add_up_to_the_input_and_nothing_answered_is_submitted_again(
    drawn: tuple[list[list[str]], dict[str, int], list[int]],
) -> None:
    ends, options, order = drawn
    clock = Clock()
    provider = MemoryProvider(clock)
    folder = Path(tempfile.mkdtemp())
    try:
        task = Task(folder, provider, clock, texts=[f"row {number}" for number in range(len(ends))])
        asked: Counter[str] = Counter()
        for turn in range(200):
            answer = task.run(turn + 1, **options).advance()  # each in a process of its own
            if isinstance(answer, Published):
                break
            assert len(answer.batch_ids) <= options["max_parallel_batches"]
            batch_id = answer.batch_ids[(order[turn] if turn < len(order) else 0) % len(answer.batch_ids)]
            lines = provider.lines_of(batch_id)
            assert all(ends[int(line)][times] not in FINAL for line in lines for times in range(asked[line]))
            asked.update(lines)
            provider.end(batch_id, lambda line: ends[int(line)][asked[line] - 1])
        assert isinstance(answer, Published)
        assert answer.manifest.outcomes == dict(Counter(map(outcome, ends)))
        assert task.outcomes() == {f"row {number}": outcome(row) for number, row in enumerate(ends)}
        assert asked == {str(number): times_asked(row) for number, row in enumerate(ends)}
    finally:
        shutil.rmtree(folder)


def times_asked(ends: list[str]) -> int:
    return next((number for number, end in enumerate(ends, 1) if end in FINAL), len(ends))


def outcome(ends: list[str]) -> str:
    last = ends[times_asked(ends) - 1]
    return "failed" if last == "content_filter" else EXPECTED.get(last, last)
