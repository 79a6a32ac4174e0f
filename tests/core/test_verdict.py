"""What the end of a batch means for its task, word for word: the messages are what people act on."""

from __future__ import annotations

from datetime import timedelta

import pytest

from airflow_provider_llmbatch.core.verdict import error_of_deadline, error_of_end, moment
from airflow_provider_llmbatch.errors import (
    BatchCancelledError,
    BatchExpiredError,
    BatchFailedError,
    DeadlineExceededError,
    LLMBatchError,
)
from airflow_provider_llmbatch.models import Batch, BatchStatus

CREATED = 1_700_000_000
COUNTS = {"total": 1_500, "completed": 1_200, "failed": 7}
DOWNLOAD = (
    "Those are billed and can be downloaded: LLMBatchDownloadResultsOperator(batch_id='batch_1'), also in a task with "
    'trigger_rule="all_done".'
)
AGAIN = "A retry would resubmit nothing; clearing this task makes a new batch of all its requests."
MEND = "A retry would be refused again: mend the input, and clear the tasks from the one that makes it on."


def batch(status: BatchStatus, **fields: object) -> Batch:
    return Batch.model_validate(
        {"id": "batch_1", "status": status, "created_at": CREATED, "request_counts": COUNTS, **fields}
    )


def told(error: LLMBatchError | None) -> tuple[type[LLMBatchError], str]:
    assert error is not None
    assert not error.retriable
    return type(error), str(error)


@pytest.mark.parametrize("status", ["validating", "in_progress", "finalizing", "cancelling", "unknown", "completed"])
def test_no_other_end_is_an_error(status: BatchStatus) -> None:
    assert error_of_end(batch(status), title="OpenAI") is None


@pytest.mark.parametrize(
    ("errors", "reasons"),
    [
        (None, "it gave no reason"),
        ([], "it gave no reason"),
        ([{}], "it gave no reason"),
        ([{"line": 3}], "line 3: no reason given"),
        ([{"code": "empty_file", "message": "The file is empty."}], "empty_file: The file is empty"),
        ([{"message": "No.", "param": "body", "line": 0}], "line 0: No [body]"),
        (
            [{"code": f"c{n}", "line": n} for n in range(1, 8)],
            "line 1: c1; line 2: c2; line 3: c3; line 4: c4; line 5: c5; and 2 more",
        ),
    ],
)
def test_a_refused_batch_fails_with_the_providers_own_reasons(errors: object, reasons: str) -> None:
    refused = batch("failed", errors={"data": errors})
    assert told(error_of_end(refused, title="OpenAI")) == (
        BatchFailedError,
        f"OpenAI refused batch_1 before running it: {reasons}. Nothing was billed. {MEND}",
    )


def test_the_first_reasons_code_is_the_errors_own() -> None:
    error = error_of_end(batch("failed", errors={"data": [{"code": "a"}, {"code": "b"}]}), title="OpenAI")
    assert isinstance(error, BatchFailedError)
    assert (error.code, error.batch_id) == ("a", "batch_1")


def test_a_full_queue_is_no_fault_of_the_input() -> None:
    refused = batch("failed", errors={"data": [{"code": "token_limit_exceeded", "message": "Limit reached."}]})
    assert told(error_of_end(refused, title="OpenAI")) == (
        BatchFailedError,
        (
            "OpenAI refused batch_1 before running it: token_limit_exceeded: Limit reached. Nothing was billed. The "
            "input is good, but too much is queued for this model already: when other batches have ended, clear this "
            "task, which then makes a new batch of the same file."
        ),
    )


