from __future__ import annotations

import pytest

from airflow_provider_llmbatch.core.run.retriable import is_retriable
from airflow_provider_llmbatch.models import ResultError


@pytest.mark.parametrize(
    ("code", "status", "retriable"),
    [
        ("rate_limit_exceeded", 429, True),
        ("server_error", None, True),
        ("server_error", 400, True),
        ("RESOURCE_EXHAUSTED", None, True),
        ("UNAVAILABLE", None, True),
        ("INTERNAL", None, True),
        ("InternalServerError", 500, True),
        ("timeout", 408, True),
        ("no_response", None, True),
        ("http_503", 503, True),
        ("http_409", None, True),
        ("429", None, True),
        (None, 500, True),
        ("a word that nobody knows", 502, True),
        ("a word that nobody knows", 400, False),
        ("a word that nobody knows", None, False),
        (None, None, False),
        ("http_400", 400, False),
        ("http_404", None, False),
        ("http_0", 0, False),
        ("no_status", None, False),
        ("404", None, False),
        ("INVALID_ARGUMENT", None, False),
        ("PERMISSION_DENIED", 429, False),
        ("invalid_request_error", 500, False),
        ("content_filter", 500, False),
        ("insufficient_quota", 429, False),
        ("model_not_found", 404, False),
        ("unreadable_result", None, False),
    ],
)
def test_only_what_says_nothing_against_the_request_is_asked_again(
    code: str | None, status: int | None, retriable: bool
) -> None:
    assert is_retriable(ResultError(code, "why"), status) is retriable


def test_a_failure_without_any_reason_goes_by_its_status() -> None:
    assert [is_retriable(None, status) for status in (429, 500, 599, 600, 200, None)] == [True] * 3 + [False] * 3


@pytest.mark.parametrize("code", ["\u00b2", "http_", "", "9" * 5000])
def test_an_odd_code_is_no_number(code: str) -> None:
    assert is_retriable(ResultError(code, None), None) is False
