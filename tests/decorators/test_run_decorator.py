"""``@task.llmbatch``: what a function may yield, when it is called, and what it is given."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import DAG, task
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred
from support.task import TaskInstance, adapters_closed, connect, context_of

from airflow_provider_llmbatch.decorators.run import llmbatch_task
from airflow_provider_llmbatch.operators.run import LLMBatchRunOperator
from airflow_provider_llmbatch.triggers.run import RunEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from airflow.sdk import Context
    from support.server import RunningServer

BODY = {"model": "echo", "messages": [{"role": "user", "content": "ready"}]}


@pytest.fixture(autouse=True)
def connected(echo_server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with adapters_closed(monkeypatch):
        connect(monkeypatch, echo_server.url, echo_server.api_key, model="echo")
        yield


def task_of(function: Callable[..., Any], output: Path, *args: Any, **settings: Any) -> LLMBatchRunOperator:
    """The operator that a DAG would hold."""
    more = {"deferrable": False, "min_poll_interval": 0.02, "max_poll_interval": 0.05, **settings}
    with DAG("dag", schedule=None):
        made = llmbatch_task(function, output=str(output), **more)(*args)
    operator = made.operator
    assert isinstance(operator, LLMBatchRunOperator)
    return operator


def context_for(operator: LLMBatchRunOperator, **more: object) -> Context:
    context, _ = context_of(operator, TaskInstance(task_id=operator.task_id, run_id=str(uuid.uuid4())))
    context.update(more)  # type: ignore[typeddict-item] # some of the many keys
    return context


def texts(output: Path) -> list[tuple[object, str]]:
    manifest = json.loads((output / "manifest.json").read_text())
    lines = [line for part in manifest["parts"] for line in (output / part["uri"]).read_text().splitlines()]
    return [(row["key"], row["text"]) for row in map(json.loads, lines)]


def prompts() -> Iterator[str]:
    yield "What is {this}?"
    yield "And that?"


def records() -> list[dict[str, object]]:
    return [{"id": n, "text": f"text {n}"} for n in range(2)]


def ready() -> Iterator[dict[str, object]]:
    for n in range(2):
        yield {"custom_id": f"mine-{n}", "method": "POST", "url": "/v1/chat/completions", "body": BODY}


@pytest.mark.parametrize(
    ("function", "settings", "landed"),
    [
        (prompts, {}, [(None, "What is {this}?"), (None, "And that?")]),
        (records, {"prompt": "Say {text}", "key": "id"}, [(0, "Say text 0"), (1, "Say text 1")]),
        (ready, {}, [("mine-0", "ready"), ("mine-1", "ready")]),
    ],
    ids=["prompts", "records", "ready requests"],
)
def test_it_may_yield_or_return(
    function: Callable[..., Any], settings: dict[str, Any], landed: list[tuple[object, str]], tmp_path: Path
) -> None:
    operator = task_of(function, tmp_path, **settings)
    assert operator.execute(context_for(operator))["outcomes"] == {"succeeded": 2}
    assert texts(tmp_path) == landed


def test_it_is_given_its_arguments_and_what_it_names_of_the_context(tmp_path: Path) -> None:
    def ask(words: list[str], suffix: str = "!", ds: str | None = None, **context: Any) -> Iterator[str]:
        for word in words:
            yield f"{word}{suffix} {ds} {context['run_id']}"

    with DAG("dag", schedule=None):
        made = llmbatch_task(ask, output=str(tmp_path), deferrable=False, min_poll_interval=0.02)(["a"], suffix="?")
    operator = made.operator
    operator.execute(context_for(operator, ds="2026-11-24", run_id="nightly"))
    assert texts(tmp_path) == [(None, "a? 2026-11-24 nightly")]


def test_it_is_called_once_however_often_the_task_is_woken_or_retried(tmp_path: Path) -> None:
    calls: list[int] = []

    def ask() -> Iterator[str]:
        calls.append(1)
        yield "once"

    operator = task_of(ask, tmp_path, deferrable=True)
    context = context_for(operator)
    for event in (None, RunEvent(status="due", error=None)):
        try:
            operator.execute_complete(context, event) if event else operator.execute(context)
        except TaskDeferred:
            continue
    context["ti"].try_number = 2
    retried = task_of(ask, tmp_path, deferrable=False)
    retried.execute(context)
    assert (calls, texts(tmp_path)) == ([1], [(None, "once")])


@pytest.mark.parametrize("returned", ["a prompt", {"text": "a"}, None, 3], ids=["text", "dict", "nothing", "number"])
def test_one_thing_instead_of_many_is_refused(returned: object, tmp_path: Path) -> None:
    operator = task_of(lambda: returned, tmp_path, task_id="ask")
    with pytest.raises(AirflowFailException, match="not something that yields prompts"):
        operator.execute(context_for(operator))


@pytest.mark.parametrize("returned", [{"a", "b"}, frozenset("ab")], ids=["set", "frozenset"])
def test_what_has_another_order_in_every_process_is_refused(returned: object, tmp_path: Path) -> None:
    operator = task_of(lambda: returned, tmp_path, task_id="ask")
    with pytest.raises(AirflowFailException, match="another order in every process, so that a clear would pay anew"):
        operator.execute(context_for(operator))


def test_a_data_frame_is_refused_since_it_gives_the_names_of_its_columns(tmp_path: Path) -> None:
    frame = type("DataFrame", (), {"__iter__": lambda _: iter(["text"])})()
    operator = task_of(lambda: frame, tmp_path, task_id="ask")
    with pytest.raises(AirflowFailException, match=r'not its rows: return df\.to_dict\("records"\)'):
        operator.execute(context_for(operator))


def test_without_any_model_texts_are_refused(
    tmp_path: Path, echo_server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(monkeypatch, echo_server.url, echo_server.api_key)
    operator = task_of(lambda: ["a"], tmp_path, task_id="ask")
    with pytest.raises(AirflowFailException, match="no model is named: pass model=, or give the connection one"):
        operator.execute(context_for(operator))


def test_an_item_that_is_no_request_is_named_by_its_number(tmp_path: Path) -> None:
    operator = task_of(lambda: ["fine", 3], tmp_path, task_id="ask")
    with pytest.raises(AirflowFailException, match="Record 2 of what <lambda> yields is an int"):
        operator.execute(context_for(operator))


def test_the_functions_own_error_is_left_to_airflow(tmp_path: Path) -> None:
    def ask() -> Iterator[str]:
        yield "one"
        raise RuntimeError("the warehouse is down")

    operator = task_of(ask, tmp_path)
    with pytest.raises(RuntimeError, match="the warehouse is down"):
        operator.execute(context_for(operator))


def test_async_functions_and_sources_are_refused_while_the_dag_is_read(tmp_path: Path) -> None:
    async def ask() -> None: ...

    with pytest.raises(TypeError, match="not an async one"):
        task_of(ask, tmp_path)
    with pytest.raises(TypeError, match="the function is the input"):
        task_of(prompts, tmp_path, source="a.csv")


def test_airflow_offers_it_as_task_llmbatch() -> None:
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        distribution("airflow-provider-llmbatch")
    except PackageNotFoundError:
        pytest.skip("the wheel is not installed; make test installs it")
    with DAG("dag", schedule=None):
        made = task.llmbatch(output="out")(prompts)()
    assert (made.operator.task_id, made.operator.custom_operator_name) == ("prompts", "@task.llmbatch")
