"""What ``docs/failures.md`` says is shown by tests: each row about kills names one, and each error has its row."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from airflow_provider_llmbatch import errors

TESTS = Path(__file__).parents[1]
TEXT = (TESTS.parent / "docs" / "failures.md").read_text()
KILLS = TESTS / "real_airflow" / "test_kills.py"
ABOUT_SOMETHING_ELSE = {"test_each_mapped_task_links_to_its_own_batch_while_it_is_deferred"}


def names_of_tests(path: Path) -> set[str]:
    names = (node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef))
    return {name for name in names if name.startswith("test_")}


def rows(title: str) -> list[list[str]]:
    """The cells of the first table below a title, its head left out."""
    [table] = re.findall(rf"^##+ {title}$.*?(^\|.*?)^$", TEXT, re.MULTILINE | re.DOTALL)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_every_row_about_killing_and_waiting_names_a_test_that_there_is() -> None:
    every_test = {name for path in TESTS.rglob("test_*.py") for name in names_of_tests(path)}
    named = [row[-1].strip("`") for row in rows("Killing the task") + rows("While it waits in the triggerer")]
    assert [name for name in named if name not in every_test] == []
    assert len(named) > 20


def test_every_kill_that_is_tested_in_a_real_airflow_has_a_row() -> None:
    named = {row[-1].strip("`") for row in rows("Killing the task")}
    assert names_of_tests(KILLS) - named == ABOUT_SOMETHING_ELSE


RAISED = [
    each for each in vars(errors).values() if isinstance(each, type) and each is not errors.BatchNotCompletedError
]


@pytest.mark.parametrize("error", RAISED, ids=lambda error: error.__name__)
def test_every_error_has_a_row_which_says_whether_it_is_retried(error: type[errors.LLMBatchError]) -> None:
    [row] = [line for line in TEXT.splitlines() if line.startswith(f"| `{error.__name__}` |")]
    assert row.split("|")[4].strip() == ("yes" if error.retriable else "no")
