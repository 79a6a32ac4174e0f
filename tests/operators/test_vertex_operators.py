"""The operators on Vertex AI: the same DAG with another connection, on the real face beside a real bucket."""

from __future__ import annotations

import asyncio
import json
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred
from structlog.testing import capture_logs
from support.fault_proxy import Answer, fault_proxy
from support.task import TaskInstance, adapters_closed, context_of
from support.vertex import BUCKET

from airflow_provider_llmbatch.hooks.batch import LLMBatchHook
from airflow_provider_llmbatch.operators.batch import (
    LLMBatchCancelBatchOperator,
    LLMBatchCreateBatchOperator,
    LLMBatchDownloadResultsOperator,
    LLMBatchListBatchesOperator,
    LLMBatchRetrieveBatchOperator,
)
from airflow_provider_llmbatch.operators.file import (
    LLMBatchCreateFileOperator,
    LLMBatchDeleteFileOperator,
    LLMBatchDownloadFileOperator,
)
from airflow_provider_llmbatch.operators.run import LLMBatchRunOperator
from airflow_provider_llmbatch.sensors.batch import LLMBatchSensor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airflow.sdk import BaseOperator
    from airflow.triggers.base import BaseTrigger, TriggerEvent
    from support.fault_proxy import FaultProxy
    from support.gcs import RunningStorage
    from support.server import RunningServer

POLLING = {"min_poll_interval": 0.02, "max_poll_interval": 0.05}


@pytest.fixture(autouse=True)
def proxy(vertex_server: RunningServer, gcs: RunningStorage, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """The default connection leads through it to the face."""
    with adapters_closed(monkeypatch), fault_proxy(vertex_server.url) as proxy:
        extra = {
            "project": "analytics",
            "location": "us-central1",
            "bucket": f"gs://{BUCKET}/operators",
            "keyfile_path": str(vertex_server.data_dir / "service-account.json"),
            "storage_url": gcs.url,
            "listing_lag": 0,
        }
        connection = {"conn_type": "llmbatch_vertex", "host": proxy.url, "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_LLMBATCH_DEFAULT", json.dumps(connection))
        yield proxy


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "reviews.jsonl"
    path.write_text("".join(f"{line(f'Row {n}')}\n" for n in range(3)))
    return path


def line(custom_id: str, **more: object) -> str:
    body = {"model": "echo", "messages": [{"role": "user", "content": f"say {custom_id}"}], **more}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body})


def run(task: BaseOperator) -> tuple[Any, dict[str, Any]]:
    context, instance = context_of(task, TaskInstance(task_id=task.task_id, run_id=uuid.uuid4().hex))
    return task.execute(context), instance.xcoms


def created_file(source: Path) -> str:
    file_id, _ = run(LLMBatchCreateFileOperator(task_id="upload", source=str(source)))
    return str(file_id)


def batch_of(file_id: str, **more: Any) -> tuple[Any, dict[str, Any]]:
    return run(LLMBatchCreateBatchOperator(task_id="batch", input_file_id=file_id, **{**POLLING, **more}))


def test_from_a_file_of_openais_lines_to_results_of_openais(source: Path, tmp_path: Path) -> None:
    file_id = created_file(source)
    batch_id, xcoms = batch_of(file_id, deferrable=False, metadata={"team": "search"})
    destination = tmp_path / "results.jsonl"
    run(LLMBatchDownloadResultsOperator(task_id="land", batch_id=batch_id, destination=str(destination)))
    landed = {row["custom_id"]: row for row in map(json.loads, destination.read_text().splitlines())}
    said = {
        row: (found["outcome"], found["response"]["body"]["choices"][0]["message"]["content"], found["error"])
        for row, found in landed.items()
    }
    assert said == {f"Row {n}": ("succeeded", f"say Row {n}", None) for n in range(3)}
    batch = LLMBatchHook().retrieve_batch(batch_id)
    assert xcoms == {"batch_id": batch_id, "output_file_id": batch.output_file_id, "error_file_id": None}
    assert (batch.metadata or {})["team"] == "search"


