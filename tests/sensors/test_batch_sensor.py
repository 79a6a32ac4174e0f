"""Waiting for a batch that something else made, deferred and on a worker."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowRescheduleException,
    AirflowSensorTimeout,
    AirflowSkipException,
    TaskDeferred,
)
from support.fault_proxy import Answer, fault_proxy
from support.gated_server import GatedServer, gated_server
from support.task import adapters_closed, connect, context_of

from airflow_provider_llmbatch.hooks.batch import LLMBatchHook
from airflow_provider_llmbatch.sensors.batch import LLMBatchSensor
from airflow_provider_llmbatch.triggers.batch import LLMBatchTrigger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airflow_provider_llmbatch.models import Batch
    from airflow_provider_llmbatch.triggers.batch import BatchEvent

LINE = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"model": "echo", "prompt": "hello"}}
RUNNING = ("validating", "in_progress")
EACH_WAY = pytest.mark.parametrize("given", [{"mode": "poke"}, {"mode": "reschedule"}, {"deferrable": True}])
PLAIN_MODES = pytest.mark.parametrize("mode", ["poke", "reschedule"])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GatedServer]:
    with gated_server(tmp_path) as server:  # for each test, since the gate is open to any batch
        yield server


@pytest.fixture
def hook(server: GatedServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[LLMBatchHook]:
    connect(monkeypatch, server.url, server.api_key)
    with adapters_closed(monkeypatch):
        yield LLMBatchHook()


@pytest.fixture
def batch(hook: LLMBatchHook) -> Batch:
    """A running batch of one request, which ``end`` lets be answered."""
    file = hook.create_file(json.dumps(LINE).encode() + b"\n")
    return hook.create_batch(file.id, endpoint="/v1/completions")


def end(hook: LLMBatchHook, server: GatedServer, batch: Batch) -> Batch:
    server.let_pass(1)
    for _ in range(500):
        if (now := hook.retrieve_batch(batch.id)).is_terminal:
            return now
        time.sleep(0.01)
    raise AssertionError(f"{batch.id} did not end")


def sensor(batch_id: str, **given: object) -> LLMBatchSensor:
    settings: dict[str, object] = {"deferrable": False, "poke_interval": 0.05, "timeout": 5, **given}
    return LLMBatchSensor(task_id="wait", batch_id=batch_id, **settings)  # type: ignore[arg-type]


def deferred_to(task: LLMBatchSensor) -> TaskDeferred:
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(context_of(task)[0])
    return deferred.value


def event_of(trigger: LLMBatchTrigger) -> BatchEvent:
    async def first() -> BatchEvent:
        async for event in trigger.run():
            payload: BatchEvent = event.payload
            return payload
        raise AssertionError("the trigger fired nothing")

    return asyncio.run(first())


@EACH_WAY
def test_a_batch_that_has_ended_is_not_waited_for(
    given: dict[str, object], hook: LLMBatchHook, server: GatedServer, batch: Batch
) -> None:
    done = end(hook, server, batch)
    task = sensor(batch.id, **given)
    context, instance = context_of(task)
    assert task.execute(context) == batch.id
    assert instance.xcoms == {"output_file_id": done.output_file_id, "error_file_id": None}


def test_a_poking_sensor_bears_an_outage_and_goes_on_until_the_batch_ends(
    hook: LLMBatchHook, server: GatedServer, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    end(hook, server, batch)
    running = json.dumps({"id": batch.id, "status": "in_progress", "created_at": int(time.time())}).encode()
    monkeypatch.setattr("airflow_provider_llmbatch.adapters.http._FIRST_DELAY", 0.0)
    with fault_proxy(server.url) as proxy:
        proxy.rule("GET", "/batches/", Answer(200, running))
        proxy.rule("GET", "/batches/", Answer(503), times=5)  # what one call tries
        proxy.rule("GET", "/batches/", Answer(200, running))
        connect(monkeypatch, proxy.url, server.api_key)
        task = sensor(batch.id)
        assert task.execute(context_of(task)[0]) == batch.id
        assert len(proxy.calls("GET", "/batches/")) == 8


def test_a_rescheduled_sensor_leaves_its_worker_while_the_batch_runs(hook: LLMBatchHook, batch: Batch) -> None:
    del hook
    task = sensor(batch.id, mode="reschedule")
    with pytest.raises(AirflowRescheduleException):
        task.execute(context_of(task)[0])


def test_a_deferred_sensor_waits_in_the_triggerer_and_resumes_when_the_batch_has_ended(
    hook: LLMBatchHook, server: GatedServer, batch: Batch
) -> None:
    task = sensor(batch.id, deferrable=True, deadline=timedelta(hours=2), min_poll_interval=0.05, max_poll_interval=0.1)
    deferred = deferred_to(task)
    trigger = deferred.trigger
    assert isinstance(trigger, LLMBatchTrigger)
    assert batch.created_at is not None
    assert trigger.serialize()[1] == {
        "llmbatch_conn_id": "llmbatch_default",
        "batch_id": batch.id,
        "deadline": batch.created_at + 7200.0,
        "min_poll_interval": 0.05,
        "max_poll_interval": 0.1,
        "cancel_on_kill": False,
    }
    assert (deferred.method_name, deferred.timeout) == ("execute_complete", timedelta(seconds=5))
    done = end(hook, server, batch)
    context, instance = context_of(task)
    assert task.execute_complete(context, event_of(trigger)) == batch.id
    assert instance.xcoms == {"output_file_id": done.output_file_id, "error_file_id": None}


@EACH_WAY
def test_a_cancelled_batch_fails_the_task_without_a_retry(
    given: dict[str, object], hook: LLMBatchHook, server: GatedServer, batch: Batch
) -> None:
    hook.cancel_batch(batch.id)
    done = end(hook, server, batch)  # what is under way is still answered
    task = sensor(batch.id, **given)
    context, instance = context_of(task)
    with pytest.raises(AirflowFailException, match=f"BatchCancelledError: {batch.id} was cancelled"):
        task.execute(context)
    assert instance.xcoms == {"output_file_id": done.output_file_id, "error_file_id": done.error_file_id}


@EACH_WAY
def test_a_batch_that_is_not_there_fails_the_task_without_a_retry(given: dict[str, object], hook: LLMBatchHook) -> None:
    del hook
    task = sensor("batch_none", **given)
    with pytest.raises(AirflowFailException, match="NotFoundError"):
        task.execute(context_of(task)[0])


@EACH_WAY
@pytest.mark.parametrize("soft", ["soft_fail", "never_fail"])
def test_a_sensor_that_fails_softly_is_skipped(given: dict[str, object], soft: str, hook: LLMBatchHook) -> None:
    del hook
    task = sensor("batch_none", **given, **{soft: True})
    with pytest.raises(AirflowSkipException):
        task.execute(context_of(task)[0])


@EACH_WAY
def test_an_empty_id_is_named_as_such(given: dict[str, object]) -> None:
    task = sensor("", **given)
    with pytest.raises(AirflowFailException, match="The batch_id is empty"):
        task.execute(context_of(task)[0])


@PLAIN_MODES
def test_past_the_deadline_the_task_fails_and_the_batch_is_left_running(
    mode: str, hook: LLMBatchHook, batch: Batch
) -> None:
    task = sensor(batch.id, mode=mode, deadline=timedelta(0))
    with pytest.raises(AirflowFailException, match=r"DeadlineExceededError: .* It was left running"):
        task.execute(context_of(task)[0])
    assert hook.retrieve_batch(batch.id).status in RUNNING


def test_past_the_deadline_a_deferred_task_fails_and_the_batch_is_left_running(
    hook: LLMBatchHook, batch: Batch
) -> None:
    task = sensor(batch.id, deferrable=True, deadline=timedelta(0), min_poll_interval=0.05)
    trigger = deferred_to(task).trigger
    assert isinstance(trigger, LLMBatchTrigger)
    with pytest.raises(AirflowFailException, match=r"DeadlineExceededError: .* It was left running"):
        task.execute_complete(context_of(task)[0], event_of(trigger))
    assert hook.retrieve_batch(batch.id).status in RUNNING


def test_a_sensors_own_timeout_leaves_the_batch_running(hook: LLMBatchHook, batch: Batch) -> None:
    task = sensor(batch.id, timeout=0)
    with pytest.raises(AirflowSensorTimeout):
        task.execute(context_of(task)[0])
    assert hook.retrieve_batch(batch.id).status in RUNNING


def test_an_event_that_comes_too_early_defers_again_with_the_same_deadline(hook: LLMBatchHook, batch: Batch) -> None:
    del hook
    task = sensor(batch.id, deferrable=True)
    event: BatchEvent = {"status": "ended", "batch_id": batch.id, "deadline": 4e9, "error": None}
    with pytest.raises(TaskDeferred) as again:
        task.execute_complete(context_of(task)[0], event)
    assert again.value.trigger.serialize()[1]["deadline"] == 4e9


def test_a_trigger_that_gave_up_fails_the_task_with_its_reason(hook: LLMBatchHook, batch: Batch) -> None:
    del hook
    task = sensor(batch.id, deferrable=True)
    event: BatchEvent = {"status": "given_up", "batch_id": batch.id, "deadline": 4e9, "error": "The key was refused."}
    with pytest.raises(AirflowFailException, match=f"The key was refused. {batch.id} was not cancelled"):
        task.execute_complete(context_of(task)[0], event)


def test_intervals_that_cannot_hold_are_refused_when_the_dag_is_read() -> None:
    with pytest.raises(ValueError, match="0 < min_poll_interval <= max_poll_interval must hold, not 10 and 5"):
        sensor("batch_1", max_poll_interval=5)
