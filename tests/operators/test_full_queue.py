"""More tokens are queued than the account may queue: the operator waits, and submits the same file again."""

from __future__ import annotations

import asyncio
import json
import re
import time
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskDeferred
from support.fault_proxy import Answer, FaultProxy, LoseAnswer
from support.task import HAS_STATE_STORE, TaskInstance, context_of

from airflow_provider_llmbatch.core import backoff
from airflow_provider_llmbatch.errors import EnqueuedTokenLimitError
from airflow_provider_llmbatch.hooks.batch import LLMBatchHook
from airflow_provider_llmbatch.operators.batch import LLMBatchCreateBatchOperator
from airflow_provider_llmbatch.operators.task import slot_of
from airflow_provider_llmbatch.triggers.batch import BatchEvent, LLMBatchTrigger
from airflow_provider_llmbatch.triggers.queue import LLMBatchQueueTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context
    from support.gated_server import GatedServer

    from airflow_provider_llmbatch.triggers.queue import QueueEvent

BODY = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}
LINE = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": BODY}
REQUESTS = json.dumps(LINE).encode() + b"\n"
WORDS = "Enqueued token limit reached for gpt-5-mini in organization org-1. Limit: 2,000,000 enqueued tokens."
FULL = Answer(400, json.dumps({"error": {"code": "token_limit_exceeded", "message": WORDS}}).encode())


needs_state_store = pytest.mark.skipif(not HAS_STATE_STORE, reason="looks into the store that came with Airflow 3.3")


@pytest.fixture
def file_id(proxy: FaultProxy) -> str:
    del proxy
    return LLMBatchHook().create_file(REQUESTS).id


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "_FIRST_PAUSE", 0.01)


def operator(file_id: str, **more: Any) -> LLMBatchCreateBatchOperator:
    settings = {"deferrable": True, "min_poll_interval": 0.02, "max_poll_interval": 0.05, **more}
    return LLMBatchCreateBatchOperator(task_id="create_batch", input_file_id=file_id, **settings)


def context_for(task: LLMBatchCreateBatchOperator) -> tuple[Context, TaskInstance]:
    return context_of(task, TaskInstance(task_id="create_batch", run_id=str(uuid.uuid4())))


def deferred_by(call: Any, *args: Any, **kwargs: Any) -> TaskDeferred:
    with pytest.raises(TaskDeferred) as deferred:
        call(*args, **kwargs)
    return deferred.value


def event_of(deferred: TaskDeferred) -> QueueEvent:
    """What another triggerer's copy of the trigger says, without the wait."""
    _, kwargs = deferred.trigger.serialize()
    trigger = LLMBatchQueueTrigger(**{**json.loads(json.dumps(kwargs)), "until": 0.0})

    async def first() -> QueueEvent:
        async for event in trigger.run():
            payload: QueueEvent = event.payload
            return payload
        raise AssertionError("the trigger did not fire")

    return asyncio.run(first())


def fail_for_queue(proxy: FaultProxy, batch_id: str, *others: dict[str, str]) -> None:
    batch = {
        "id": batch_id,
        "status": "failed",
        "created_at": int(time.time()),
        "errors": {"data": [{"code": "token_limit_exceeded", "message": WORDS}, *others]},
        "metadata": LLMBatchHook().retrieve_batch(batch_id).metadata,
        "input_file_id": LLMBatchHook().retrieve_batch(batch_id).input_file_id,
    }
    proxy.rule("GET", f"/batches/{batch_id}$", Answer(200, json.dumps(batch).encode()), times=None)
    listed = {"object": "list", "data": [batch], "has_more": False}
    proxy.rule("GET", "/batches$", Answer(200, json.dumps(listed).encode()), times=None)


def keys_sent(proxy: FaultProxy) -> list[str]:
    return [json.loads(r.body)["metadata"]["llmbatch_key"] for r in proxy.calls("POST", "/batches$")]


def woken(batch_id: str) -> BatchEvent:
    return BatchEvent(status="ended", batch_id=batch_id, deadline=time.time() + 60, error=None)


def test_a_refused_creation_defers_for_about_a_minute_and_holds_no_secret(
    proxy: FaultProxy, server: GatedServer, file_id: str
) -> None:
    proxy.rule("POST", "/batches$", FULL)
    task = operator(file_id)
    context, _ = context_for(task)
    before = time.time()
    deferred = deferred_by(task.execute, context)
    name, kwargs = deferred.trigger.serialize()
    assert (name, deferred.method_name) == (
        "airflow_provider_llmbatch.triggers.queue.LLMBatchQueueTrigger",
        "resubmit",
    )
    assert kwargs.keys() == {"until", "queued_since", "refusals"}
    assert (kwargs["refusals"], before <= kwargs["queued_since"] <= time.time()) == (1, True)
    assert 45 <= kwargs["until"] - kwargs["queued_since"] <= 75
    assert server.api_key not in repr(deferred)


