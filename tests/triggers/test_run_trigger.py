"""The trigger of a run under asyncio: several batches at a real server, one wait, one event."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from airflow.jobs import triggerer_job_runner
from airflow.sdk.execution_time import task_runner
from structlog.testing import capture_logs
from support.fault_proxy import Answer, FaultProxy, fault_proxy
from support.gated_server import GatedServer, gated_server
from support.task import ApiServer, TaskInstance, adapters_closed, connect

from airflow_provider_llmbatch.errors import UnavailableError
from airflow_provider_llmbatch.hooks.batch import LLMBatchHook
from airflow_provider_llmbatch.models import Batch
from airflow_provider_llmbatch.triggers.kill import cancel_all_if_over
from airflow_provider_llmbatch.triggers.run import LLMBatchRunTrigger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FAR = 4_000_000_000.0
ENDED = {"status": "ended", "error": None}

# With what a triggerer cancels a trigger when a person ended the task, from Airflow 3.3 on.
USER_ACTION: str | None = getattr(triggerer_job_runner, "_USER_ACTION_CANCEL_MSG", None)


def new_batch(count: int = 1) -> str:
    body = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}
    lines = (
        {"custom_id": f"r-{n}", "method": "POST", "url": "/v1/chat/completions", "body": body} for n in range(count)
    )
    hook = LLMBatchHook()
    return hook.create_batch(hook.create_file("".join(json.dumps(line) + "\n" for line in lines).encode()).id).id


def trigger_of(*batch_ids: str, deadline: float = FAR, **more: Any) -> LLMBatchRunTrigger:
    return LLMBatchRunTrigger(
        "llmbatch_default", batch_ids, deadline, min_poll_interval=0.05, max_poll_interval=0.1, **more
    )


async def fired(trigger: LLMBatchRunTrigger) -> list[object]:
    async with asyncio.timeout(20):
        return [json.loads(json.dumps(event.payload)) async for event in trigger.run()]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GatedServer]:
    with gated_server(tmp_path / "gated") as server:
        yield server


@pytest.fixture(autouse=True)
def proxy(server: GatedServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """In front of the server, and what the connection leads to."""
    with adapters_closed(monkeypatch), fault_proxy(server.url) as proxy:
        connect(monkeypatch, proxy.url, server.api_key)
        yield proxy


def test_it_fires_once_when_all_batches_ended_and_tells_of_them_together(server: GatedServer) -> None:
    async def one_after_the_other(trigger: LLMBatchRunTrigger) -> list[object]:
        firing = asyncio.create_task(fired(trigger))
        await asyncio.sleep(0.3)
        server.let_pass(1)
        await asyncio.sleep(0.3)
        assert not firing.done()
        server.let_pass(1)
        return await firing

    with capture_logs() as lines:
        events = asyncio.run(one_after_the_other(trigger_of(new_batch(), new_batch())))
    assert events == [ENDED]
    progress = [
        str(line["event"]).partition("%")[2].partition(" failed")[0] for line in lines if "/2 done" in str(line)
    ]
    assert [text for n, text in enumerate(progress) if text not in progress[:n]] == [
        "  0/2 done, 0",
        "  1/2 done, 0",
        "  2/2 done, 0",
    ]
    assert "2 completed" in [line.get("batches") for line in lines]


def test_the_first_end_fires_it_if_another_batch_may_take_the_place(server: GatedServer) -> None:
    trigger = trigger_of(new_batch(), new_batch(), any_end=True)
    server.let_pass(1)
    assert asyncio.run(fired(trigger)) == [ENDED]
    assert sorted(LLMBatchHook().retrieve_batch(each).is_terminal for each in trigger.batch_ids) == [False, True]


def test_it_fires_at_the_moment_of_what_waits_for_room_with_batches_and_without(proxy: FaultProxy) -> None:
    for batch_ids in ([new_batch()], []):
        moment = time.time() + 0.2
        assert asyncio.run(fired(trigger_of(*batch_ids, resubmit_at=moment))) == [{"status": "due", "error": None}]
        assert time.time() >= moment
    asked = len(proxy.calls("GET", "/batches"))
    asyncio.run(fired(trigger_of(resubmit_at=time.time() + 0.1)))
    assert len(proxy.calls("GET", "/batches")) == asked


def test_at_the_deadline_it_says_so_and_cancels_nothing(proxy: FaultProxy) -> None:
    deadline = time.time() + 0.3
    assert asyncio.run(fired(trigger_of(new_batch(), deadline=deadline))) == [{"status": "out_of_time", "error": None}]
    assert time.time() >= deadline
    assert proxy.calls("POST", "/cancel$") == []


def test_a_wrong_key_is_given_up_with_its_reason_and_a_right_one_is_picked_up(
    server: GatedServer, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    trigger = trigger_of(new_batch(), new_batch())
    connect(monkeypatch, proxy.url, "sk-wrong-0987654321")
    [event] = asyncio.run(fired(trigger))
    assert isinstance(event, dict)
    assert event["status"] == "given_up"
    assert "answered 401 invalid_api_key" in event["error"]

    async def rotated() -> list[object]:
        firing = asyncio.create_task(fired(trigger))
        before = len(proxy.calls("GET", "/batches/"))
        while len(proxy.calls("GET", "/batches/")) < before + 2:  # noqa: ASYNC110 - the proxy has its own event loop
            await asyncio.sleep(0.01)
        connect(monkeypatch, proxy.url, server.api_key)
        return await firing

    server.let_pass(2)
    assert asyncio.run(rotated()) == [ENDED]


def test_an_outage_is_borne(server: GatedServer, proxy: FaultProxy) -> None:
    trigger = trigger_of(new_batch(), new_batch())
    server.let_pass(2)
    proxy.rule("GET", "/batches/", Answer(503, b"{}"), times=5)
    assert asyncio.run(fired(trigger)) == [ENDED]


def test_it_serializes_to_plain_json_without_a_secret_and_back_to_itself(server: GatedServer) -> None:
    given = LLMBatchRunTrigger("nightly", ["a", "b"], 1.5, 1.25, True, 1.0, 2.0, True)
    name, kwargs = given.serialize()
    assert (name, json.loads(json.dumps(kwargs))) == (
        "airflow_provider_llmbatch.triggers.run.LLMBatchRunTrigger",
        {
            "llmbatch_conn_id": "nightly",
            "batch_ids": ["a", "b"],
            "deadline": 1.5,
            "resubmit_at": 1.25,
            "any_end": True,
            "min_poll_interval": 1.0,
            "max_poll_interval": 2.0,
            "cancel_on_kill": True,
        },
    )
    assert server.api_key not in repr(kwargs)
    assert LLMBatchRunTrigger(**kwargs).serialize() == (name, kwargs)  # type: ignore[arg-type] # as Airflow makes it


async def triggered_and_cancelled(trigger: LLMBatchRunTrigger, message: str | None) -> None:
    """Run a trigger as a triggerer does, and cancel it as a triggerer does; returns when it has ended."""
    from airflow.executors.workloads.task import TaskInstanceDTO

    identity = {name: getattr(TaskInstance(), name) for name in ("dag_id", "run_id", "task_id", "try_number")}
    trigger.task_instance = TaskInstanceDTO(
        id=uuid.uuid4(), dag_version_id=uuid.uuid4(), **identity, pool_slots=1, priority_weight=1
    )
    runner = triggerer_job_runner.TriggerRunner()
    runner.triggers[1] = {"name": "wait", "events": 0, "task": None, "is_watcher": False}  # type: ignore[typeddict-item]
    running = asyncio.create_task(runner.run_trigger(1, trigger))
    await asyncio.sleep(0.3)  # it connects, looks, and waits for its next look
    running.cancel(message)
    with pytest.raises(asyncio.CancelledError):
        await running


@pytest.mark.skipif(USER_ACTION is None, reason="triggers are told of a kill from Airflow 3.3 on")
@pytest.mark.parametrize(
    ("message", "state", "cancel_on_kill", "cancelled"),
    [
        (USER_ACTION, "failed", True, True),
        (USER_ACTION, "deferred", True, False),
        (USER_ACTION, "failed", False, False),
        (None, "failed", True, False),
    ],
    ids=["marked failed", "reassigned", "switched off", "triggerer stopped"],
)
def test_a_trigger_that_airflow_ends(
    message: str | None, state: str, cancel_on_kill: bool, cancelled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", ApiServer({"run-1": {"wait": state}}), raising=False)
    trigger = trigger_of(*[new_batch() for _ in range(3)], cancel_on_kill=cancel_on_kill)
    asyncio.run(triggered_and_cancelled(trigger, message))
    statuses = {LLMBatchHook().retrieve_batch(batch_id).status for batch_id in trigger.batch_ids}
    assert (statuses <= {"cancelling", "cancelled"}) is cancelled


def test_cancels_go_out_eight_at_a_time_and_what_they_do_not_reach_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", ApiServer({"run-1": {"wait": "failed"}}), raising=False)
    at_once: list[str] = []
    answered = threading.Event()

    def cancel(batch_id: str) -> Batch:
        at_once.append(batch_id)
        if batch_id == "b-0":
            raise UnavailableError("OpenAI is down.")
        if batch_id == "b-1":
            return Batch(id=batch_id, status="completed")
        if batch_id not in ("b-2", "b-3"):
            answered.wait(10)
        return Batch(id=batch_id, status="cancelling")

    told = cancel_all_if_over(TaskInstance(), [f"b-{n}" for n in range(14)], cancel, seconds=0.7)
    answered.set()
    assert at_once == [f"b-{n}" for n in range(12)]
    assert told == (
        "The task is failed, but b-0 could not be cancelled: OpenAI is down. Cancel it at the provider if it is not "
        "wanted. b-1 had ended already: it is completed. The task is failed, so b-2 and b-3 were cancelled. What was "
        "answered by then is billed; nothing else is. The task is failed, but there was no time to see whether b-4, "
        "b-5, b-6, b-7, b-8, b-9, b-10, b-11, b-12 and b-13 could be cancelled. Look at the provider, and cancel there "
        "what is not wanted; the next try of this task, if there is one, does so too."
    )


def test_several_batches_of_a_task_that_goes_on_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", ApiServer({"run-1": {"wait": "running"}}), raising=False)
    told = cancel_all_if_over(TaskInstance(), ["a", "b"], lambda _: pytest.fail("it was cancelled"), seconds=1.0)
    assert told == "a and b go on: the task is running, so the next try, or another process, waits for them."
