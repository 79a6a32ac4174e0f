"""Creating a batch and waiting for it: deferred, on the worker, or not at all; and every way in which it ends."""

from __future__ import annotations

import io
import json
import time
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred
from support.fault_proxy import Answer, FaultProxy
from support.task import TaskInstance, context_of

from airflow_provider_llmbatch.errors import LLMBatchError, UnavailableError
from airflow_provider_llmbatch.hooks.batch import LLMBatchHook
from airflow_provider_llmbatch.operators.batch import LLMBatchCreateBatchOperator
from airflow_provider_llmbatch.triggers.batch import LLMBatchTrigger

if TYPE_CHECKING:
    from support.gated_server import GatedServer

BODY = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}
LINE = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": BODY}
REQUESTS = json.dumps(LINE).encode() + b"\n"


@pytest.fixture
def file_id(proxy: FaultProxy) -> str:
    del proxy
    return LLMBatchHook().create_file(REQUESTS).id


def operator(file_id: str, **more: Any) -> LLMBatchCreateBatchOperator:
    return LLMBatchCreateBatchOperator(
        task_id="create_batch", input_file_id=file_id, **{"min_poll_interval": 0.02, "max_poll_interval": 0.05, **more}
    )


def instance_of() -> TaskInstance:
    return TaskInstance(task_id="create_batch", run_id=str(uuid.uuid4()))


def run(task: LLMBatchCreateBatchOperator) -> tuple[str, dict[str, Any]]:
    context, instance = context_of(task, instance_of())
    return task.execute(context), instance.xcoms


def test_a_deferred_wait_holds_ids_a_deadline_and_intervals_and_no_secret(server: GatedServer, file_id: str) -> None:
    task = operator(file_id, deferrable=True, deadline=timedelta(hours=2))
    context, instance = context_of(task, instance_of())
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(context)
    [batch] = LLMBatchHook().list_batches()
    trigger = deferred.value.trigger
    assert isinstance(trigger, LLMBatchTrigger)
    name, kwargs = trigger.serialize()
    assert (name, json.loads(json.dumps(kwargs)), deferred.value.method_name) == (
        "airflow_provider_llmbatch.triggers.batch.LLMBatchTrigger",
        {
            "llmbatch_conn_id": "llmbatch_default",
            "batch_id": batch.id,
            "deadline": (batch.created_at or 0) + 7200.0,
            "min_poll_interval": 0.02,
            "max_poll_interval": 0.05,
            "cancel_on_kill": True,
        },
        "execute_complete",
    )
    assert server.api_key not in repr(deferred.value)
    assert instance.xcoms["batch_id"] == batch.id