def test_after_the_pause_the_same_file_makes_the_first_batch(proxy: FaultProxy, file_id: str) -> None:
    proxy.rule("POST", "/batches$", FULL, times=2)
    task = operator(file_id)
    context, instance = context_for(task)
    second = deferred_by(task.resubmit, context, event_of(deferred_by(task.execute, context)))
    assert event_of(second)["refusals"] == 2
    third = deferred_by(task.resubmit, context, event_of(second))
    assert isinstance(third.trigger, LLMBatchTrigger)
    [batch] = LLMBatchHook().list_batches()
    assert (batch.input_file_id, instance.xcoms["batch_id"], third.trigger.batch_id) == (file_id, batch.id, batch.id)
    # No batch came of the refused calls, so none of them took a number.
    assert keys_sent(proxy) == [slot_of(context).key("batch", "1", file_id)] * 3
    assert len(proxy.calls("POST", "/files$")) == 1


def test_a_batch_that_failed_for_the_queue_takes_its_number_and_the_next_one_is_made(
    proxy: FaultProxy, file_id: str
) -> None:
    task = operator(file_id)
    context, instance = context_for(task)
    deferred_by(task.execute, context)
    first = instance.xcoms["batch_id"]
    fail_for_queue(proxy, first)
    paused = deferred_by(task.execute_complete, context, woken(first))
    assert paused.method_name == "resubmit"
    again = deferred_by(task.resubmit, context, event_of(paused))
    assert isinstance(again.trigger, LLMBatchTrigger)
    assert again.trigger.batch_id == instance.xcoms["batch_id"] != first
    assert keys_sent(proxy) == [slot_of(context).key("batch", number, file_id) for number in ("1", "2")]
    assert LLMBatchHook().retrieve_batch(again.trigger.batch_id).input_file_id == file_id
    # Should that one fail for the queue too, the wait goes on from the first refusal.
    fail_for_queue(proxy, again.trigger.batch_id)
    third = deferred_by(task.execute_complete, context, woken(again.trigger.batch_id), **(again.kwargs or {}))
    assert event_of(third) == {**event_of(paused), "refusals": 2}


def test_a_retry_after_the_worker_died_makes_the_next_batch_at_once(proxy: FaultProxy, file_id: str) -> None:
    task = operator(file_id)
    context, instance = context_for(task)
    deferred_by(task.execute, context)
    fail_for_queue(proxy, instance.xcoms["batch_id"])
    instance.try_number = 2
    again = deferred_by(task.execute, context)
    assert isinstance(again.trigger, LLMBatchTrigger)
    assert len(set(keys_sent(proxy))) == len(keys_sent(proxy)) == 2


def test_a_lost_answer_while_the_queue_is_full_is_looked_for_and_not_repeated(proxy: FaultProxy, file_id: str) -> None:
    proxy.rule("POST", "/batches$", FULL)
    proxy.rule("POST", "/batches$", LoseAnswer())
    task = operator(file_id)
    context, _ = context_for(task)
    again = deferred_by(task.resubmit, context, event_of(deferred_by(task.execute, context)))
    [batch] = LLMBatchHook().list_batches()
    assert isinstance(again.trigger, LLMBatchTrigger)
    assert (again.trigger.batch_id, len(proxy.calls("POST", "/batches$"))) == (batch.id, 2)


def test_without_a_store_of_its_own_the_task_finds_what_it_submitted_before_the_pause(
    proxy: FaultProxy, file_id: str
) -> None:
    task = operator(file_id)
    context, instance = context_for(task)
    context.pop("task_state_store", None)  # type: ignore[misc] # as before Airflow 3.3
    deferred_by(task.execute, context)
    first = instance.xcoms["batch_id"]
    fail_for_queue(proxy, first)
    paused = deferred_by(task.execute_complete, context, woken(first))
    again = deferred_by(task.resubmit, context, event_of(paused))
    assert keys_sent(proxy) == [slot_of(context).key("batch", number, file_id) for number in ("1", "2")]
    assert again.kwargs == {"queued": [event_of(paused)["queued_since"], 1]}
    fail_for_queue(proxy, instance.xcoms["batch_id"])
    third = deferred_by(task.execute_complete, context, woken(instance.xcoms["batch_id"]), **(again.kwargs or {}))
    assert event_of(third) == {**event_of(paused), "refusals": 2}
    assert proxy.calls("POST", "/cancel$") == []