def test_a_whole_run_makes_one_batch_for_each_part_and_publishes_every_row(tmp_path: Path) -> None:
    source, output = tmp_path / "reviews.jsonl", tmp_path / "labels"
    source.write_text("".join(json.dumps({"id": f"Row {n}", "text": f"row {n}"}) + "\n" for n in range(5)))
    before = {batch.id for batch in LLMBatchHook().list_batches()}
    returned, _ = run(
        LLMBatchRunOperator(
            task_id="label",
            source=str(source),
            prompt="say {text}",
            model="echo",
            key="id",
            output=str(output),
            max_rows_per_batch=2,
            deferrable=False,
            **POLLING,
        )
    )
    manifest = json.loads((output / "manifest.json").read_text())
    rows = [json.loads(row) for part in manifest["parts"] for row in (output / part["uri"]).read_text().splitlines()]
    assert [(row["key"], row["outcome"], row["text"]) for row in rows] == [
        (f"Row {n}", "succeeded", f"say row {n}") for n in range(5)
    ]
    made = {batch.id for batch in LLMBatchHook().list_batches()} - before
    assert (len(made), {row["batch_id"] for row in rows}) == (3, made)
    assert (returned["rows"], returned["outcomes"]["succeeded"]) == (5, 5)


def test_what_gemini_cannot_do_ends_a_run_before_anything_is_uploaded(tmp_path: Path) -> None:
    source = tmp_path / "reviews.jsonl"
    source.write_text('{"id": 1, "text": "row"}\n')
    before = {batch.id for batch in LLMBatchHook().list_batches()}
    task = LLMBatchRunOperator(
        task_id="label",
        source=str(source),
        prompt="say {text}",
        model="echo",
        parameters={"logit_bias": {"50256": -100}},
        output=str(tmp_path / "labels"),
        deferrable=False,
    )
    with pytest.raises(AirflowFailException, match="logit_bias") as refused:
        run(task)
    assert "Nothing was uploaded or billed" in str(refused.value)
    assert {batch.id for batch in LLMBatchHook().list_batches()} == before


def first_event(trigger: BaseTrigger) -> TriggerEvent:
    async def fired() -> TriggerEvent:
        return await anext(trigger.run())  # type: ignore[arg-type]

    return asyncio.run(fired())


@pytest.mark.parametrize("kind", ["batch", "sensor"])
def test_a_deferred_wait_ends_with_the_job_and_resumes(source: Path, kind: str, proxy: FaultProxy) -> None:
    file_id = created_file(source)
    task: LLMBatchCreateBatchOperator | LLMBatchSensor
    if kind == "batch":
        task = LLMBatchCreateBatchOperator(task_id="wait", input_file_id=file_id, deferrable=True, **POLLING)
    else:
        batch_id, _ = batch_of(file_id, wait=False)
        running = {"name": batch_id, "state": "JOB_STATE_RUNNING", "createTime": datetime.now(UTC).isoformat()}
        proxy.rule("GET", batch_id, Answer(200, json.dumps(running).encode()))
        task = LLMBatchSensor(task_id="wait", batch_id=batch_id, deferrable=True, **POLLING)
    context, instance = context_of(task, TaskInstance(task_id="wait", run_id=uuid.uuid4().hex))
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(context)
    event = first_event(deferred.value.trigger).payload
    assert event["status"] == "ended"
    if kind == "batch":  # 96 h of the provider's worst case, and one more
        created = LLMBatchHook().retrieve_batch(event["batch_id"]).created_at or 0
        assert event["deadline"] == created + 97 * 3600
    assert task.execute_complete(context, event) == event["batch_id"]
    assert str(instance.xcoms["output_file_id"]).startswith(f"gs://{BUCKET}/operators/batches/")


def test_the_single_steps_do_what_they_do_elsewhere(source: Path, tmp_path: Path) -> None:
    file_id = created_file(source)
    batch_id, _ = batch_of(file_id, wait=False)
    found, _ = run(LLMBatchRetrieveBatchOperator(task_id="look", batch_id=batch_id))
    assert json.loads(json.dumps(found)) == found
    assert (found["id"], found["input_file_id"], found["model"]) == (batch_id, file_id, "echo")
    listed, _ = run(LLMBatchListBatchesOperator(task_id="list", limit=1))
    assert [batch["id"] for batch in listed] == [batch_id]
    cancelled, _ = run(LLMBatchCancelBatchOperator(task_id="cancel", batch_id=batch_id))
    assert cancelled["status"] in ("cancelling", "cancelled", "completed")
    run(LLMBatchDownloadFileOperator(task_id="get", file_id=file_id, destination=str(tmp_path / "stored.jsonl")))
    labels = [json.loads(row)["request"]["labels"] for row in (tmp_path / "stored.jsonl").read_text().splitlines()]
    assert [set(row) for row in labels] == [{"llmbatch_id_0"}] * 3
    assert run(LLMBatchDeleteFileOperator(task_id="delete", file_id=file_id))[0] == file_id
    with pytest.raises(AirflowFailException, match="NotFoundError"):
        run(LLMBatchDeleteFileOperator(task_id="delete", file_id=file_id))


