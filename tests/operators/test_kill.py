"""A worker's wait that is killed: a signal wakes it at once, and the state of its task decides about the batch."""

from __future__ import annotations

import copy
import json
import os
import pickle
import signal
import threading
from typing import TYPE_CHECKING

import pytest
from airflow.sdk.exceptions import AirflowException
from airflow.sdk.execution_time import task_runner
from support.gated_server import GatedServer, gated_server
from support.task import ApiServer, adapters_closed, connect, context_of

from airflow_provider_llmbatch.hooks.batch import LLMBatchHook
from airflow_provider_llmbatch.operators.batch import LLMBatchCreateBatchOperator

if TYPE_CHECKING:
    from collections.abc import Iterator

LINE = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"model": "echo", "prompt": "hello"}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatedServer]:
    with gated_server(tmp_path_factory.mktemp("gated")) as server:
        yield server


@pytest.fixture
def file_id(server: GatedServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    connect(monkeypatch, server.url, server.api_key)
    with adapters_closed(monkeypatch):
        yield LLMBatchHook().create_file(json.dumps(LINE).encode() + b"\n").id


def waiting_task(file_id: str, *, cancel_on_kill: bool = True) -> LLMBatchCreateBatchOperator:
    return LLMBatchCreateBatchOperator(
        task_id="wait",
        input_file_id=file_id,
        endpoint="/v1/completions",
        deferrable=False,
        min_poll_interval=60,  # without the signal it would sleep for that long
        cancel_on_kill=cancel_on_kill,
    )


@pytest.fixture
def sigterm() -> Iterator[threading.Timer]:
    """Kills this process in a moment, as a supervisor does a task's; the task's ``on_kill`` is to handle it."""
    before = signal.getsignal(signal.SIGTERM)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM))
    yield timer
    timer.join()
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("state", "cancel_on_kill", "told"),
    [
        ("failed", True, "The task is failed, so {id} was cancelled."),
        ("success", True, "The task is success, so {id} was cancelled."),
        ("running", True, "{id} goes on: the task is running"),
        ("restarting", True, "{id} goes on: the task is restarting"),
        ("failed", False, "{id} goes on, since cancel_on_kill is off."),
    ],
    ids=["marked failed", "marked success", "worker stopped", "cleared", "switched off"],
)
def test_a_signal_ends_the_wait_at_once(
    state: str,
    cancel_on_kill: bool,
    told: str,
    file_id: str,
    sigterm: threading.Timer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", ApiServer({"run-1": {"wait": state}}), raising=False)
    task = waiting_task(file_id, cancel_on_kill=cancel_on_kill)
    context, instance = context_of(task)
    signal.signal(signal.SIGTERM, lambda *_: task.on_kill())
    sigterm.start()
    with pytest.raises(AirflowException) as killed:
        task.execute(context)
    batch = LLMBatchHook().retrieve_batch(instance.xcoms["batch_id"])
    assert str(killed.value).startswith("The task was killed. " + told.format(id=batch.id))
    assert (batch.status in ("cancelling", "cancelled")) is ("was cancelled" in told)


def test_a_task_that_was_killed_before_it_ran_has_nothing_to_cancel(file_id: str) -> None:
    waiting_task(file_id).on_kill()


def test_an_operator_can_be_copied_and_pickled_until_it_runs(file_id: str) -> None:
    task = waiting_task(file_id)
    assert copy.deepcopy(task).input_file_id == file_id
    assert pickle.loads(pickle.dumps(task)).input_file_id == file_id  # noqa: S301 - of our own
