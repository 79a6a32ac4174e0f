"""The whole job in one task: what goes in, what comes out, what a second try finds, and what Airflow gets to see."""

from __future__ import annotations

import copy
import json
import os
import pickle
import signal
import sqlite3
import sys
import threading
import time
import uuid
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
import structlog
from airflow.sdk import ObjectStoragePath
from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskDeferred
from airflow.sdk.execution_time import task_runner
from pydantic import BaseModel
from structlog.testing import capture_logs
from support.fault_proxy import Answer, FaultProxy
from support.task import HAS_STATE_STORE, ApiServer, TaskInstance, connect, context_of

from airflow_provider_llmbatch.adapters.openai import OpenAIAdapter
from airflow_provider_llmbatch.core.run.run import Waiting
from airflow_provider_llmbatch.errors import LedgerError, UnavailableError
from airflow_provider_llmbatch.hooks.batch import LLMBatchHook
from airflow_provider_llmbatch.operators.run import LLMBatchRunOperator
from airflow_provider_llmbatch.operators.run_log import tell_wait
from airflow_provider_llmbatch.triggers.run import RunEvent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow.sdk import Context
    from support.gated_server import GatedServer

    from airflow_provider_llmbatch.models import Batch, File

ENDED = RunEvent(status="ended", error=None)
PROMPT = "Say it again: {text}"


class Sentiment(BaseModel):
    sentiment: Literal["positive", "negative"]


@pytest.fixture
def source(tmp_path: Path) -> str:
    path = tmp_path / "reviews.jsonl"
    path.write_text("".join(json.dumps({"id": n, "text": f"secret text {n}"}) + "\n" for n in range(4)))
    return str(path)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def operator(source: str, output: Path, proxy: FaultProxy) -> Any:
    """The operator with what every test wants, and what one wants besides."""
    del proxy

    def make(**more: Any) -> LLMBatchRunOperator:
        given = {
            "source": source,
            "output": str(output),
            "prompt": PROMPT,
            "model": "echo",
            "key": "id",
            "deferrable": True,
            "min_poll_interval": 0.02,
            "max_poll_interval": 0.05,
        }
        return LLMBatchRunOperator(task_id="classify", **{**given, **more})

    return make


def first_try(task: LLMBatchRunOperator) -> tuple[Context, TaskInstance]:
    return context_of(task, TaskInstance(task_id=task.task_id, run_id=str(uuid.uuid4())))


def deferred_by(call: Any, *args: Any) -> TaskDeferred:
    with pytest.raises(TaskDeferred) as deferred:
        call(*args)
    return deferred.value


def batch_ids() -> list[str]:
    return [batch.id for batch in LLMBatchHook().list_batches()]


def all_ended() -> None:
    hook = LLMBatchHook()
    for _ in range(500):
        if all(batch.is_terminal for batch in hook.list_batches()):
            return
        time.sleep(0.01)
    raise AssertionError("the batches did not end")


def rows_of(output: Path) -> list[dict[str, Any]]:
    manifest = json.loads((output / "manifest.json").read_text())
    parts = [(output / part["uri"]).read_text() for part in manifest["parts"]]
    return [json.loads(line) for text in parts for line in text.splitlines()]


def test_it_defers_with_ids_and_moments_and_nothing_of_prompts_rows_or_keys(operator: Any, server: GatedServer) -> None:
    task = operator(max_rows_per_batch=2, deadline=timedelta(hours=2))
    context, instance = first_try(task)
    before = int(time.time())
    deferred = deferred_by(task.execute, context)
    name, kwargs = deferred.trigger.serialize()
    deadline = kwargs.pop("deadline")
    assert before + 7_200 <= deadline <= time.time() + 7_201
    assert (name, deferred.method_name, deferred.kwargs) == (
        "airflow_provider_llmbatch.triggers.run.LLMBatchRunTrigger",
        "execute_complete",
        None,
    )
    assert sorted(kwargs.pop("batch_ids")) == sorted(batch_ids())
    assert kwargs == {
        "llmbatch_conn_id": "llmbatch_default",
        "resubmit_at": None,
        "any_end": False,
        "min_poll_interval": 0.02,
        "max_poll_interval": 0.05,
        "cancel_on_kill": True,
    }
    shown = repr(deferred) + repr(kwargs) + repr(instance.xcoms)
    assert [text for text in (server.api_key, "secret text", "Say it again") if text in shown] == []