def test_what_gemini_cannot_do_fails_the_upload_with_line_and_parameter(source: Path, proxy: FaultProxy) -> None:
    source.write_text(f"{line('a')}\n{line('b', logit_bias={'1': 2})}\n")
    with pytest.raises(AirflowFailException) as refused:
        created_file(source)
    assert str(refused.value) == (
        f'BatchInputError: Line 2 of {source} has "logit_bias", which Gemini cannot do; list "logit_bias" in the '
        "connection's drop_params to leave it out. Nothing was uploaded or billed. A retry would find the same: mend "
        "the input."
    )
    assert proxy.requests == []


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [({"Team": "search"}, "'Team' cannot be the name of a label"), ({"a": "x y"}, "the value of 'a' cannot be")],
)
def test_metadata_that_cannot_be_labels_fail_the_task_before_anything_is_created(
    metadata: dict[str, str], problem: str, proxy: FaultProxy
) -> None:
    with pytest.raises(AirflowFailException, match=problem):
        batch_of("gs://bucket/in.jsonl", metadata=metadata)
    assert proxy.requests == []


def test_a_job_that_partially_succeeded_is_completed_and_says_what_it_lacks(proxy: FaultProxy) -> None:
    name = "projects/1/locations/us-central1/batchPredictionJobs/6"
    job = {
        "name": name,
        "state": "JOB_STATE_PARTIALLY_SUCCEEDED",
        "completionStats": {"successfulCount": "8", "failedCount": "1"},
        "partialFailures": [{"code": 13, "message": "1 prediction could not be written."}],
        "outputInfo": {"gcsOutputDirectory": "gs://b/out/prediction-model-1"},
    }
    proxy.rule("GET", "/6$", Answer(200, json.dumps(job).encode()), times=None)
    with capture_logs() as lines:
        task = LLMBatchSensor(task_id="wait", batch_id=name, deferrable=True)
        assert run(task) == (name, {"output_file_id": "gs://b/out/prediction-model-1/", "error_file_id": None})
    warned = [entry["event"] for entry in lines if entry["log_level"] == "warning"]
    assert warned[-2:] == [  # before them may stand Airflow's own about a task outside of its runner
        (
            f"{name} is completed, but not whole: INTERNAL: 1 prediction could not be written. Requests without a "
            "result count as missing"
        ),
        (
            "1 of 9 requests failed: their reasons are in gs://b/out/prediction-model-1/, and in what "
            "LLMBatchDownloadResultsOperator lands"
        ),
    ]


def test_a_job_that_failed_says_why_and_what_to_do(proxy: FaultProxy) -> None:
    name = "projects/1/locations/us-central1/batchPredictionJobs/5"
    error = {"code": 7, "message": "The service agent cannot read gs://bucket/in.jsonl."}
    job = {"name": name, "state": "JOB_STATE_FAILED", "error": error, "createTime": "2026-11-24T01:00:00Z"}
    proxy.rule("GET", "/5$", Answer(200, json.dumps(job).encode()), times=None)
    with pytest.raises(AirflowFailException) as failed:
        run(LLMBatchSensor(task_id="wait", batch_id=name, deferrable=False))
    assert str(failed.value) == (
        f"BatchFailedError: Vertex AI refused {name} before running it: PERMISSION_DENIED: The service agent cannot "
        "read gs://bucket/in.jsonl. Nothing was billed. A retry would end the same: see that the provider's service "
        "agent may read the input and write the output, that both are in a place that it allows, and that the model "
        "is offered there; then clear this task, which makes a new batch of the same file."
    )
