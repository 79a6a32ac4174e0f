"""What an operator needs of Airflow to run by itself: a context with a task instance that remembers its XComs."""

from __future__ import annotations

import json
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from airflow.sdk.execution_time import context as airflow_context
from airflow.sdk.execution_time.comms import DRCount, GetDRCount, GetTaskStates, TaskStatesResult

from airflow_provider_llmbatch.hooks.batch import LLMBatchHook

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest
    from airflow.sdk import BaseOperator, Connection, Context
    from pydantic import JsonValue

    from airflow_provider_llmbatch.adapters.base import Adapter

HAS_STATE_STORE = hasattr(airflow_context, "NEVER_EXPIRE")
"""Whether this Airflow keeps state for tasks, which came with 3.3."""


@dataclass
class TaskInstance:
    task_id: str = "wait"
    dag_id: str = "nightly"
    run_id: str = "run-1"
    map_index: int = -1
    try_number: int = 1
    max_tries: int = 0
    xcoms: dict[str, Any] = field(default_factory=dict)
    earlier_xcoms: dict[str, Any] = field(default_factory=dict)
    id: uuid.UUID = field(default_factory=uuid.uuid4)

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[key] = value

    def xcom_pull(self, *, key: str, **_from: object) -> Any:
        """What the same task told in an earlier DAG run."""
        return self.earlier_xcoms.get(key)

    def get_first_reschedule_date(self, context: Context) -> None:
        del context


class _StateStore:
    """Airflow's task state store, in memory: it outlives a try, as long as the test keeps it."""

    def __init__(self) -> None:
        self._values: dict[str, JsonValue] = {}

    def get(self, key: str) -> JsonValue:
        return self._values.get(key)

    def set(self, key: str, value: JsonValue, *, retention: object = None) -> None:
        del retention
        self._values[key] = value


def context_of(task: BaseOperator, instance: TaskInstance | None = None) -> tuple[Context, TaskInstance]:
    instance = instance or TaskInstance(task_id=task.task_id)
    context = {"ti": instance, "task": task}
    if HAS_STATE_STORE:
        context["task_state_store"] = _StateStore()
    return cast("Context", context), instance


@dataclass
class ApiServer:
    """Stands where a task or a trigger reaches Airflow's API server, and knows the states of task instances.

    :param states: As the API answers: run id -> task id, or task id and map index -> state.
    :param unfinished: How many runs have not ended, of those that are asked about.
    """

    states: dict[str, dict[str, str | None]] | Exception
    unfinished: int = 0
    asked: list[object] = field(default_factory=list)

    def send(self, message: object) -> TaskStatesResult | DRCount:
        self.asked.append(message)
        if isinstance(self.states, Exception):
            raise self.states
        if isinstance(message, GetDRCount):
            return DRCount(count=self.unfinished)
        assert isinstance(message, GetTaskStates), message
        return TaskStatesResult(task_states=self.states)


def connect(monkeypatch: pytest.MonkeyPatch, url: str, api_key: str, **extra: JsonValue) -> None:
    """Make ``llmbatch_default`` lead to a server."""
    connection = {
        "conn_type": "llmbatch_openai",
        "host": url,
        "password": api_key,
        "extra": {"listing_lag": 0, **extra},
    }
    monkeypatch.setenv("AIRFLOW_CONN_LLMBATCH_DEFAULT", json.dumps(connection))


@contextmanager
def adapters_closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A task's sockets end with its process; a test's process lives on, so they are closed after the test."""
    made: list[Adapter] = []
    make = LLMBatchHook.adapter_of

    def remembered(connection: Connection, *, looking: bool = False) -> Adapter:
        made.append(make(connection, looking=looking))
        return made[-1]

    monkeypatch.setattr(LLMBatchHook, "adapter_of", staticmethod(remembered))
    yield
    for adapter in made:
        adapter.close()