def test_on_the_worker_it_waits_tries_again_and_waits_for_the_end(
    proxy: FaultProxy, server: GatedServer, file_id: str, quick: None
) -> None:
    del quick
    proxy.rule("POST", "/batches$", FULL, times=2)
    server.let_pass(1)
    task = operator(file_id, deferrable=False)
    context, instance = context_for(task)
    batch_id = task.execute(context)
    assert LLMBatchHook().retrieve_batch(batch_id).status == "completed"
    assert (instance.xcoms["batch_id"], len(proxy.calls("POST", "/batches$"))) == (batch_id, 3)


@needs_state_store
def test_killed_on_the_worker_it_submits_nothing(proxy: FaultProxy, file_id: str) -> None:
    proxy.rule("POST", "/batches$", FULL, times=None)
    task = operator(file_id, deferrable=False)
    context, _ = context_for(task)
    store = context["task_state_store"]  # type: ignore[typeddict-item]
    write = store.set

    def kill_when_counted(key: str, value: Any, *, retention: object = None) -> None:
        write(key, value, retention=retention)
        if value.get("queue_refusals"):
            task.on_kill()

    store.set = kill_when_counted
    with pytest.raises(AirflowException, match=r"No batch of it is queued or running, and nothing was billed"):
        task.execute(context)
    assert len(proxy.calls("POST", "/batches$")) == 1


def test_it_waits_for_room_even_if_it_does_not_wait_for_the_end(proxy: FaultProxy, file_id: str) -> None:
    proxy.rule("POST", "/batches$", FULL)
    task = operator(file_id, wait=False)
    context, instance = context_for(task)
    batch_id = task.resubmit(context, event_of(deferred_by(task.execute, context)))
    assert [batch.id for batch in LLMBatchHook().list_batches()] == [batch_id] == [instance.xcoms["batch_id"]]


@needs_state_store
def test_past_the_queue_deadline_the_error_says_how_often_it_was_tried_and_leaves_a_retry_to_airflow(
    proxy: FaultProxy, file_id: str
) -> None:
    proxy.rule("POST", "/batches$", FULL, times=None)
    task = operator(file_id, queue_deadline=timedelta(hours=2))
    context, instance = context_for(task)
    event = event_of(deferred_by(task.execute, context))
    past = {**event, "queued_since": event["queued_since"] - 7200}
    record = context["task_state_store"].get("llmbatch_batch")  # type: ignore[typeddict-item]
    context["task_state_store"].set("llmbatch_batch", {**record, "queued_since": past["queued_since"]})  # type: ignore[typeddict-item]
    with pytest.raises(EnqueuedTokenLimitError, match=r"It was submitted 2 times since .*queue_deadline was") as given:
        task.resubmit(context, past)  # type: ignore[arg-type]
    assert (given.value.limit, given.value.retriable) == (2_000_000, True)
    instance.try_number = 2
    with pytest.raises(EnqueuedTokenLimitError, match="It was submitted 3 times since"):
        task.execute(context)
    instance.max_tries = 3  # a person cleared the task
    assert event_of(deferred_by(task.execute, context))["refusals"] == 1


def test_without_time_to_wait_the_first_refusal_is_raised(proxy: FaultProxy, file_id: str) -> None:
    proxy.rule("POST", "/batches$", FULL)
    task = operator(file_id, queue_deadline=timedelta(0))
    with pytest.raises(EnqueuedTokenLimitError, match=r"limit 2,000,000 tokens.*Nothing was billed"):
        task.execute(context_for(task)[0])


def test_a_batch_that_failed_for_more_than_the_queue_is_not_submitted_again(proxy: FaultProxy, file_id: str) -> None:
    task = operator(file_id)
    context, instance = context_for(task)
    deferred_by(task.execute, context)
    fail_for_queue(proxy, instance.xcoms["batch_id"], {"code": "invalid_json_line", "message": "No JSON."})
    with pytest.raises(AirflowFailException, match="BatchFailedError"):
        task.execute_complete(context, woken(instance.xcoms["batch_id"]))
    assert len(proxy.calls("POST", "/batches$")) == 1


def test_the_log_tells_the_limit_the_cost_and_the_next_try(
    proxy: FaultProxy, file_id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    proxy.rule("POST", "/batches$", FULL)
    task = operator(file_id)
    deferred_by(task.execute, context_for(task)[0])
    printed = capsys.readouterr().out
    assert (
        "EnqueuedTokenLimitError: The queue of tokens for gpt-5-mini is full (limit 2,000,000 tokens). The server at "
        f"127.0.0.1 was asked to create a batch from {file_id} and answered 400 token_limit_exceeded: {WORDS} Nothing "
        "was billed. The input is good: a retry may succeed when other batches have ended." in printed
    )
    assert re.search(r"Waiting (1 min|\d\d s) before the next try, at most until 2[\d-]{9} [\d:]{5} UTC", printed)
