"""Who kills a wait, and what that does to its batch: cancelled only for a person who ended the task."""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from typing import TYPE_CHECKING

import pytest
import structlog
from airflow.jobs import triggerer_job_runner
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import GetDRCount, GetTaskStates
from structlog.testing import capture_logs
from support.gated_server import GatedServer, gated_server
from support.task import ApiServer, TaskInstance, adapters_closed, connect

from airflow_provider_llmbatch.errors import UnavailableError
from airflow_provider_llmbatch.hooks.batch import LLMBatchHook
from airflow_provider_llmbatch.models import Batch
from airflow_provider_llmbatch.triggers.batch import LLMBatchTrigger
from airflow_provider_llmbatch.triggers.calls import after_kill
from airflow_provider_llmbatch.triggers.kill import cancel_if_over, state_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow.executors.workloads.task import TaskInstanceDTO

LINE = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"model": "echo", "prompt": "hello"}}
REQUESTS = json.dumps(LINE).encode() + b"\n"

OVER = ["success", "failed", "skipped", "upstream_failed", "removed"]
GOES_ON = ["deferred", "running", "queued", "scheduled", "restarting", "up_for_retry", "up_for_reschedule", None]

# With what a triggerer cancels a trigger when a person ended the task, from Airflow 3.3 on.
USER_ACTION: str | None = getattr(triggerer_job_runner, "_USER_ACTION_CANCEL_MSG", None)
told_of_kills = pytest.mark.skipif(USER_ACTION is None, reason="triggers are told of a kill from Airflow 3.3 on")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatedServer]:
    with gated_server(tmp_path_factory.mktemp("gated")) as server:
        yield server