def test_woken_it_publishes_one_row_for_each_of_the_input_and_tells_where(
    operator: Any, server: GatedServer, output: Path, proxy: FaultProxy
) -> None:
    task = operator(max_rows_per_batch=3)
    context, instance = first_try(task)
    deferred_by(task.execute, context)
    server.let_pass(4)
    all_ended()
    returned = task.execute_complete(context, ENDED)
    usage, costs = returned.pop("usage"), returned.pop("costs")
    assert returned == {"rows": 4, "outcomes": {"succeeded": 4}, "manifest": f"{output}/manifest.json"}
    uri = f"{output}/manifest.json"
    assert instance.xcoms == {"outcomes": {"succeeded": 4}, "usage": usage, "costs": costs, "manifest": uri}
    assert (costs["total_usd"], costs["unpriced_rows"]) == (None, 4)  # a server of one's own: nobody publishes prices
    assert usage["total_tokens"] > 0
    rows = [{name: row[name] for name in ("key", "input", "outcome", "text")} for row in rows_of(output)]
    assert rows == [
        {
            "key": n,
            "input": {"id": n, "text": f"secret text {n}"},
            "outcome": "succeeded",
            "text": f"Say it again: secret text {n}",
        }
        for n in range(4)
    ]
    assert (len(proxy.calls("POST", "/files$")), len(proxy.calls("POST", "/batches$"))) == (2, 2)


def test_on_the_worker_it_does_the_same_without_a_trigger(operator: Any, server: GatedServer, output: Path) -> None:
    server.let_pass(4)
    task = operator(deferrable=False, max_rows_per_batch=2, max_parallel_batches=1)
    returned = task.execute(first_try(task)[0])
    assert (returned["rows"], returned["outcomes"], len(rows_of(output))) == (4, {"succeeded": 4}, 4)


def test_an_answer_that_does_not_fit_the_model_is_invalid_and_what_fits_is_parsed(
    operator: Any, server: GatedServer, output: Path, tmp_path: Path
) -> None:
    answers = ['{"sentiment": "positive"}', '{"sentiment": "neutral"}', "positive"]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in answers))
    server.let_pass(3)
    task = operator(
        source=str(tmp_path / "in.jsonl"), prompt="{text}", key=None, response_format=Sentiment, deferrable=False
    )
    assert task.execute(first_try(task)[0])["outcomes"] == {"succeeded": 1, "invalid": 2}
    assert [(row["outcome"], row["parsed"], row["text"]) for row in rows_of(output)] == [
        ("succeeded", {"sentiment": "positive"}, answers[0]),
        ("invalid", None, answers[1]),
        ("invalid", None, answers[2]),
    ]


