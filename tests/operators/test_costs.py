"""What batches cost, as tasks tell it: of a whole run, and of a single batch."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from structlog.testing import capture_logs
from support.task import connect, context_of

from airflow_provider_llmbatch.errors import BatchInputError, ConnectionSettingsError, StorageError
from airflow_provider_llmbatch.hooks.batch import LLMBatchHook
from airflow_provider_llmbatch.operators.results import LLMBatchRetrieveCostsOperator
from airflow_provider_llmbatch.operators.run import LLMBatchRunOperator

if TYPE_CHECKING:
    from pathlib import Path

    from support.fault_proxy import FaultProxy
    from support.gated_server import GatedServer

RATES = {"batch": {"input": "1", "output": "4"}, "standard": {"input": "2", "output": "8"}}
TABLE = {"source": "ours", "as_of": "2026-07-01", "models": {"echo": RATES}}
REQUESTS = b"".join(
    b'{"custom_id":"%d","method":"POST","url":"/v1/completions","body":{"model":"echo","prompt":"hello you"}}\n' % n
    for n in range(2)
)


def totals(costs: Any) -> tuple[str | None, str | None, int]:
    return costs["total_usd"], costs["standard_usd"], costs["unpriced_rows"]


@pytest.fixture
def priced(server: GatedServer, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> GatedServer:
    connect(monkeypatch, proxy.url, server.api_key, prices=TABLE)
    return server


def ended_batch(server: GatedServer) -> str:
    server.let_pass(2)
    hook = LLMBatchHook()
    batch_id = hook.create_batch(hook.create_file(REQUESTS).id, endpoint="/v1/completions").id
    while not hook.retrieve_batch(batch_id).is_terminal:
        time.sleep(0.01)
    return batch_id


def test_a_run_tells_what_it_cost_to_everybody(priced: GatedServer, tmp_path: Path) -> None:
    priced.let_pass(3)
    source = tmp_path / "in.jsonl"
    source.write_text("".join(f'{{"id": {n}, "text": "one two three"}}\n' for n in range(3)))
    output = tmp_path / "out"
    given: Any = {"source": str(source), "output": str(output), "prompt": "{text}", "model": "echo", "key": "id"}
    task = LLMBatchRunOperator(task_id="ask", deferrable=False, min_poll_interval=0.02, max_rows_per_batch=2, **given)
    context, instance = context_of(task)
    with capture_logs() as logs:
        returned = task.execute(context)
    # Three rows of three words each way: 3 x (3 x 1 + 3 x 4) millionths, and twice that without a batch.
    assert totals(returned["costs"]) == ("0.000045", "0.00009", 0)
    assert instance.xcoms["costs"] == returned["costs"]
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["costs"] == returned["costs"]
    assert [totals(part["costs"]) for part in manifest["parts"]] == [
        ("0.00003", "0.00006", 0),
        ("0.000015", "0.00003", 0),
    ]
    rows = [json.loads(line) for part in manifest["parts"] for line in (output / part["uri"]).read_text().splitlines()]
    assert [row["cost_usd"] for row in rows] == [0.000015] * 3
    bill = json.loads((output / manifest["costs_uri"]).read_text())
    assert [each["costs"]["total_usd"] for each in bill["batches"]] == ["0.00003", "0.000015"]
    [said] = [log["event"] for log in logs if log["event"].startswith("3 rows: ")]
    assert said == "3 rows: 3 succeeded; 9 tokens in, 9 out; $0.000045 (without a batch $0.000090)"


def test_what_is_not_known_is_warned_of_once_for_each_model(
    server: GatedServer, proxy: FaultProxy, tmp_path: Path
) -> None:
    del proxy
    server.let_pass(2)
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "a"}\n{"text": "b"}\n')
    given: Any = {"source": str(source), "output": str(tmp_path / "out"), "prompt": "{text}", "model": "echo"}
    task = LLMBatchRunOperator(task_id="ask", deferrable=False, min_poll_interval=0.02, max_rows_per_batch=1, **given)
    with capture_logs() as logs:
        returned = task.execute(context_of(task)[0])
    [warning] = [log["event"] for log in logs if " is not known: " in log["event"]]
    assert warning.startswith("What 2 answers of echo cost is not known: no price of that model is.")
    assert totals(returned["costs"]) == (None, None, 2)


def test_the_costs_of_a_single_batch(priced: GatedServer) -> None:
    batch_id = ended_batch(priced)
    task = LLMBatchRetrieveCostsOperator(task_id="bill", batch_id=batch_id)
    with capture_logs() as logs:
        costs = task.execute(context_of(task)[0])
    assert totals(costs) == ("0.00002", "0.00004", 0)
    assert [log["event"] for log in logs if "$" in log["event"]] == [
        "echo: 2 answers, $0.000020 (without a batch $0.000040)",
        f"{batch_id}: $0.000020 (without a batch $0.000040)",
    ]
    assert LLMBatchHook().batch_cost(batch_id).model_dump(mode="json") == costs


def test_a_batch_whose_results_are_gone_is_billed_by_its_own_sum(priced: GatedServer) -> None:
    hook = LLMBatchHook()
    batch = hook.retrieve_batch(ended_batch(priced))
    whole = hook.batch_cost(batch)
    assert batch.output_file_id is not None
    hook.delete_file(batch.output_file_id)
    gone = hook.batch_cost(batch)
    assert (gone.total_usd, gone.models[0].rows) == (whole.total_usd, 2)


def test_a_batch_that_runs_has_no_bill_yet(priced: GatedServer) -> None:
    del priced
    hook = LLMBatchHook()
    batch_id = hook.create_batch(hook.create_file(REQUESTS).id, endpoint="/v1/completions").id
    with pytest.raises(BatchInputError, match="what it costs is known when it has ended"):
        hook.batch_cost(batch_id)
    task = LLMBatchRetrieveCostsOperator(task_id="bill", batch_id=batch_id)
    with pytest.raises(AirflowFailException):
        task.execute(context_of(task)[0])


@pytest.mark.parametrize(
    ("extra", "error", "problem"),
    [
        ({"prices": {"models": {"echo": {}}}}, ConnectionSettingsError, "models.echo: "),
        ({"prices": "{", "x": 1}, ConnectionSettingsError, "prices"),
        ({"prices_file": "FILE/missing.json"}, ConnectionSettingsError, "is not there"),
        ({"prices_file": "FILE"}, StorageError, "a retry reads it again"),
        ({"prices_file": "FILE/p.json", "prices": TABLE}, ConnectionSettingsError, "both prices and prices_file"),
    ],
)
def test_a_table_that_cannot_be_used_is_told_before_anything_is_sent(
    extra: dict[str, Any],
    error: type[Exception],
    problem: str,
    server: GatedServer,
    proxy: FaultProxy,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    here = {name: str(tmp_path) + given[4:] if name == "prices_file" else given for name, given in extra.items()}
    connect(monkeypatch, proxy.url, server.api_key, **here)
    with pytest.raises(error) as told:
        _ = LLMBatchHook().prices
    assert problem in str(told.value)
    assert proxy.calls("GET", "") == proxy.calls("POST", "") == []


def test_a_table_may_lie_in_a_file(
    server: GatedServer, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "prices.json"
    path.write_text(json.dumps(TABLE))
    for location in (str(path), path.as_uri()):
        connect(monkeypatch, proxy.url, server.api_key, prices_file=location)
        found = LLMBatchHook().prices.of("echo", 0)
        assert found is not None
        assert found.batch is not None
        assert found.batch.source == "ours"
