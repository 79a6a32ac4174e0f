"""Batch prediction jobs as batches: every state, counts as texts, what a job says of its end; and what creates one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from google.cloud.aiplatform_v1 import BatchPredictionJob, JobState

from airflow_provider_llmbatch.adapters.vertex.adapter import VertexAdapter
from airflow_provider_llmbatch.adapters.vertex.jobs import batch_of, creation_of, has_ended
from airflow_provider_llmbatch.core.submit import KEY_NAME, check_metadata
from airflow_provider_llmbatch.errors import BatchInputError
from airflow_provider_llmbatch.models import Batch, BatchError, RequestCounts

if TYPE_CHECKING:
    from pydantic import JsonValue

    from airflow_provider_llmbatch.models import BatchStatus

NAME = "projects/123456789012/locations/us-central1/batchPredictionJobs/77"
PREFIX = "gs://bucket/nightly/batches/abc/"
DIRECTORY = f"{PREFIX}prediction-model-2026-11-24T01:02:03.000000Z"
CREATED, STARTED, ENDED, UPDATED = 1_700_000_000, 1_700_000_100, 1_700_000_200, 1_700_000_300
STATES: dict[str, BatchStatus] = {
    "JOB_STATE_UNSPECIFIED": "unknown",
    "JOB_STATE_QUEUED": "validating",
    "JOB_STATE_PENDING": "validating",
    "JOB_STATE_RUNNING": "in_progress",
    "JOB_STATE_UPDATING": "in_progress",
    "JOB_STATE_CANCELLING": "cancelling",
    "JOB_STATE_SUCCEEDED": "completed",
    "JOB_STATE_PARTIALLY_SUCCEEDED": "completed",
    "JOB_STATE_FAILED": "failed",
    "JOB_STATE_CANCELLED": "cancelled",
    "JOB_STATE_EXPIRED": "expired",
    "JOB_STATE_PAUSED": "cancelled",
}


def job(state: str = "JOB_STATE_SUCCEEDED", **more: JsonValue) -> dict[str, JsonValue]:
    """As the service shows a job that ran."""
    return {
        "name": NAME,
        "displayName": "llmbatch reviews.jsonl",
        "model": "publishers/google/models/gemini-2.5-flash",
        "inputConfig": {"instancesFormat": "jsonl", "gcsSource": {"uris": ["gs://bucket/in.jsonl"]}},
        "outputConfig": {"predictionsFormat": "jsonl", "gcsDestination": {"outputUriPrefix": PREFIX}},
        "outputInfo": {"gcsOutputDirectory": DIRECTORY},
        "state": state,
        "completionStats": {"successfulCount": "7", "failedCount": "2", "incompleteCount": "1"},
        "createTime": "2023-11-14T22:13:20.123456Z",
        "startTime": "2023-11-14T22:15:00.999999999Z",
        "endTime": "2023-11-14T22:16:40+00:00",
        "updateTime": "2023-11-14T22:18:20Z",
        "labels": {"team": "search", KEY_NAME: "llmb-a2", "llmbatch_requests": "10"},
        **more,
    }


def without(state: str, *fields: str) -> dict[str, JsonValue]:
    return {name: value for name, value in job(state).items() if name not in fields}


def test_everything_that_a_job_says_is_kept() -> None:
    assert batch_of(job()) == Batch(
        id=NAME,
        status="completed",
        endpoint="/v1/chat/completions",
        input_file_id="gs://bucket/in.jsonl",
        completion_window="24h",
        model="gemini-2.5-flash",
        output_file_id=f"{DIRECTORY}/",
        created_at=CREATED,
        in_progress_at=STARTED,
        completed_at=ENDED,
        request_counts=RequestCounts(total=10, completed=7, failed=2),
        metadata={"team": "search", KEY_NAME: "llmb-a2"},
        provider="vertex",
        provider_status="JOB_STATE_SUCCEEDED",
    )


def test_every_state_of_the_api_has_one_of_ours_and_keeps_its_own_word() -> None:
    assert {state.name for state in JobState} == set(STATES)
    batches = {word: batch_of(job(word)) for word in STATES}
    assert {word: batch.status for word, batch in batches.items()} == STATES
    assert {word: batch.provider_status for word, batch in batches.items()} == {word: word for word in STATES}


def test_only_a_paused_job_counts_as_ended_and_is_not() -> None:
    batches = [batch_of(job(word)) for word in STATES]
    assert [b.provider_status for b in batches if b.is_terminal and not has_ended(b)] == ["JOB_STATE_PAUSED"]


@pytest.mark.parametrize("state", [None, "", 17, "JOB_STATE_HIBERNATING"])
def test_a_state_that_is_new_or_lacks_is_no_end(state: JsonValue) -> None:
    batch = batch_of(job() | {"state": state})
    assert (batch.status, batch.is_terminal, batch.provider_status) == ("unknown", False, str(state) if state else None)


@pytest.mark.parametrize(
    ("stats", "requests", "counts"),
    [
        ({"successfulCount": "7", "failedCount": "2", "incompleteCount": "1"}, None, (10, 7, 2)),
        ({"successfulCount": "7"}, None, (7, 7, 0)),
        ({"successfulCount": "7", "incompleteCount": "-1"}, None, (7, 7, 0)),
        ({"successfulCount": "7", "incompleteCount": "-1"}, "10", (10, 7, 0)),
        ({"successfulCount": "7", "incompleteCount": "4"}, "10", (11, 7, 0)),
        ({"successfulCount": 7, "failedCount": 2}, None, (9, 7, 2)),
        ({}, "10", (10, 0, 0)),
        (None, "10", (10, 0, 0)),
        (None, None, (0, 0, 0)),
        ("odd", "odd", (0, 0, 0)),
    ],
)
def test_counts_are_texts_that_may_lack_or_be_unknown(
    stats: JsonValue, requests: str | None, counts: tuple[int, int, int]
) -> None:
    labels: dict[str, JsonValue] = {} if requests is None else {"llmbatch_requests": requests}
    found = batch_of(job(completionStats=stats, labels=labels)).request_counts
    assert (found.total, found.completed, found.failed) == counts


@pytest.mark.parametrize(
    ("state", "field"),
    [
        ("JOB_STATE_SUCCEEDED", "completed_at"),
        ("JOB_STATE_PARTIALLY_SUCCEEDED", "completed_at"),
        ("JOB_STATE_FAILED", "failed_at"),
        ("JOB_STATE_CANCELLED", "cancelled_at"),
        ("JOB_STATE_EXPIRED", "expired_at"),
        ("JOB_STATE_PAUSED", "cancelled_at"),
    ],
)
def test_the_end_has_its_time_in_the_field_of_its_status(state: str, field: str) -> None:
    ends = ("completed_at", "failed_at", "cancelled_at", "expired_at")
    found = batch_of(job(state)).model_dump()
    assert {name: found[name] for name in ends} == {name: ENDED if name == field else None for name in ends}
    assert batch_of(without(state, "endTime")).model_dump()[field] == UPDATED


def test_a_job_that_is_being_cancelled_says_since_when() -> None:
    batch = batch_of(without("JOB_STATE_CANCELLING", "endTime"))
    assert (batch.cancelling_at, batch.cancelled_at, batch.output_file_id) == (UPDATED, None, None)


@pytest.mark.parametrize("state", ["JOB_STATE_QUEUED", "JOB_STATE_RUNNING", "JOB_STATE_UNSPECIFIED", "new"])
def test_there_are_no_results_before_the_end(state: str) -> None:
    assert batch_of(job(state)).output_file_id is None


@pytest.mark.parametrize("state", ["JOB_STATE_FAILED", "JOB_STATE_CANCELLED", "JOB_STATE_EXPIRED"])
def test_a_job_that_ended_badly_has_what_it_wrote_anywhere_below_where_it_was_to_write(state: str) -> None:
    assert batch_of(job(state)).output_file_id == PREFIX
    assert batch_of(without(state, "outputInfo")).output_file_id == PREFIX
    assert batch_of(without(state, "outputInfo", "startTime")).output_file_id == PREFIX
    assert batch_of(without(state, "outputConfig")).output_file_id == f"{DIRECTORY}/"
    assert batch_of(without(state, "outputInfo", "startTime", "completionStats")).output_file_id is None


def test_a_job_that_succeeded_without_saying_where_wrote_where_it_was_to_write() -> None:
    assert batch_of(without("JOB_STATE_SUCCEEDED", "outputInfo")).output_file_id == PREFIX


def errors_of(state: str, **more: JsonValue) -> list[tuple[str | None, str | None]]:
    found = batch_of(job(state, **more)).errors
    return [(error.code, error.message) for error in found.data] if found else []


def test_the_error_of_a_job_and_its_partial_failures_are_told_in_googles_words() -> None:
    partial: JsonValue = [{"code": 13, "message": "3 rows"}, {"message": "no code"}, {}, "odd", {"code": 99}]
    assert errors_of("JOB_STATE_FAILED", error={"code": 7, "message": "No rights."}, partialFailures=partial) == [
        ("PERMISSION_DENIED", "No rights."),
        ("INTERNAL", "3 rows"),
        (None, "no code"),
        ("99", None),
    ]
    assert errors_of("JOB_STATE_SUCCEEDED", error=None) == []


def test_a_paused_job_says_why_it_counts_as_ended() -> None:
    errors = batch_of(job("JOB_STATE_PAUSED", error={"code": 8, "message": "Quota."})).errors
    assert errors is not None
    assert [error.code for error in errors.data] == ["JOB_STATE_PAUSED", "RESOURCE_EXHAUSTED"]
    assert "nothing resumes it by itself" in (errors.data[0].message or "")
    assert errors.data[1] == BatchError(code="RESOURCE_EXHAUSTED", message="Quota.")


@pytest.mark.parametrize(
    ("model", "short"),
    [
        ("publishers/google/models/gemini-2.5-flash", "gemini-2.5-flash"),
        ("projects/p/locations/l/publishers/google/models/gemini-2.5-flash", "gemini-2.5-flash"),
        ("publishers/anthropic/models/claude-x", "publishers/anthropic/models/claude-x"),
        ("projects/p/locations/l/models/42", "projects/p/locations/l/models/42"),
        (None, None),
    ],
)
def test_googles_own_models_have_short_names(model: JsonValue, short: str | None) -> None:
    assert batch_of(job(model=model)).model == short


@pytest.mark.parametrize(
    "config",
    [
        {"instancesFormat": "bigquery", "bigquerySource": {"inputUri": "bq://p.d.t"}},
        {"gcsSource": {"uris": ["gs://b/1", "gs://b/2"]}},
        {"gcsSource": {"uris": []}},
        None,
    ],
)
def test_jobs_of_others_have_no_input_of_ours_and_break_nothing(config: JsonValue) -> None:
    foreign = job(inputConfig=config, outputConfig={"bigqueryDestination": {}}, outputInfo=None, labels=None)
    batch = batch_of(foreign)
    assert (batch.id, batch.input_file_id, batch.output_file_id, batch.metadata) == (NAME, None, None, None)


@pytest.mark.parametrize("name", [None, "", 7])
def test_what_has_no_name_is_no_job(name: JsonValue) -> None:
    with pytest.raises(ValueError, match="it has no name"):
        batch_of(job() | {"name": name})


def creation(model: str = "gemini-2.5-flash", display_name: str = "llmbatch in.jsonl") -> dict[str, JsonValue]:
    return creation_of(
        model=model,
        input_uri="gs://bucket/in.jsonl",
        output_prefix=PREFIX,
        display_name=display_name,
        metadata={"team": "search", KEY_NAME: "llmb-a2"},
        requests=10,
    )


def test_a_creation_is_what_the_api_describes_and_becomes_the_batch_that_was_asked_for() -> None:
    body = creation()
    BatchPredictionJob.from_json(json.dumps(body), ignore_unknown_fields=False)
    assert body == {
        "displayName": "llmbatch in.jsonl",
        "model": "publishers/google/models/gemini-2.5-flash",
        "inputConfig": {"instancesFormat": "jsonl", "gcsSource": {"uris": ["gs://bucket/in.jsonl"]}},
        "outputConfig": {"predictionsFormat": "jsonl", "gcsDestination": {"outputUriPrefix": PREFIX}},
        "labels": {"team": "search", KEY_NAME: "llmb-a2", "llmbatch_requests": "10"},
    }
    batch = batch_of({"name": NAME, **body})
    assert (batch.input_file_id, batch.model) == ("gs://bucket/in.jsonl", "gemini-2.5-flash")
    assert (batch.request_counts.total, batch.metadata) == (10, {"team": "search", KEY_NAME: "llmb-a2"})


def test_a_long_name_is_cut_to_what_the_api_takes() -> None:
    assert creation(display_name="x" * 200)["displayName"] == "x" * 128


def test_a_model_that_cannot_be_one_is_refused() -> None:
    with pytest.raises(BatchInputError, match="is no model of Vertex AI"):
        creation(model="no model")


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        ({f"name{i}": "" for i in range(63)}, "it has 63 pairs; 62 are free, since the package needs 2 of the 64"),
        ({KEY_NAME: "mine"}, "belongs to the package"),
        ({"llmbatch_requests": "1"}, "does not begin with llmbatch_"),
        ({"Team": "search"}, "'Team' cannot be the name of a label"),
        ({"1st": "x"}, "begins with a lower-case letter"),
        ({"équipe": "x"}, "cannot be the name of a label"),
        ({"team": "Search"}, "the value of 'team' cannot be that of a label"),
        ({"date": "2026/11/24"}, "the value of 'date' cannot be that of a label"),
        ({"n" * 64: "v"}, "is too long: a name has at most 63 characters"),
        ({"n": "v" * 64}, "is too long"),
        ({"n": 1}, "is int, not a text"),
    ],
)
def test_metadata_that_cannot_be_labels_are_refused_and_not_mangled(metadata: dict[str, object], problem: str) -> None:
    with pytest.raises(BatchInputError, match=problem) as refused:
        check_metadata(metadata, VertexAdapter.limits)
    assert "Nothing was created or billed" in str(refused.value)


def test_metadata_that_are_labels_pass() -> None:
    check_metadata({"team": "search", "run_id": "2026-11-24", "empty": "", "a" * 63: "b" * 63}, VertexAdapter.limits)
    check_metadata({f"name{i}": "" for i in range(62)}, VertexAdapter.limits)