def test_parquet_goes_in_and_comes_out_with_only_the_columns_that_are_wanted(
    operator: Any, server: GatedServer, output: Path, tmp_path: Path
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    table = {"id": [7, 8], "text": ["seven", "eight"], "more": ["x", "y"]}
    parquet.write_table(pytest.importorskip("pyarrow").table(table), tmp_path / "in.parquet")
    server.let_pass(2)
    task = operator(source=str(tmp_path / "in.parquet"), columns=["text"], output_format="parquet", deferrable=False)
    assert task.execute(first_try(task)[0])["rows"] == 2
    [part] = json.loads((output / "manifest.json").read_text())["parts"]
    rows = parquet.read_table(output / part["uri"]).to_pylist()
    assert [(json.loads(row["key"]), json.loads(row["input"]), row["outcome"]) for row in rows] == [
        (7, {"text": "seven"}, "succeeded"),
        (8, {"text": "eight"}, "succeeded"),
    ]


class Database:
    """As much of a database's hook as a query takes."""

    def get_conn(self) -> sqlite3.Connection:
        return sqlite3.connect(":memory:")

    def run(self) -> None: ...


def test_the_rows_of_a_query_are_asked_and_its_literals_are_told_nowhere(
    operator: Any, server: GatedServer, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow.sdk.BaseHook.get_hook", lambda conn_id: {"warehouse": Database()}[conn_id])
    server.let_pass(2)
    query = "SELECT 1 AS id, 'secret text' AS text UNION SELECT 2, 'more' ORDER BY id"
    task = operator(source=None, query=query, sql_conn_id="warehouse", deferrable=False, columns=[])
    task.execute(first_try(task)[0])
    assert [(row["key"], row["text"]) for row in rows_of(output)] == [
        (1, "Say it again: secret text"),
        (2, "Say it again: more"),
    ]
    assert "secret text" not in (output / "manifest.json").read_text()


def test_without_a_model_the_connections_is_asked(
    operator: Any, server: GatedServer, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(monkeypatch, proxy.url, server.api_key, model="the-connections-own")
    task = operator(model=None)
    deferred_by(task.execute, first_try(task)[0])
    [file] = LLMBatchHook().list_files(purpose="batch")
    lines = b"".join(LLMBatchHook().file_content(file.id)).splitlines()
    assert {json.loads(line)["body"]["model"] for line in lines} == {"the-connections-own"}


def test_ready_requests_stay_the_same_input_when_the_connection_names_another_model(
    operator: Any, server: GatedServer, proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"model": "echo", "messages": [{"role": "user", "content": "hi"}]}
    line = {"custom_id": "x", "method": "POST", "url": "/v1/chat/completions", "body": body}
    (tmp_path / "ready.jsonl").write_text(json.dumps(line))
    ready = {"source": str(tmp_path / "ready.jsonl"), "prompt": None, "key": None, "model": None}
    context, instance = first_try(operator(**ready))
    deferred_by(operator(**ready).execute, context)
    connect(monkeypatch, proxy.url, server.api_key, model="another")
    instance.try_number = 2
    deferred_by(operator(**ready).execute, context)
    assert len(batch_ids()) == 1


def test_rows_without_an_answer_fail_the_task_if_asked_to_after_the_set_is_published(
    operator: Any, server: GatedServer, output: Path
) -> None:
    task = operator(prompt="{text}", response_format=Sentiment, on_failed_rows="fail", deferrable=False)
    server.let_pass(4)
    context, instance = first_try(task)
    with pytest.raises(AirflowFailException):
        task.execute(context)
    assert (instance.xcoms["outcomes"], len(rows_of(output))) == ({"invalid": 4}, 4)


@pytest.mark.parametrize(("more", "is_quoted"), [({}, False), ({"log_examples": True}, True)])
def test_the_log_quotes_an_error_only_if_asked_to(
    more: dict[str, bool], is_quoted: bool, operator: Any, server: GatedServer
) -> None:
    task = operator(prompt="{text}", response_format=Sentiment, deferrable=False, **more)
    server.let_pass(4)
    with capture_logs() as logs:
        task.execute(first_try(task)[0])
    [told] = [line for line in logs if line.get("count") == 4]
    assert (told["outcome"], told["code"]) == ("invalid", "not_json")
    assert told["event"].startswith("4 invalid (not_json), for example line 1 of data/")
    assert (": $: Invalid JSON" in told["event"]) is is_quoted


@pytest.mark.parametrize("state_store", [True, False], ids=["task state store", "files beside the stage"])
def test_a_retry_finds_its_batches_and_pays_nothing_again(
    state_store: bool, operator: Any, server: GatedServer, proxy: FaultProxy
) -> None:
    if state_store and not HAS_STATE_STORE:
        pytest.skip("Airflow keeps state for tasks from 3.3 on")
    task = operator(max_rows_per_batch=2)
    context, instance = first_try(task)
    if not state_store:
        context.pop("task_state_store", None)  # type: ignore[misc] # as before Airflow 3.3
    first = deferred_by(task.execute, context)
    instance.try_number = 2
    again = deferred_by(operator(max_rows_per_batch=2).execute, context)
    assert sorted(again.trigger.serialize()[1]["batch_ids"]) == sorted(first.trigger.serialize()[1]["batch_ids"])
    server.let_pass(4)
    all_ended()
    assert task.execute_complete(context, ENDED)["outcomes"] == {"succeeded": 4}
    assert len(proxy.calls("POST", "/batches$")) == 2


def test_an_input_that_cannot_be_used_fails_without_a_retry_and_uploads_nothing(
    operator: Any, proxy: FaultProxy
) -> None:
    task = operator(prompt="{headline}")
    with pytest.raises(AirflowFailException, match=r'BatchInputError: .*"headline"'):
        task.execute(first_try(task)[0])
    assert proxy.calls("POST", "") == []


def test_an_outage_is_left_to_airflows_retries(operator: Any, proxy: FaultProxy) -> None:
    proxy.rule("POST", "/files$", Answer(503, b"{}"), times=None)
    task = operator()
    with pytest.raises(UnavailableError):
        task.execute(first_try(task)[0])


def test_a_trigger_that_gave_up_fails_the_task_and_cancels_nothing(operator: Any, proxy: FaultProxy) -> None:
    task = operator()
    context, _ = first_try(task)
    deferred_by(task.execute, context)
    with pytest.raises(AirflowFailException) as failed:
        task.execute_complete(context, RunEvent(status="given_up", error="The key was refused."))
    assert str(failed.value) == (
        "LLMBatchError: The key was refused. No batch was cancelled, and those that had not ended go on. Clear this "
        "task when that is mended: it then waits for the same batches, and nothing is paid again."
    )
    assert proxy.calls("POST", "/cancel$") == []


@pytest.fixture
def sigterm() -> Iterator[threading.Timer]:
    """Kills this process in a moment, as a supervisor does a task's; the task's ``on_kill`` is to handle it."""
    before = signal.getsignal(signal.SIGTERM)
    timer = threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGTERM))
    yield timer
    timer.join()
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("state", "more", "cancelled"),
    [("failed", {}, True), ("running", {}, False), ("failed", {"cancel_on_kill": False}, False)],
    ids=["marked failed", "worker stopped", "switched off"],
)
def test_a_signal_ends_the_wait_on_the_worker_at_once(
    state: str,
    more: dict[str, Any],
    cancelled: bool,
    operator: Any,
    sigterm: threading.Timer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", ApiServer({"run-1": {"classify": state}}), raising=False)
    task = operator(deferrable=False, max_rows_per_batch=2, min_poll_interval=60, max_poll_interval=60, **more)
    context, _ = context_of(task)
    signal.signal(signal.SIGTERM, lambda *_: task.on_kill())
    sigterm.start()
    with pytest.raises(AirflowException, match="The task was killed"):
        task.execute(context)
    statuses = {batch.status for batch in LLMBatchHook().list_batches()}
    assert (statuses <= {"cancelling", "cancelled"}) is cancelled


@pytest.mark.parametrize("deferrable", [True, False], ids=["deferrable", "on the worker"])
def test_killed_while_it_submits_it_submits_no_more_and_cancels_what_it_did(
    deferrable: bool, operator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", ApiServer({"run-1": {"classify": "failed"}}), raising=False)
    task = operator(deferrable=deferrable, max_rows_per_batch=1, min_poll_interval=60, max_poll_interval=60)
    create = OpenAIAdapter.create_batch

    def killed_meanwhile(*args: Any, **kwargs: Any) -> Batch:
        task.on_kill()
        return create(*args, **kwargs)

    monkeypatch.setattr(OpenAIAdapter, "create_batch", killed_meanwhile)
    with pytest.raises(AirflowException, match=r"The task was killed\. The task is failed, so batch_\w+ was cancelled"):
        task.execute(context_of(task)[0])
    [batch] = LLMBatchHook().list_batches()
    assert batch.status in ("cancelling", "cancelled")


@pytest.mark.parametrize(
    ("state", "more", "is_cancelled"),
    [("failed", {}, True), ("running", {}, False), ("failed", {"cancel_on_kill": False}, False)],
    ids=["marked failed", "worker stopped", "switched off"],
)
def test_killed_in_an_upload_that_takes_longer_than_airflow_waits_it_cancels_what_is_under_way(
    state: str, more: dict[str, Any], is_cancelled: bool, operator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", ApiServer({"run-1": {"classify": state}}), raising=False)
    task = operator(max_rows_per_batch=1, **more)
    upload = OpenAIAdapter.create_file
    statuses: list[str] = []

    def endless(*args: Any, **kwargs: Any) -> File:
        batches = list(LLMBatchHook().list_batches())
        if len(batches) < 2:
            return upload(*args, **kwargs)
        task.on_kill()
        time.sleep(1.6)
        statuses.extend(batch.status for batch in LLMBatchHook().list_batches())
        raise SystemExit  # as SIGKILL ends it

    monkeypatch.setattr(OpenAIAdapter, "create_file", endless)
    with pytest.raises(SystemExit):
        task.execute(context_of(task)[0])
    assert len(statuses) == 2
    assert (set(statuses) <= {"cancelling", "cancelled"}) is is_cancelled


def test_what_fails_is_counted_by_its_reason_in_the_log(operator: Any, server: GatedServer) -> None:
    server.let_pass(4)
    task = operator(prompt="{text}", response_format=Sentiment, deferrable=False)
    with capture_logs() as lines:
        task.execute(first_try(task)[0])
    [landed] = [line for line in lines if str(line["event"]).startswith("Landed ")]
    assert (str(landed["event"]).partition(": ")[2], landed["log_level"]) == ("4 invalid (4 not_json)", "warning")


@pytest.mark.parametrize("rows_per_batch", [4, 1], ids=["one part", "four parts"])
def test_the_log_is_in_sight_but_for_the_steps_of_many_parts(
    rows_per_batch: int, operator: Any, server: GatedServer, output: Path
) -> None:
    server.let_pass(4)
    task = operator(deferrable=False, max_rows_per_batch=rows_per_batch)
    with capture_logs() as lines:
        task.execute(first_try(task)[0])
    told = [str(line["event"]) for line in lines]
    folds = [text for text in told if text.startswith("::")]
    fold = ["::group::More files, batches and results", "::endgroup::"]
    assert folds == ([] if rows_per_batch == 4 else fold)
    assert told[-2].startswith("4 rows: 4 succeeded; ")
    assert told[-1] == f"Results: {output}/manifest.json"
    assert "secret text" not in str(lines)


def test_a_wait_tells_how_much_of_the_run_is_done() -> None:
    found = Waiting(("batch_1", "batch_2"), None, 0.0, any_end=True, parts=12, parts_done=7)
    with capture_logs() as lines:
        tell_wait(found, 10, structlog.get_logger())
    [told] = lines
    assert told["event"] == (
        "Waiting for 2 batches, at most until 1970-01-01 00:00 UTC, polling every 10 s at first; 7 of 12 parts are "
        "done; more follow as they end"
    )


def test_prompts_are_not_templates_of_airflow_and_places_are() -> None:
    assert LLMBatchRunOperator.template_fields == (
        "source",
        "query",
        "output_uri",
        "model",
        "max_cost_usd",
        "llmbatch_conn_id",
    )
    task = LLMBatchRunOperator(
        task_id="run",
        source=["in/{{ ds }}.csv"],
        prompt="{{ ds }} {text}",
        output="out/{{ ds }}",
        model="{{ ds }}",
        max_cost_usd="{{ ds[:2] }}",
    )
    task.render_template_fields({"ds": "2026-11-24"})  # type: ignore[typeddict-item] # all that these templates need
    assert (task.source, task.output_uri, task.model) == (["in/2026-11-24.csv"], "out/2026-11-24", "2026-11-24")
    assert task.max_cost_usd == "20"
    assert task.asked.prompt == "{{ ds }} {text}"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "An input is needed"),
        ({"source": "a.csv", "query": "SELECT 1", "sql_conn_id": "db"}, "An input is needed"),
        ({"query": "SELECT 1"}, "sql_conn_id"),
        ({"source": [{"text": "a"}]}, "@task.llmbatch"),
        ({"source": {"text": "a"}}, "@task.llmbatch"),
        ({"source": ["Summarize this", "And this"]}, "@task.llmbatch"),
        ({"source": "Summarize\nthis."}, "@task.llmbatch"),
        ({"source": []}, "empty list"),
        ({"source": "a.csv", "output": ""}, "the URI of a folder as a text"),
        ({"source": "a.csv", "output": Path("/out")}, r"and not PosixPath\('/out'\)"),
        ({"source": "a.csv", "output": ObjectStoragePath("file:///out")}, "and not ObjectStoragePath"),
        ({"source": "a.csv", "max_rows_per_batch": 0}, "max_rows_per_batch"),
        ({"source": "a.csv", "on_failed_rows": 1.5}, "on_failed_rows"),
        ({"source": "a.csv", "min_poll_interval": 400}, "min_poll_interval"),
    ],
)
def test_what_cannot_hold_is_told_while_the_dag_is_read(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LLMBatchRunOperator(**{"task_id": "run", "output": "out", "prompt": "{text}", **given})


def test_data_that_come_through_xcom_are_refused_with_what_to_use_instead(operator: Any, proxy: FaultProxy) -> None:
    task = operator()
    task.source = [{"text": "a"}]
    with pytest.raises(AirflowFailException, match=r"@task\.llmbatch .* Nothing was uploaded or billed"):
        task.execute(first_try(task)[0])
    assert proxy.calls("POST", "") == []


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("out", "The output out is relative to whatever folder a worker runs in"),
        (None, "the URI of a folder as a text"),
        ("{source}", "cannot be written"),
    ],
)
def test_an_output_that_turns_out_to_be_none_fails_before_anything_is_uploaded(
    operator: Any, proxy: FaultProxy, place: str | None, words: str
) -> None:
    task = operator()
    task.output_uri = place and place.format(source=task.source)  # as Airflow rendered it
    context = first_try(task)[0]
    refused: Any = pytest.raises(AirflowFailException, match=f"{words}.* Nothing was uploaded or billed")
    if place == "{source}" and "task_state_store" not in context:
        # Before Airflow 3.3 the ledger lies in the output, and is written first: what keeps it from that may pass.
        refused = pytest.raises(LedgerError, match="could not be written")
    with refused:
        task.execute(context)
    assert proxy.calls("POST", "") == []


def test_without_what_writes_parquet_nothing_is_uploaded(
    operator: Any, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    task = operator(output_format="parquet")
    with pytest.raises(AirflowFailException, match="Parquet needs pyarrow, which is not installed"):
        task.execute(first_try(task)[0])
    assert proxy.calls("POST", "") == []


def test_without_any_model_nothing_is_uploaded(operator: Any, proxy: FaultProxy) -> None:
    task = operator(model=None)
    with pytest.raises(AirflowFailException, match="no model is named: pass model=, or give the connection one"):
        task.execute(first_try(task)[0])
    assert proxy.calls("POST", "") == []


def test_it_can_be_copied_and_pickled_until_it_runs(operator: Any) -> None:
    task = operator(response_format=Sentiment)
    assert copy.deepcopy(task).asked.response_format is Sentiment
    assert pickle.loads(pickle.dumps(task)).asked == task.asked  # noqa: S301 - of our own