@pytest.mark.parametrize("default", [True, False])
def test_whether_it_defers_is_airflows_default(default: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE", str(default))
    assert operator("file-1").deferrable is default
    assert operator("file-1", deferrable=not default).deferrable is not default


def test_without_waiting_it_ends_as_soon_as_the_batch_is_there(file_id: str) -> None:
    batch_id, xcoms = run(operator(file_id, wait=False))
    assert LLMBatchHook().retrieve_batch(batch_id).is_terminal is False
    assert xcoms["batch_id"] == batch_id
    assert "output_file_id" not in xcoms


def test_on_the_worker_it_waits_to_the_end(server: GatedServer, file_id: str) -> None:
    server.let_pass(1)
    batch_id, xcoms = run(operator(file_id, deferrable=False))
    batch = LLMBatchHook().retrieve_batch(batch_id)
    assert (batch.status, batch.error_file_id) == ("completed", None)
    assert {name: xcoms[name] for name in ("batch_id", "output_file_id", "error_file_id")} == {
        "batch_id": batch_id,
        "output_file_id": batch.output_file_id,
        "error_file_id": None,
    }


def test_a_retry_waits_for_the_same_batch(proxy: FaultProxy, server: GatedServer, file_id: str) -> None:
    task = operator(file_id, wait=False)
    context, instance = context_of(task, instance_of())
    batch_id = task.execute(context)
    server.let_pass(1)
    instance.try_number = 2
    task.wait, task.deferrable = True, False
    assert task.execute(context) == batch_id
    assert len(proxy.calls("POST", "/batches$")) == 1


def test_a_batch_that_the_provider_refuses_fails_with_code_line_and_message(proxy: FaultProxy) -> None:
    del proxy
    file = LLMBatchHook().adapter.create_file(io.BytesIO(REQUESTS + b"no json\n" + REQUESTS), filename="bad.jsonl")
    task = operator(file.id, deferrable=False)
    context, instance = context_of(task, instance_of())
    with pytest.raises(AirflowFailException) as failed:
        task.execute(context)
    batch_id = instance.xcoms["batch_id"]
    assert str(failed.value) == (
        f"BatchFailedError: {LLMBatchHook().adapter.title} refused {batch_id} before running it: line 2: "
        "invalid_json_line: This line is not parseable as valid JSON; line 3: duplicate_custom_id: The custom_id 'a' "
        "for this request is a duplicate of another request [custom_id]. Nothing was billed. A retry would be refused "
        "again: mend the input, and clear the tasks from the one that makes it on."
    )
    assert (instance.xcoms["output_file_id"], instance.xcoms["error_file_id"]) == (None, None)


def test_on_the_worker_the_deadline_cancels_the_batch(proxy: FaultProxy, file_id: str) -> None:
    task = operator(file_id, deferrable=False, deadline=timedelta(seconds=1))
    context, instance = context_of(task, instance_of())
    with pytest.raises(AirflowFailException, match=r"^DeadlineExceededError: .* It was cancelled"):
        task.execute(context)
    assert len(proxy.calls("POST", "/cancel$")) == 1
    assert LLMBatchHook().retrieve_batch(instance.xcoms["batch_id"]).status in ("cancelling", "cancelled")


@pytest.mark.parametrize(
    ("field", "problem"),
    [
        ({"input_file_id": ""}, "BatchInputError: The input_file_id is empty. Nothing was created or billed."),
        (
            {"metadata": {f"name-{n}": "x" for n in range(16)}},
            (
                "BatchInputError: The metadata cannot be sent: it has 16 pairs; 15 are free, since the package needs "
                "one of the 16 that the provider allows. Nothing was created or billed."
            ),
        ),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_sent(
    field: dict[str, Any], problem: str, proxy: FaultProxy
) -> None:
    with pytest.raises(AirflowFailException) as refused:
        run(operator(**{"file_id": field.pop("input_file_id", "file-1"), **field}))
    assert str(refused.value) == problem
    assert proxy.requests == []


def test_fifteen_pairs_of_metadata_reach_the_provider(file_id: str) -> None:
    metadata = {f"name-{n}": "x" for n in range(15)}
    batch_id, _ = run(operator(file_id, wait=False, metadata=metadata))
    found = LLMBatchHook().retrieve_batch(batch_id).metadata or {}
    assert {name: value for name, value in found.items() if name != "llmbatch_key"} == metadata
    assert len(found) == 16


def test_its_templated_fields_are_rendered() -> None:
    task = operator(
        "{{ file }}", endpoint="/v1/{{ verb }}", metadata={"run": "{{ ds }}"}, llmbatch_conn_id="{{ conn }}"
    )
    values = {"file": "file-9", "verb": "embeddings", "ds": "2026-11-24", "conn": "nightly"}
    task.render_template_fields(values)  # type: ignore[arg-type]
    assert (task.input_file_id, task.endpoint, task.metadata, task.llmbatch_conn_id) == (
        "file-9",
        "/v1/embeddings",
        {"run": "2026-11-24"},
        "nightly",
    )


def test_only_what_may_succeed_without_a_change_is_retried(proxy: FaultProxy, file_id: str) -> None:
    proxy.rule("POST", "/batches$", Answer(429, b'{"error": {"code": "insufficient_quota", "message": "Pay."}}'))
    with pytest.raises(AirflowFailException, match=r"^QuotaExceededError: "):
        run(operator(file_id))
    proxy.rule("POST", "/batches$", Answer(429, headers={"Retry-After": "3600"}))
    with pytest.raises(UnavailableError) as retriable:
        run(operator(file_id))
    assert isinstance(retriable.value, LLMBatchError)
    assert not isinstance(retriable.value, AirflowFailException)
    assert list(LLMBatchHook().list_batches()) == []


def test_the_deadline_counts_from_the_creation_and_a_retry_does_not_move_it(file_id: str) -> None:
    task = operator(file_id, deferrable=True)
    context, instance = context_of(task, instance_of())
    deadlines = []
    for try_number in (1, 2):
        instance.try_number = try_number
        with pytest.raises(TaskDeferred) as deferred:
            task.execute(context)
        deadlines.append(deferred.value.trigger.deadline)  # type: ignore[attr-defined]
        time.sleep(0.01)
    created_at = LLMBatchHook().retrieve_batch(instance.xcoms["batch_id"]).created_at or 0
    assert deadlines == [created_at + 25 * 3600.0] * 2