def test_a_failed_batch_with_results_was_run_and_is_billed() -> None:
    assert told(error_of_end(batch("failed", output_file_id="file-1"), title="Vertex AI")) == (
        BatchFailedError,
        (
            "Vertex AI gave batch_1 up: it gave no reason. It ended with 1,200 of 1,500 requests answered. "
            f"{DOWNLOAD} {MEND}"
        ),
    )


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        ("INVALID_ARGUMENT", MEND),
        ("INTERNAL", "That is no fault of the input: clear this task, which then makes a new batch of the same file."),
        (
            "PERMISSION_DENIED",
            (
                "A retry would end the same: see that the provider's service agent may read the input and write the "
                "output, that both are in a place that it allows, and that the model is offered there; then clear this "
                "task, which makes a new batch of the same file."
            ),
        ),
    ],
)
def test_googles_codes_tell_what_to_mend(code: str, advice: str) -> None:
    ended = batch("failed", output_file_id="gs://b/out/", errors={"data": [{"code": code, "message": "Sorry."}]})
    assert told(error_of_end(ended, title="Vertex AI")) == (
        BatchFailedError,
        (
            f"Vertex AI gave batch_1 up: {code}: Sorry. It ended with 1,200 of 1,500 requests answered. "
            f"{DOWNLOAD} {advice}"
        ),
    )


@pytest.mark.parametrize("status", ["expired", "cancelled"])
def test_the_providers_reason_for_an_early_end_is_told(status: BatchStatus) -> None:
    early = batch(status, errors={"data": [{"code": "JOB_STATE_PAUSED", "message": "Paused."}]})
    error = error_of_end(early, title="Vertex AI")
    assert "with 1,200 of 1,500 requests answered; the provider's reason: JOB_STATE_PAUSED: Paused. " in str(error)


@pytest.mark.parametrize(
    ("status", "kind", "ended"),
    [("expired", BatchExpiredError, "expired"), ("cancelled", BatchCancelledError, "was cancelled")],
)
@pytest.mark.parametrize(
    ("seconds", "after"),
    [(86_400, "after 24 h "), (3_600, "after 1 h "), (59, "after 59 s "), (0, "after 0 s "), (-5, ""), (None, "")],
)
def test_a_batch_that_ended_early_says_when_and_what_is_left_of_it(
    status: BatchStatus, kind: type[LLMBatchError], ended: str, seconds: int | None, after: str
) -> None:
    moments = {f"{status}_at": None if seconds is None else CREATED + seconds}
    assert told(error_of_end(batch(status, error_file_id="file-2", **moments), title="OpenAI")) == (
        kind,
        f"batch_1 {ended} {after}with 1,200 of 1,500 requests answered. {DOWNLOAD} {AGAIN}",
    )


def test_without_result_files_there_is_nothing_to_download() -> None:
    assert told(error_of_end(batch("expired"), title="OpenAI")) == (
        BatchExpiredError,
        f"batch_1 expired with 1,200 of 1,500 requests answered. There are no results to download. {AGAIN}",
    )


@pytest.mark.parametrize(
    ("cancelled", "fate"),
    [
        (
            True,
            (
                "It was cancelled; what was answered by then is billed, and can be downloaded when the provider "
                "has ended it"
            ),
        ),
        (False, "It was left running, and is billed as it goes on"),
    ],
)
def test_at_the_deadline_it_says_what_became_of_the_batch(cancelled: bool, fate: str) -> None:
    late = batch("unknown", provider_status="scheduling")
    assert told(error_of_deadline(late, CREATED + 90_000, cancelled=cancelled)) == (
        DeadlineExceededError,
        (
            "batch_1 was still scheduling at the deadline of 2023-11-15 23:13 UTC, with 1,200 of 1,500 requests "
            f"answered. {fate} (LLMBatchDownloadResultsOperator(batch_id='batch_1')). A retry would resubmit nothing."
        ),
    )


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.0, "1970-01-01 00:00 UTC"),
        (CREATED + 59.9, "2023-11-14 22:14 UTC"),
        (CREATED + timedelta.max.total_seconds(), "9999-12-31 23:59 UTC"),
    ],
)
def test_moments_are_shown_in_utc_also_those_beyond_the_calendar(seconds: float, shown: str) -> None:
    assert moment(seconds) == shown
