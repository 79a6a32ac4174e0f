"""The button that opens a batch in the provider's console."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import TaskDeferred
from airflow.sdk.execution_time.xcom import XCom
from airflow.serialization.serialized_objects import DagSerialization
from support.gated_server import GatedServer, gated_server
from support.task import TaskInstance, adapters_closed, connect, context_of

from airflow_provider_llmbatch.adapters.openai import OpenAIAdapter
from airflow_provider_llmbatch.hooks.batch import LLMBatchHook
from airflow_provider_llmbatch.links.batch import LLMBatchConsoleLink
from airflow_provider_llmbatch.operators.batch import LLMBatchCreateBatchOperator
from airflow_provider_llmbatch.sensors.batch import LLMBatchSensor

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = LLMBatchConsoleLink().xcom_key
LINE = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"model": "echo", "prompt": "hello"}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatedServer]:
    with gated_server(tmp_path_factory.mktemp("gated")) as server:
        yield server


@pytest.fixture
def hook(server: GatedServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[LLMBatchHook]:
    connect(monkeypatch, server.url, server.api_key)
    with adapters_closed(monkeypatch):
        yield LLMBatchHook()


@pytest.fixture
def has_console(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server on loopback has no console; OpenAI does."""
    monkeypatch.setattr(OpenAIAdapter, "console_url", lambda _self, name: f"https://platform.openai.com/batches/{name}")


def creating(hook: LLMBatchHook) -> LLMBatchCreateBatchOperator:
    file = hook.create_file(json.dumps(LINE).encode() + b"\n")
    return LLMBatchCreateBatchOperator(
        task_id="create", input_file_id=file.id, endpoint="/v1/completions", deferrable=True
    )


@pytest.mark.usefixtures("has_console")
def test_the_address_is_there_before_the_task_defers(hook: LLMBatchHook) -> None:
    task = creating(hook)
    context, instance = context_of(task)
    with pytest.raises(TaskDeferred):
        task.execute(context)
    assert instance.xcoms[KEY] == f"https://platform.openai.com/batches/{instance.xcoms['batch_id']}"


@pytest.mark.usefixtures("has_console")
def test_a_sensor_has_it_before_it_defers_too(hook: LLMBatchHook) -> None:
    file = hook.create_file(json.dumps(LINE).encode() + b"\n")
    batch = hook.create_batch(file.id, endpoint="/v1/completions")
    task = LLMBatchSensor(task_id="wait", batch_id=batch.id, deferrable=True)
    context, instance = context_of(task)
    with pytest.raises(TaskDeferred):
        task.execute(context)
    assert instance.xcoms[KEY] == f"https://platform.openai.com/batches/{batch.id}"


def test_without_a_console_nothing_is_pushed(hook: LLMBatchHook) -> None:
    task = creating(hook)
    context, instance = context_of(task)
    with pytest.raises(TaskDeferred):
        task.execute(context)
    assert KEY not in instance.xcoms


@pytest.mark.parametrize(("pushed", "link"), [("https://console/batch_1", "https://console/batch_1"), (None, "")])
def test_at_the_end_the_link_is_what_was_pushed_and_empty_if_nothing_was(
    pushed: str | None, link: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[object, str]] = []

    def get_value(*, ti_key: object, key: str) -> str | None:
        asked.append((ti_key, key))
        return pushed

    monkeypatch.setattr(XCom, "get_value", get_value)
    instance = TaskInstance(map_index=4)
    task = LLMBatchSensor(task_id="wait", batch_id="batch_1")
    assert LLMBatchConsoleLink().get_link(task, ti_key=instance) == link  # type: ignore[arg-type]
    assert asked == [(instance, KEY)]


def test_airflow_keeps_the_link_of_plain_and_of_mapped_tasks() -> None:
    with DAG("of_links") as dag:
        LLMBatchCreateBatchOperator(task_id="create", input_file_id="file-1")
        LLMBatchSensor(task_id="wait", batch_id="batch_1")
        LLMBatchCreateBatchOperator.partial(task_id="create_many").expand(input_file_id=["file-1", "file-2"])
        LLMBatchSensor.partial(task_id="wait_for_many").expand(batch_id=["batch_1", "batch_2"])
    kept = DagSerialization.from_dict(DagSerialization.to_dict(dag))
    links = {task.task_id: [(link.name, link.xcom_key) for link in task.operator_extra_links] for task in kept.tasks}
    assert links == {name: [("LLM batch console", KEY)] for name in ("create", "wait", "create_many", "wait_for_many")}