@pytest.fixture
def batch_id(server: GatedServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A batch that runs for as long as the test."""
    connect(monkeypatch, server.url, server.api_key)
    with adapters_closed(monkeypatch):
        hook = LLMBatchHook()
        yield hook.create_batch(hook.create_file(REQUESTS).id, endpoint="/v1/completions").id


def airflow_says(monkeypatch: pytest.MonkeyPatch, states: dict[str, dict[str, str | None]] | Exception) -> ApiServer:
    api = ApiServer(states)
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", api, raising=False)
    return api


def was_cancelled(batch_id: str) -> bool:
    return LLMBatchHook().retrieve_batch(batch_id).status in ("cancelling", "cancelled")


@pytest.mark.parametrize(
    ("map_index", "states", "state"),
    [
        (-1, {"run-1": {"wait": "failed"}}, "failed"),
        (3, {"run-1": {"wait_3": "success"}}, "success"),
        (-1, {"run-1": {"wait": None}}, "not yet scheduled"),
        (-1, {}, "gone"),
        (3, {"run-1": {}}, "gone"),
    ],
)
def test_the_state_is_read_under_the_name_that_airflow_gives_it(
    map_index: int, states: dict[str, dict[str, str | None]], state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = airflow_says(monkeypatch, states)
    assert state_of(TaskInstance(map_index=map_index)) == state
    asked = api.asked[0]
    assert isinstance(asked, GetTaskStates)
    assert (asked.dag_id, asked.run_ids, asked.task_ids, asked.map_index) == ("nightly", ["run-1"], ["wait"], map_index)


@pytest.mark.parametrize("state", [*OVER, *GOES_ON])
def test_only_a_task_that_is_over_loses_its_batch(state: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    airflow_says(monkeypatch, {"run-1": {"wait": state}})
    cancelled: list[str] = []

    def cancel(batch_id: str) -> Batch:
        cancelled.append(batch_id)
        return Batch(id=batch_id, status="cancelling")

    told = cancel_if_over(TaskInstance(), "batch_1", cancel)
    if state in OVER:
        assert cancelled == ["batch_1"]
        assert told.startswith(f"The task is {state}, so batch_1 was cancelled.")
    else:
        assert cancelled == []
        assert told.startswith(f"batch_1 goes on: the task is {state or 'not yet scheduled'}")


def test_a_task_that_was_deleted_in_a_run_that_goes_on_is_made_anew_and_keeps_its_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    api = airflow_says(monkeypatch, {})
    api.unfinished = 1
    told = cancel_if_over(TaskInstance(), "batch_1", lambda _: pytest.fail("it was cancelled"))
    assert told.startswith("batch_1 goes on: the task is deleted in a run that goes on")
    asked = api.asked[1]
    assert isinstance(asked, GetDRCount)
    assert (asked.dag_id, asked.run_ids, asked.states) == ("nightly", ["run-1"], ["queued", "running"])


def test_a_batch_whose_run_was_deleted_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    airflow_says(monkeypatch, {})
    told = cancel_if_over(TaskInstance(), "batch_1", lambda name: Batch(id=name, status="cancelled"))
    assert told.startswith("The task is gone, so batch_1 was cancelled.")


def test_in_doubt_about_the_task_nothing_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    airflow_says(monkeypatch, ConnectionError("no API server"))
    told = cancel_if_over(TaskInstance(), "batch_1", lambda _: pytest.fail("it was cancelled"))
    assert told == (
        "batch_1 goes on: Airflow did not say whether the task has ended (ConnectionError: no API server). Cancel it "
        "at the provider if it is not wanted."
    )


def test_a_cancellation_that_fails_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    airflow_says(monkeypatch, {"run-1": {"wait": "failed"}})

    def cancel(_: str) -> Batch:
        raise UnavailableError("OpenAI is down.")

    assert cancel_if_over(TaskInstance(), "batch_1", cancel) == (
        "The task is failed, but batch_1 could not be cancelled: OpenAI is down. Cancel it at the provider if it is "
        "not wanted."
    )


def test_a_batch_that_ended_in_the_meantime_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    airflow_says(monkeypatch, {"run-1": {"wait": "success"}})
    told = cancel_if_over(TaskInstance(), "batch_1", lambda name: Batch(id=name, status="completed"))
    assert told == "batch_1 had ended already: it is completed."


def task_instance_dto() -> TaskInstanceDTO:
    from airflow.executors.workloads.task import TaskInstanceDTO

    return TaskInstanceDTO(
        id=uuid.uuid4(),
        dag_version_id=uuid.uuid4(),
        **{name: getattr(TaskInstance(), name) for name in ("dag_id", "run_id", "task_id", "try_number")},
        pool_slots=1,
        priority_weight=1,
    )


async def triggered_and_cancelled(batch_id: str, message: str | None, *, cancel_on_kill: bool = True) -> None:
    """Run a trigger as a triggerer does, and cancel it as a triggerer does; returns when it has ended."""
    trigger = LLMBatchTrigger("llmbatch_default", batch_id, 4e9, 30.0, 60.0, cancel_on_kill=cancel_on_kill)
    trigger.task_instance = task_instance_dto()
    runner = triggerer_job_runner.TriggerRunner()
    runner.triggers[1] = {"name": "wait", "events": 0, "task": None, "is_watcher": False}  # type: ignore[typeddict-item]
    running = asyncio.create_task(runner.run_trigger(1, trigger))
    await asyncio.sleep(0.3)  # it connects, looks, and waits for its next look
    running.cancel(message)
    with pytest.raises(asyncio.CancelledError):
        await running


@told_of_kills
@pytest.mark.parametrize(
    ("message", "state", "cancel_on_kill", "cancelled"),
    [
        (USER_ACTION, "failed", True, True),
        (USER_ACTION, "success", True, True),
        (USER_ACTION, None, True, False),
        (USER_ACTION, "deferred", True, False),
        (USER_ACTION, "failed", False, False),
        (None, "failed", True, False),
    ],
    ids=["marked failed", "marked success", "cleared", "reassigned", "switched off", "triggerer stopped"],
)
def test_a_trigger_that_airflow_ends(
    message: str | None,
    state: str | None,
    cancel_on_kill: bool,
    cancelled: bool,
    batch_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    airflow_says(monkeypatch, {"run-1": {"wait": state}})
    asyncio.run(triggered_and_cancelled(batch_id, message, cancel_on_kill=cancel_on_kill))
    assert was_cancelled(batch_id) is cancelled


@told_of_kills
def test_without_its_connection_a_batch_is_told_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    trigger = LLMBatchTrigger("not_there", "batch_1", 4e9, cancel_on_kill=True)
    trigger.task_instance = task_instance_dto()
    asyncio.run(trigger.on_kill())
    told = capsys.readouterr().out
    assert "batch_1 goes on: the connection 'not_there' cannot be used (AirflowNotFoundException: " in told
    assert "Cancel it at the provider if it is not wanted." in told


@pytest.mark.parametrize(("seconds_left", "told"), [(30, "It was decided."), (0, None)], ids=["in time", "out of time"])
def test_airflow_says_each_second_anew_that_a_trigger_is_to_go_and_is_heard_once(
    seconds_left: int, told: str | None, server: GatedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(monkeypatch, server.url, server.api_key)
    monkeypatch.setenv("AIRFLOW__TRIGGERER__ON_KILL_TIMEOUT", str(seconds_left + 1))
    may_end = threading.Event()

    def decide(_: object) -> str:
        may_end.wait(5)
        return "It was decided."

    async def cancelled_again_and_again() -> bool:
        deciding = asyncio.create_task(after_kill("llmbatch_default", "batch_1", decide, structlog.get_logger()))
        for _ in range(3):
            await asyncio.sleep(0.05)
            deciding.cancel()
        may_end.set()
        return await asyncio.gather(deciding, return_exceptions=True) != [None]

    with adapters_closed(monkeypatch), capture_logs() as lines:
        was_cut_off = asyncio.run(cancelled_again_and_again())
    assert was_cut_off is (told is None)
    assert [line["event"] for line in lines if line["log_level"] == "info"] == ([told] if told else [])
