"""The tree of errors, drawn whole: what a caller catches must not change unseen."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from airflow_provider_llmbatch import errors
from airflow_provider_llmbatch.errors import BatchNotCompletedError, LLMBatchError, UnavailableError

TREE = """\
LLMBatchError(Exception)
  AccessRefusedError
  BatchInputError
  BatchNotCompletedError
    BatchCancelledError
    BatchExpiredError
    BatchFailedError
    DeadlineExceededError
  BudgetExceededError
  ConnectionSettingsError
  EnqueuedTokenLimitError, retriable
  LedgerError, retriable
  LostAnswerError, retriable
  QuotaExceededError
  RequestRefusedError
    NotFoundError
  ResultSetError
  StageGoneError
  StorageError, retriable
  UnansweredRowsError
  UnavailableError, retriable
    BrokenTransferError, retriable
    RateLimitError, retriable
    UnexpectedAnswerError, retriable
"""
FAILURES = Path(__file__).parents[1] / "docs" / "failures.md"


def public_errors() -> list[type[LLMBatchError]]:
    return [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, LLMBatchError)]


def drawn(kind: type[LLMBatchError], depth: int = 0) -> str:
    parent = f"({kind.__base__.__name__})" if depth == 0 and kind.__base__ else ""
    line = f"{'  ' * depth}{kind.__name__}{parent}{', retriable' if kind.retriable else ''}\n"
    below = sorted((child for child in kind.__subclasses__() if child in public_errors()), key=lambda k: k.__name__)
    return line + "".join(drawn(child, depth + 1) for child in below)


def test_the_tree_is_this_one() -> None:
    assert drawn(LLMBatchError) == TREE
    assert len(TREE.splitlines()) == len(public_errors())


def test_the_modules_own_drawing_shows_the_same_errors_under_the_same_parents() -> None:
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"^ *[│├└─ ]*(\w+Error)\b", line):
            depth = (found.start(1) - 4) // 4
            path[depth:] = [found[1]]
            parents[found[1]] = path[depth - 1] if depth else "Exception"
    assert parents == {kind.__name__: kind.__base__.__name__ for kind in public_errors() if kind.__base__}


def test_every_error_that_is_raised_is_explained_with_what_it_costs() -> None:
    explained = dict(
        re.findall(r"^\| `(\w+)` \|[^|]+\|[^|]+\| (yes|no) \|[^|]+\|$", FAILURES.read_text(), re.MULTILINE)
    )
    raised = {kind for kind in public_errors() if kind is not BatchNotCompletedError}
    assert explained == {kind.__name__: "yes" if kind.retriable else "no" for kind in raised}


@pytest.mark.parametrize("kind", public_errors())
def test_every_error_has_a_docstring_and_carries_what_the_provider_said(kind: type[LLMBatchError]) -> None:
    own = {"batch_id": "batch_1"} if issubclass(kind, BatchNotCompletedError) else {"status_code": 418}
    error = kind("What happened.", code="teapot", **own)  # type: ignore[arg-type] # the constructors differ in these
    assert (str(error), error.code) == ("What happened.", "teapot")
    assert vars(error).items() >= own.items()
    assert "Raised" in (kind.__doc__ or "") or kind in (LLMBatchError, BatchNotCompletedError)


def test_an_outage_may_have_reached_the_provider_unless_it_certainly_did_not() -> None:
    error = UnavailableError("down")
    assert (error.reached, error.retry_after, error.status_code, error.request_id) == (True, None, None, None)
