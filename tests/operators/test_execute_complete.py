"""A deferred task goes on after its trigger fired: what each event means, once the batch itself was read again."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred
from support.fault_proxy import Answer, FaultProxy
from support.task import context_of

from airflow_provider_llmbatch.hooks.batch import LLMBatchHook
from airflow_provider_llmbatch.operators.batch import LLMBatchCreateBatchOperator
from airflow_provider_llmbatch.triggers.batch import BatchEvent

if TYPE_CHECKING:
    from support.gated_server import GatedServer

BODY = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}
LINE = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": BODY}
REQUESTS = json.dumps(LINE).encode() + b"\n"
DEADLINE = 1_700_000_000.0  # 2023-11-14 22:13 UTC


@pytest.fixture
def running(proxy: FaultProxy) -> str:
    del proxy
    hook = LLMBatchHook()
    batch_id = hook.create_batch(hook.create_file(REQUESTS).id).id
    for _ in range(200):
        if hook.retrieve_batch(batch_id).status == "in_progress":
            return batch_id
        time.sleep(0.01)
    raise AssertionError("the batch did not begin")


def go_on(status: Any, batch_id: str, *, error: str | None = None, **settings: Any) -> tuple[str, dict[str, Any]]:
    task = LLMBatchCreateBatchOperator(task_id="create_batch", input_file_id="file-1", **settings)
    context, instance = context_of(task)
    event = BatchEvent(status=status, batch_id=batch_id, deadline=DEADLINE, error=error)
    try:
        return task.execute_complete(context, event), instance.xcoms
    except AirflowFailException as failure:
        return str(failure), instance.xcoms


def ended_as(proxy: FaultProxy, status: str, **more: object) -> None:
    counts = {"total": 10, "completed": 7, "failed": 0}
    batch = {"id": "batch_1", "status": status, "created_at": 1_700_000_000, "request_counts": counts, **more}
    proxy.rule("GET", "/batches/batch_1$", Answer(200, json.dumps(batch).encode()), times=None)


def test_a_completed_batch_returns_its_id_and_pushes_its_files(server: GatedServer, running: str) -> None:
    server.let_pass(1)
    while not (batch := LLMBatchHook().retrieve_batch(running)).is_terminal:
        time.sleep(0.01)
    assert go_on("ended", running) == (running, {"output_file_id": batch.output_file_id, "error_file_id": None})


def test_an_expired_batch_fails_and_says_what_can_be_downloaded(proxy: FaultProxy) -> None:
    ended_as(proxy, "expired", expired_at=1_700_086_400, output_file_id="file-out", error_file_id="file-err")
    assert go_on("ended", "batch_1") == (
        (
            "BatchExpiredError: batch_1 expired after 24 h with 7 of 10 requests answered. Those are billed and can be "
            "downloaded: LLMBatchDownloadResultsOperator(batch_id='batch_1'), also in a task with "
            'trigger_rule="all_done". A retry would resubmit nothing; clearing this task makes a new batch of all its '
            "requests."
        ),
        {"output_file_id": "file-out", "error_file_id": "file-err"},
    )


def test_a_cancelled_batch_without_results_fails_and_says_so(proxy: FaultProxy) -> None:
    ended_as(proxy, "cancelled", cancelled_at=1_700_000_030)
    assert go_on("ended", "batch_1") == (
        (
            "BatchCancelledError: batch_1 was cancelled after 30 s with 7 of 10 requests answered. There are no "
            "results to download. A retry would resubmit nothing; clearing this task makes a new batch of all its "
            "requests."
        ),
        {"output_file_id": None, "error_file_id": None},
    )


def test_a_failed_batch_fails_with_each_reason(proxy: FaultProxy) -> None:
    errors = [
        {"code": "invalid_json_line", "line": 3, "message": "This line is not parseable as valid JSON."},
        {"code": "token_limit_exceeded", "message": "Enqueued token limit reached."},
    ]
    ended_as(proxy, "failed", errors={"data": errors})
    message, xcoms = go_on("ended", "batch_1")
    assert (
        "refused batch_1 before running it: line 3: invalid_json_line: This line is not parseable as valid JSON; "
        "token_limit_exceeded: Enqueued token limit reached. Nothing was billed." in message
    )
    assert message.startswith("BatchFailedError: ")
    assert xcoms == {"output_file_id": None, "error_file_id": None}


@pytest.mark.parametrize(
    ("cancels", "fate"),
    [
        (
            True,
            (
                "It was cancelled; what was answered by then is billed, and can be downloaded when the provider has "
                "ended it"
            ),
        ),
        (False, "It was left running, and is billed as it goes on"),
    ],
)
def test_out_of_time_cancels_the_batch_only_if_asked_to(
    cancels: bool, fate: str, proxy: FaultProxy, running: str
) -> None:
    message, _ = go_on("out_of_time", running, cancel_on_deadline=cancels)
    assert message.startswith(f"DeadlineExceededError: {running} was still ")
    assert message.endswith(
        f" at the deadline of 2023-11-14 22:13 UTC, with 0 of 1 requests answered. {fate} "
        f"(LLMBatchDownloadResultsOperator(batch_id='{running}')). A retry would resubmit nothing."
    )
    assert len(proxy.calls("POST", "/cancel$")) == int(cancels)
    assert (LLMBatchHook().retrieve_batch(running).status == "in_progress") is not cancels


def test_a_batch_that_completed_just_after_its_deadline_counts(proxy: FaultProxy) -> None:
    ended_as(proxy, "completed", output_file_id="file-out")
    assert go_on("out_of_time", "batch_1") == ("batch_1", {"output_file_id": "file-out", "error_file_id": None})
    assert proxy.calls("POST", "/cancel$") == []


def test_given_up_fails_with_the_triggers_reason_and_cancels_nothing(proxy: FaultProxy, running: str) -> None:
    message, _ = go_on("given_up", running, error="The key was refused.")
    assert message == (
        f"LLMBatchError: The key was refused. {running} was not cancelled, and goes on if it had not ended. Clear this "
        "task when that is mended: it then waits for the same batch, and nothing is paid again."
    )
    assert proxy.calls("POST", "/cancel$") == []


def test_a_batch_that_has_not_ended_after_all_is_waited_for_until_the_same_deadline(running: str) -> None:
    with pytest.raises(TaskDeferred) as deferred:
        go_on("ended", running, min_poll_interval=1, max_poll_interval=2, cancel_on_kill=False)
    assert deferred.value.method_name == "execute_complete"
    assert deferred.value.trigger.serialize()[1] == {
        "llmbatch_conn_id": "llmbatch_default",
        "batch_id": running,
        "deadline": DEADLINE,
        "min_poll_interval": 1,
        "max_poll_interval": 2,
        "cancel_on_kill": False,
    }
