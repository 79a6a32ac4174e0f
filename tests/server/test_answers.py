"""What a process finds of its predecessor's answers: every whole line, counted as it was, and nothing of a half one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from airflow_provider_llmbatch.models import RequestCounts, ResultError
from airflow_provider_llmbatch.server.answers import Answers
from airflow_provider_llmbatch.server.engines.base import Answer, refusal

if TYPE_CHECKING:
    from pathlib import Path

_USED = b'{"usage": {"input_tokens": 2, "output_tokens": 3}}'


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Path, Path]:
    """Of the answers that a process kept: one answer, one that has no usable usage, one refused, one never run."""
    output, error = tmp_path / "output", tmp_path / "error"
    answers = Answers(output, error)
    answers.add("good", Answer(200, _USED))
    answers.add("odd", Answer(200, b'{"usage": "some"}'))
    answers.add("bad", refusal(400, "invalid_request", "No."))
    answers.add_unexecuted("open", ResultError("batch_expired", "Too late."))
    answers.close()
    return output, error


def test_lines_are_counted_as_they_were(paths: tuple[Path, Path]) -> None:
    answers = Answers(*paths)
    assert answers.done == {"good", "odd", "bad", "open"}
    assert answers.counts(4) == RequestCounts(total=4, completed=2, failed=1)
    assert answers.usage().total_tokens == 5
    answers.close()


@pytest.mark.parametrize("kept", [1, 60, -1])
def test_a_half_line_is_dropped_and_asked_for_again(paths: tuple[Path, Path], kept: int) -> None:
    output, error = paths
    whole, half = output.read_bytes().splitlines(keepends=True)
    output.write_bytes(whole + half[:kept])
    answers = Answers(output, error)
    assert answers.done == {"good", "bad", "open"}
    answers.add("odd", Answer(200, _USED))
    answers.close()
    lines = [json.loads(line) for line in output.read_bytes().splitlines()]
    assert [line["custom_id"] for line in lines] == ["good", "odd"]
