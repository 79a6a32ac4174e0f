"""What a run would cost, told by itself without a server; and the cap of a run, as Airflow hands it over."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from support.fault_proxy import FaultProxy, fault_proxy
from support.task import TaskInstance, adapters_closed, connect, context_of

from airflow_provider_llmbatch.errors import BatchInputError
from airflow_provider_llmbatch.hooks.batch import LLMBatchHook
from airflow_provider_llmbatch.operators.estimate import LLMBatchEstimateCostOperator
from airflow_provider_llmbatch.operators.run import LLMBatchRunOperator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.server import RunningServer

PRICES = {
    "source": "our agreement",
    "models": {"gpt-4o": {"batch": {"input": "0", "output": "5000"}, "standard": {"input": "0", "output": "10000"}}},
}
ASKED: dict[str, Any] = {"prompt": "Say: {text}", "model": "gpt-4o", "parameters": {"max_completion_tokens": 50}}
TEXT = "About $1.00 ($1.00 to $1.00) for 4 rows on gpt-4o, $2.00 without batch; prices: our agreement."


@pytest.fixture
def source(tmp_path: Path) -> str:
    path = tmp_path / "reviews.jsonl"
    path.write_text("".join(json.dumps({"id": n, "text": f"text {n}"}) + "\n" for n in range(4)))
    return str(path)


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A connection with prices, behind which there is nobody."""
    with adapters_closed(monkeypatch):
        connect(monkeypatch, "http://127.0.0.1:9/v1", "key", prices=PRICES)
        yield


@pytest.mark.usefixtures("nowhere")
def test_an_estimate_needs_no_server_and_goes_to_xcom(source: str) -> None:
    operator = LLMBatchEstimateCostOperator(task_id="estimate", source=source, **ASKED)
    context, instance = context_of(operator)
    told = operator.execute(context)
    [model] = told.pop("models")  # type: ignore[misc, union-attr] # a list of one
    assert told == {
        "low": 1.0,
        "likely": 1.0,
        "high": 1.0,
        "without_batch": 2.0,
        "rows": 4,
        "bounded": True,
        "text": TEXT,
    }
    assert model["output_tokens"] == {"low": 200, "likely": 200, "high": 200}  # type: ignore[index, call-overload]
    assert instance.xcoms == {"low": 1.0, "likely": 1.0, "high": 1.0, "text": TEXT}


@pytest.mark.usefixtures("nowhere")
def test_without_a_price_it_tells_none_and_pushes_no_amount(source: str) -> None:
    operator = LLMBatchEstimateCostOperator(task_id="estimate", source=source, **{**ASKED, "model": "ours"})
    context, instance = context_of(operator)
    told = operator.execute(context)
    assert (told["low"], told["likely"], told["high"], told["without_batch"]) == (None, None, None, None)
    assert list(instance.xcoms) == ["text"]


@pytest.mark.usefixtures("nowhere")
def test_what_the_provider_would_refuse_is_refused_by_the_estimate_too(source: str) -> None:
    asked = {**ASKED, "parameters": {"stream": True}}
    operator = LLMBatchEstimateCostOperator(task_id="estimate", source=source, **asked)
    with pytest.raises(AirflowFailException, match="Nothing was uploaded or billed"):
        operator.execute(context_of(operator)[0])


@pytest.mark.parametrize("given", [{}, {"source": "a.csv", "query": "SELECT 1"}, {"query": "SELECT 1"}])
def test_an_estimate_needs_one_input(given: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="sql_conn_id="):
        LLMBatchEstimateCostOperator(task_id="estimate", **given)


@pytest.mark.usefixtures("nowhere")
def test_the_hook_estimates_files_and_whatever_is_given(source: str) -> None:
    hook = LLMBatchHook()
    of_file = hook.estimate_cost(source, **ASKED)
    of_records = hook.estimate_cost(({"text": f"text {n}"} for n in range(4)), **ASKED)
    assert of_file.total_usd == of_records.total_usd
    assert of_file.models[0].input_tokens == of_records.models[0].input_tokens
    assert of_file.total_usd is not None
    assert of_file.total_usd.likely == Decimal(1)
    with pytest.raises(BatchInputError, match="no rows"):
        hook.estimate_cost([], **ASKED)


@pytest.mark.usefixtures("nowhere")
def test_the_hook_estimates_in_async_tasks(source: str) -> None:
    made = asyncio.run(LLMBatchHook().aestimate_cost(source, **ASKED))
    assert made.rows == 4


@pytest.mark.parametrize("given", [-1, -0.01, float("nan"), float("inf"), True, Decimal(-1)])
def test_a_cap_that_is_no_amount_is_refused_while_the_dag_is_read(given: float) -> None:
    with pytest.raises(ValueError, match="max_cost_usd must be an amount of US dollars"):
        LLMBatchRunOperator(task_id="run", source="in.csv", output="out", max_cost_usd=given)


@pytest.mark.usefixtures("nowhere")
def test_a_template_that_makes_no_amount_stops_the_task(source: str, tmp_path: Path) -> None:
    operator = LLMBatchRunOperator(task_id="run", source=source, output=str(tmp_path), max_cost_usd="a lot", **ASKED)
    with pytest.raises(AirflowFailException, match=r"not 'a lot'\. Nothing was uploaded or billed now"):
        operator.execute(context_of(operator)[0])


@pytest.fixture
def proxy(echo_server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    with adapters_closed(monkeypatch), fault_proxy(echo_server.url) as proxy:
        connect(monkeypatch, proxy.url, echo_server.api_key, prices=PRICES)
        yield proxy


def test_a_run_above_its_cap_fails_without_a_retry_and_uploads_nothing(
    source: str, tmp_path: Path, proxy: FaultProxy
) -> None:
    operator = LLMBatchRunOperator(
        task_id="run", source=source, output=str(tmp_path / "out"), max_cost_usd="0.99", deferrable=False, **ASKED
    )
    with pytest.raises(AirflowFailException) as failed:
        operator.execute(context_of(operator)[0])
    assert str(failed.value).startswith(f"BudgetExceededError: {TEXT} What counts is $1.00")
    assert [request for request in proxy.requests if request.method == "POST"] == []


def test_the_last_run_of_the_task_tells_how_long_its_answers_are(
    source: str, tmp_path: Path, proxy: FaultProxy
) -> None:
    del proxy

    def estimate_of_run(output: Path, earlier: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        operator = LLMBatchRunOperator(
            task_id="run",
            source=source,
            output=str(output),
            max_cost_usd=1,
            deferrable=False,
            min_poll_interval=0.02,
            **ASKED,
        )
        context, instance = context_of(operator, TaskInstance(task_id="run", run_id=output.name, earlier_xcoms=earlier))
        operator.execute(context)
        [model] = json.loads((output / "manifest.json").read_text())["estimate"]["models"]
        return model, instance.xcoms

    first, told = estimate_of_run(tmp_path / "monday", {})
    second, _ = estimate_of_run(tmp_path / "tuesday", told)
    assert first["output_tokens"]["likely"] == 200
    used = told["usage"]["output_tokens"]
    assert (second["calibration"]["rows"], second["output_tokens"]["likely"]) == (4, used)
