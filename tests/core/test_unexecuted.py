"""Requests that never ran, at a provider that names them nowhere and checks its own downloads, as Vertex AI does."""

from __future__ import annotations

import pytest
from core.test_results import INPUT, NO_LINE, OUTPUT, Files, batch_of, good, merged, request

from airflow_provider_llmbatch.errors import NotFoundError


class FilesOfVertex(Files):
    names_unexecuted = False
    verifies_downloads = True


@pytest.mark.parametrize(
    ("status", "outcome", "code"),
    [
        ("completed", "missing", "missing"),
        ("failed", "missing", "missing"),
        ("expired", "expired", "batch_expired"),
        ("cancelled", "cancelled", "batch_cancelled"),
    ],
)
def test_where_nobody_names_what_never_ran_the_end_of_the_batch_says_what_became_of_it(
    status: str, outcome: str, code: str
) -> None:
    files = FilesOfVertex({INPUT: request("a") + request("b"), OUTPUT: good("a")})
    batch = batch_of(2, error_file_id=None, status=status)
    results, warned = merged(files, batch)
    [never_ran] = [result for result in results if result["custom_id"] == "b"]
    error = never_ran["error"]
    assert isinstance(error, dict)
    assert (never_ran["outcome"], error["code"]) == (outcome, code)
    assert warned == [f"1 requests have no result of batch_1 that can be read: their outcome is {outcome}"]


def test_the_counts_of_a_batch_that_ended_early_are_not_believed_where_nobody_names_what_never_ran() -> None:
    files = FilesOfVertex({INPUT: request("a") + request("b"), OUTPUT: good("a")})
    results, _ = merged(files, batch_of(1, error_file_id=None, status="cancelled"))
    assert {result["custom_id"] for result in results} == {"a", "b"}
    files = FilesOfVertex({INPUT: request("a") + request("b"), OUTPUT: good("a")})
    merged(files, batch_of(1, error_file_id=None))
    assert files.read == [OUTPUT]


def test_a_download_that_was_checked_already_is_not_checked_again() -> None:
    files = FilesOfVertex({INPUT: request("a"), OUTPUT: b"no line at all"}, {OUTPUT: 99})
    results, _ = merged(files, batch_of(1, error_file_id=None))
    assert [result["outcome"] for result in results] == ["missing"]


@pytest.mark.parametrize("status", ["cancelled", "expired", "failed"])
def test_a_result_file_that_is_gone_does_not_say_that_nothing_ran(status: str) -> None:
    files = FilesOfVertex({INPUT: request("a") + request("b"), OUTPUT: NotFoundError("No predictions.")})
    results, warned = merged(files, batch_of(2, error_file_id=None, status=status))
    assert [(row["custom_id"], row["outcome"], row["error"]) for row in results] == [
        ("a", "missing", NO_LINE),
        ("b", "missing", NO_LINE),
    ]
    assert warned == [
        (
            f"No predictions. batch_1 ended as {status} after it had begun: what it had answered by then is billed, "
            "and cannot be told from what it never began"
        ),
        "2 requests have no result of batch_1 that can be read: their outcome is missing",
    ]


@pytest.mark.parametrize(("files", "status"), [(Files, "cancelled"), (FilesOfVertex, "completed")])
def test_a_result_file_that_is_gone_is_an_error_where_it_must_be_there(files: type[Files], status: str) -> None:
    with pytest.raises(NotFoundError):
        merged(files({OUTPUT: NotFoundError("gone")}), batch_of(2, error_file_id=None, status=status))
