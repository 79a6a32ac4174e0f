"""The models take what servers send, and a field that they cannot use is one that was left out."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from airflow_provider_llmbatch.models import (
    TERMINAL_STATUSES,
    Batch,
    BatchStatus,
    File,
    RequestCounts,
)


def short(value: object) -> str:
    return repr(value)[:40]


def batch(**fields: object) -> dict[str, object]:
    """What a batch keeps of some fields, without those that are as if they had been left out."""
    kept = Batch.model_validate({"id": "batch_1", "status": "in_progress", **fields}).model_dump(exclude_defaults=True)
    assert (kept.pop("id"), kept.pop("status")) == ("batch_1", "in_progress")
    return kept


def test_the_statuses_are_openais_and_one_for_what_nobody_knows() -> None:
    assert set(get_args(BatchStatus)) - TERMINAL_STATUSES == {
        "validating",
        "in_progress",
        "finalizing",
        "cancelling",
        "unknown",
    }
    assert {"completed", "failed", "expired", "cancelled"} == TERMINAL_STATUSES


def test_a_batch_needs_an_id_and_a_status_that_is_known_and_nothing_else() -> None:
    assert batch() == {}
    for lacking in ({"id": "b"}, {"status": "failed"}, {"id": None, "status": "failed"}, {"id": "b", "status": "new"}):
        with pytest.raises(ValidationError):
            Batch.model_validate(lacking)


@pytest.mark.parametrize(
    ("sent", "seconds"),
    [
        (1_700_000_000, 1_700_000_000),
        (1_700_000_000.9, 1_700_000_000),
        ("1700000000", 1_700_000_000),
        ("2023-11-14T22:13:20Z", 1_700_000_000),
        ("2023-11-14T23:13:20.5+01:00", 1_700_000_000),
        ("2023-11-14T22:13:20", 1_700_000_000),
        ("2023-11-14 22:13:20", 1_700_000_000),
        (253_402_300_799, 253_402_300_799),
        *[
            (nothing, None)
            for nothing in [
                None,
                0,
                "",
                "0",
                -1,
                True,
                "soon",
                "nan",
                float("nan"),
                float("inf"),
                1_700_000_000_000,
                10**400,
                "0001-01-01T00:00:00",
                [],
                {"seconds": 1},
            ]
        ],
    ],
    ids=short,
)
def test_times_are_whole_seconds_in_utc_wherever_the_machine_stands(
    sent: object, seconds: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        assert Batch.model_validate({"id": "b", "status": "failed", "created_at": sent}).created_at == seconds
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("sent", "count"),
    [(7, 7), ("7", 7), (7.0, 7), (7.9, 7), (2**63 - 1, 2**63 - 1)]
    + [(nothing, 0) for nothing in (None, -1, "", "many", True, float("nan"), float("inf"), 2**63, 10**400, [], {})],
    ids=short,
)
def test_a_count_that_cannot_be_one_is_none_yet(sent: object, count: int) -> None:
    assert RequestCounts.model_validate({"total": sent}) == RequestCounts(total=count)
    assert File.model_validate({"id": "f", "bytes": sent}).bytes == count


def test_done_are_those_that_were_answered_and_those_that_failed() -> None:
    assert RequestCounts(total=9, completed=3, failed=2).done == 5


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (
            {"data": [{"code": "c", "message": "m", "param": "p", "line": 3}]},
            ({"code": "c", "message": "m", "param": "p", "line": 3},),
        ),
        ({"data": [{"code": 400, "line": "3"}]}, ({"code": "400", "line": 3},)),
        ({"data": [{"code": ["c"], "message": "m", "line": "three"}]}, ({"message": "m"},)),
        ([{"message": "m"}], ({"message": "m"},)),
        ({"message": "m"}, ({"message": "m"},)),
        ("m", ({"message": "m"},)),
        ({"data": "m"}, ({"message": "m"},)),
        ({"data": ["m", None, 7, {"code": "c"}]}, ({"message": "m"}, {"code": "c"})),
    ],
    ids=short,
)
def test_the_reasons_of_a_refusal_are_found_in_any_shape(sent: object, kept: object) -> None:
    assert batch(errors=sent) == {"errors": {"data": kept}}


@pytest.mark.parametrize(
    "sent", [{"data": None}, {"data": []}, {}, [], "", 7, {"object": "errors", "data": []}], ids=repr
)
def test_errors_that_say_nothing_are_an_empty_list(sent: object) -> None:
    assert batch(errors=sent) == {"errors": {}}


@pytest.mark.parametrize(
    ("field", "sent"),
    [
        ("errors", None),
        ("request_counts", None),
        ("request_counts", []),
        ("request_counts", {"total": None}),
        ("usage", None),
        ("usage", "none"),
        ("model", ["m"]),
        ("endpoint", {}),
        ("object", "batch_job"),
        ("completed_at", "later"),
        ("output_file_id", None),
        ("a_field_of_next_year", {"x": 1}),
    ],
)
def test_a_field_that_cannot_be_used_is_as_if_it_had_been_left_out(field: str, sent: object) -> None:
    assert batch(**{field: sent}) == {}


def test_usage_keeps_what_can_be_read_of_it() -> None:
    usage = {"input_tokens": 5, "input_tokens_details": [], "output_tokens": None, "total_tokens": "7"}
    assert batch(usage=usage) == {"usage": {"input_tokens": 5, "total_tokens": 7}}


@pytest.mark.parametrize(
    ("ids", "has"),
    [({}, False), ({"output_file_id": "f"}, True), ({"error_file_id": "f"}, True), ({"output_file_id": ""}, False)],
)
def test_results_are_there_if_either_file_is(ids: dict[str, str], has: bool) -> None:
    assert Batch.model_validate({"id": "b", "status": "completed", **ids}).has_results is has


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=5,
)
FILE_IDS = {"input_file_id", "output_file_id", "error_file_id"}  # a wrong one must not count as no file
BY_THE_ADAPTER = {"metadata", "provider", "provider_status"}
OTHER_FIELDS = sorted(set(Batch.model_fields) - {"id", "status"} - FILE_IDS - BY_THE_ADAPTER)


@given(st.dictionaries(st.sampled_from(OTHER_FIELDS), json_values))
def test_whatever_stands_in_the_other_fields_a_batch_can_be_waited_for(fields: dict[str, object]) -> None:
    read = Batch.model_validate({"id": "batch_1", "status": "in_progress", **fields})
    assert Batch.model_validate_json(read.model_dump_json()) == read
