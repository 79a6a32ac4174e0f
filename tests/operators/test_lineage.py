"""What Airflow's lineage gets to know of a task, through the components that ask for it: OpenLineage, hooks, assets."""

from __future__ import annotations

import json
import sqlite3
import uuid
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from airflow.providers.common.sql.hooks.sql import DbApiHook
from airflow.providers.openlineage.extractors.manager import ExtractorManager
from airflow.providers.openlineage.sqlparser import DatabaseInfo
from airflow.sdk import Asset, AssetAlias, lineage
from airflow.sdk.exceptions import AirflowFailException
from airflow.sdk.execution_time.context import OutletEventAccessors
from openlineage.client.serde import Serde
from structlog.testing import capture_logs
from support.fault_proxy import Answer, FaultProxy
from support.object_storage import airflow_memory
from support.task import TaskInstance, connect, context_of

from airflow_provider_llmbatch.hooks.batch import LLMBatchHook
from airflow_provider_llmbatch.operators.batch import LLMBatchCreateBatchOperator, LLMBatchDownloadResultsOperator
from airflow_provider_llmbatch.operators.file import LLMBatchCreateFileOperator, LLMBatchDownloadFileOperator
from airflow_provider_llmbatch.operators.run import LLMBatchRunOperator
from airflow_provider_llmbatch.sensors.batch import LLMBatchSensor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airflow.models.connection import Connection
    from airflow.sdk import BaseOperator, Context
    from support.gated_server import GatedServer

Json = dict[str, Any]
FAST: Json = {"deferrable": False, "min_poll_interval": 0.02, "max_poll_interval": 0.05}
SHAPE = {"type": "object", "required": ["x"]}
SCHEMA = json.loads(files("airflow_provider_llmbatch").joinpath("operators/LLMBatchRunFacet.json").read_text())


def told(task: BaseOperator, state: str) -> Json:
    """What OpenLineage's provider sends of a task, as JSON, without the fields that each facet has."""

    class Run:
        run_id = "run-1"

    found = ExtractorManager().extract_metadata(Run(), task, state, TaskInstance(task_id=task.task_id))
    sent: Json = json.loads(
        Serde.to_json(found),
        object_hook=lambda obj: {name: value for name, value in obj.items() if name != "_producer"},
    )
    facet = sent["run_facets"].get("llmbatch")
    if facet is not None:
        [_, ours] = SCHEMA["$defs"]["LLMBatchRunFacet"]["allOf"]
        jsonschema.Draft202012Validator(ours).validate(facet)
        assert set(facet) - {"_schemaURL"} <= set(ours["properties"])
        assert facet.pop("_schemaURL") == f"{SCHEMA['$id']}#/$defs/LLMBatchRunFacet"
    return sent


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "{\\"x\\": 1}"}\n{"text": "secret text"}\n')
    return path


@pytest.fixture
def run(
    source: Path, tmp_path: Path, proxy: FaultProxy, server: GatedServer, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., LLMBatchRunOperator]:
    """A run of two rows, whose answers the server gives at once, and whose tokens cost a dollar each."""
    dear = {"batch": {"input": 1_000_000, "output": 1_000_000}}
    connect(monkeypatch, proxy.url, server.api_key, prices={"models": {"echo": dear}})
    server.let_pass(4)

    def make(**more: Any) -> LLMBatchRunOperator:
        given: Json = {"source": str(source), "prompt": "{text}", "model": "echo", "output": f"{tmp_path}/out"}
        return LLMBatchRunOperator(task_id="classify", **{**given, **FAST, **more})

    return make


def context(task: BaseOperator, **more: Any) -> Context:
    made, _ = context_of(task, TaskInstance(task_id=task.task_id, run_id=str(uuid.uuid4())))
    made.update(more)  # type: ignore[typeddict-item]
    return made


def statistics(kind: str, rows: int | None, size: int, files: int = 1) -> Json:
    facet = f"{kind}Statistics"
    return {f"{kind}Facets": {facet: {"rowCount": rows, "size": size, "fileCount": files}}}


def plain(dataset: Json) -> Json:
    """A dataset without the URLs of its schemas, and without facets that are empty."""

    def bare(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: bare(each) for name, each in value.items() if name != "_schemaURL" and each not in ({}, None)}
        return value

    return dict(bare(dataset))


def test_a_run_tells_what_it_reads_and_writes_at_its_start_and_what_came_of_it_at_its_end(
    run: Callable[..., LLMBatchRunOperator], source: Path, tmp_path: Path, server: GatedServer
) -> None:
    task = run(response_format=SHAPE, max_rows_per_batch=1)
    size = source.stat().st_size
    start = told(task, "running")
    assert [plain(each) for each in start["inputs"]] == [
        {"namespace": "file", "name": str(source), "inputFacets": {"inputStatistics": {"size": size, "fileCount": 1}}}
    ]
    assert [plain(each) for each in start["outputs"]] == [{"namespace": "file", "name": f"{tmp_path}/out"}]
    assert plain(start["run_facets"]["llmbatch"]) == {
        "endpoint": "/v1/chat/completions",
        "requestedModel": "echo",
        "models": [],
        "batchIds": [],
    }
    task.execute(context(task))
    end = told(task, "success")
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert [plain(each) for each in end["inputs"]] == [
        {"namespace": "file", "name": str(source), **statistics("input", 2, size)}
    ]
    assert [plain(each) for each in end["outputs"]] == [
        {
            "namespace": "file",
            "name": f"{tmp_path}/out",
            "facets": {
                "storage": {"storageLayer": "file", "fileFormat": "json"},
                "version": {"datasetVersion": manifest["publish_id"]},
            },
            **statistics("output", 2, sum(part["bytes"] for part in manifest["parts"]), 2),
        }
    ]
    assert plain(end["run_facets"]["llmbatch"]) == {
        "provider": "openai",
        "endpoint": "/v1/chat/completions",
        "requestedModel": "echo",
        "models": ["echo"],
        "batches": 2,
        "batchIds": [attempt["batch_id"] for part in manifest["parts"] for attempt in part["attempts"]],
        "rows": 2,
        "outcomes": {"succeeded": 1, "invalid": 1},
        "reasons": {"not_json": 1},
        "inputTokens": manifest["usage"]["input_tokens"],
        "outputTokens": manifest["usage"]["output_tokens"],
        "costUsd": manifest["usage"]["total_tokens"],
        "manifest": f"{tmp_path}/out/manifest.json",
    }
    assert [word for word in (server.api_key, "secret text") if word in json.dumps([start, end])] == []


def test_a_run_that_fails_after_it_published_tells_of_the_set_and_one_before_of_what_it_knows(
    run: Callable[..., LLMBatchRunOperator], tmp_path: Path, server: GatedServer
) -> None:
    task = run(response_format=SHAPE, on_failed_rows="fail")
    with pytest.raises(AirflowFailException):
        task.execute(context(task))
    failed = told(task, "failed")
    assert failed["run_facets"]["llmbatch"]["outcomes"] == {"succeeded": 1, "invalid": 1}
    assert failed["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == 2
    bad = run(source=[f"{tmp_path}/gone.csv", "s3://conn_id@bucket/more.csv"], output="gs://me@bucket/out/")
    start = told(bad, "failed")
    assert [(each["namespace"], each["name"]) for each in start["inputs"] + start["outputs"]] == [
        ("file", f"{tmp_path}/gone.csv"),
        ("s3://bucket", "more.csv"),
        ("gs://bucket", "out"),
    ]
    assert server.api_key not in json.dumps([failed, start])


class Warehouse(DbApiHook):
    """A database's hook, as far as OpenLineage asks it."""

    conn_name_attr = "conn_id"
    default_conn_name = "warehouse"

    def get_conn(self) -> sqlite3.Connection:
        connection = sqlite3.connect(":memory:")
        connection.execute("CREATE TABLE reviews (text)")
        connection.execute("INSERT INTO reviews VALUES ('good'), ('bad')")
        return connection

    def get_openlineage_database_info(self, connection: Connection) -> DatabaseInfo:
        del connection
        return DatabaseInfo(
            scheme="postgres", authority="db:5432", database="prod", is_information_schema_cross_db=False
        )

    def get_openlineage_database_dialect(self, connection: Connection) -> str:
        del connection
        return "postgres"

    def get_openlineage_default_schema(self) -> str:
        return "public"


@pytest.mark.parametrize("known", [True, False], ids=["a database that tells its tables", "one out of reach"])
def test_a_run_of_a_query_tells_the_query_and_the_tables_that_it_reads(
    known: bool, run: Callable[..., LLMBatchRunOperator], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", '{"conn_type": "generic", "password": "hunter2"}')
    monkeypatch.setattr("airflow.sdk.BaseHook.get_hook", lambda conn_id: Warehouse() if known else {}[conn_id])
    task = run(source=None, query="SELECT text FROM reviews;", sql_conn_id="warehouse")
    sent = told(task, "running")
    assert sent["job_facets"]["sql"]["query"] == "SELECT text FROM reviews"
    assert [(each["namespace"], each["name"]) for each in sent["inputs"]] == (
        [("postgres://db:5432", "prod.public.reviews")] if known else []
    )
    assert "hunter2" not in json.dumps(sent)


def test_file_batch_and_download_are_one_chain_of_datasets(
    tmp_path: Path, proxy: FaultProxy, server: GatedServer
) -> None:
    del proxy
    body = {"model": "m", "messages": [{"role": "user", "content": "secret text"}]}
    line = {"method": "POST", "url": "/v1/chat/completions", "body": body}
    text = "".join(json.dumps({"custom_id": f"r-{n}", **line}) + "\n" for n in range(2))
    (tmp_path / "in.jsonl").write_text(text)
    server.let_pass(2)
    upload = LLMBatchCreateFileOperator(task_id="upload", source=f"{tmp_path}/in.jsonl")
    file_id = upload.execute(context(upload))
    create = LLMBatchCreateBatchOperator(task_id="create", input_file_id=file_id, **FAST)
    batch_id = create.execute(context(create))
    sensor = LLMBatchSensor(task_id="wait", batch_id=batch_id, deferrable=True)
    sensor.execute(context(sensor))
    land = LLMBatchDownloadResultsOperator(task_id="land", batch_id=batch_id, destination=f"{tmp_path}/out.jsonl")
    land.execute(context(land))
    output_id = str(LLMBatchHook().retrieve_batch(batch_id).output_file_id)
    get = LLMBatchDownloadFileOperator(task_id="get", file_id=output_id, destination=f"{tmp_path}/raw.jsonl")
    get.execute(context(get))
    sent = {task.task_id: told(task, "success") for task in (upload, create, sensor, land, get)}
    ends = {
        name: [[plain(each) for each in facets[side]] for side in ("inputs", "outputs")]
        for name, facets in sent.items()
    }
    uploaded, produced = ({"namespace": "openai", "name": each} for each in (file_id, output_id))
    landed, raw = ((tmp_path / name).stat().st_size for name in ("out.jsonl", "raw.jsonl"))
    assert ends == {
        "upload": [
            [{"namespace": "file", "name": f"{tmp_path}/in.jsonl", **statistics("input", 2, len(text))}],
            [uploaded],
        ],
        "create": [[uploaded], [produced]],
        "wait": [[uploaded], [produced]],
        "land": [
            [produced],
            [{"namespace": "file", "name": f"{tmp_path}/out.jsonl", **statistics("output", 2, landed)}],
        ],
        "get": [
            [produced],
            [
                {
                    "namespace": "file",
                    "name": f"{tmp_path}/raw.jsonl",
                    "outputFacets": {"outputStatistics": {"size": raw, "fileCount": 1}},
                }
            ],
        ],
    }
    facets = {name: plain(each["run_facets"].get("llmbatch", {})) for name, each in sent.items()}
    assert {name: facet.get("rows") for name, facet in facets.items()} == {
        "upload": 2,
        "create": 2,
        "wait": 2,
        "land": 2,
        "get": None,
    }
    assert facets["create"]["batchIds"] == facets["land"]["batchIds"] == [batch_id]
    assert [word for word in (server.api_key, "secret text") if word in json.dumps(sent)] == []


# The lineage of hooks.


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> lineage.HookLineageCollector:
    """As Airflow makes it when a plugin reads the lineage of hooks."""
    collector = lineage.HookLineageCollector()
    monkeypatch.setattr("airflow.sdk.lineage.get_hook_lineage_collector", lambda: collector)
    return collector


def test_hooks_tell_what_was_read_and_written_and_nothing_of_a_runs_own_files(
    run: Callable[..., LLMBatchRunOperator], collector: lineage.HookLineageCollector, source: Path
) -> None:
    with airflow_memory() as bucket:
        task = run(output=f"{bucket}/out", max_rows_per_batch=1)
        task.execute(context(task))
        LLMBatchHook().create_file(str(source), purpose="user_data")
        with source.open("rb") as stream:
            LLMBatchHook().create_file(stream, purpose="user_data")
    seen = collector.collected_assets
    assert [each.asset.uri for each in seen.inputs] == [f"file://{source}"] * 2
    assert [each.asset.uri for each in seen.outputs] == [f"{bucket}/out"]


def test_lineage_that_cannot_be_told_fails_no_task(
    run: Callable[..., LLMBatchRunOperator], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow.sdk.lineage.get_hook_lineage_collector", lambda: None)
    task = run()
    assert task.execute(context(task))["rows"] == 2


# Asset events.


def test_the_events_of_every_outlet_hold_counts_and_the_manifest_and_an_alias_gets_the_place(
    run: Callable[..., LLMBatchRunOperator], tmp_path: Path
) -> None:
    asset, alias, ref = Asset("labelled"), AssetAlias("sets"), Asset.ref(name="other")
    events = OutletEventAccessors()
    task = run(outlets=[asset, alias, ref], response_format=SHAPE)
    task.execute(context(task, outlet_events=events))
    extra = {
        "manifest": f"{tmp_path}/out/manifest.json",
        "rows": 2,
        "outcomes": {"succeeded": 1, "invalid": 1},
        "provider": "openai",
        "models": ["echo"],
        "cost_usd": float(json.loads((tmp_path / "out/manifest.json").read_text())["usage"]["total_tokens"]),
    }
    assert events[asset].extra == extra
    [event] = events[alias].asset_alias_events
    assert (event.dest_asset_key.uri, event.extra) == (f"file://{tmp_path}/out", extra)


def test_events_that_cannot_be_told_fail_no_task(run: Callable[..., LLMBatchRunOperator]) -> None:
    task = run(outlets=[Asset("labelled")])
    with capture_logs() as lines:
        assert task.execute(context(task, outlet_events=None))["rows"] == 2
    assert any("outlets do not tell of" in str(line["event"]) for line in lines)


def test_what_a_batch_brought_is_told_to_the_outlets_of_its_download(
    tmp_path: Path, proxy: FaultProxy, server: GatedServer
) -> None:
    del server
    batch = {"id": "batch_9", "status": "completed", "output_file_id": "file-1", "request_counts": {"total": 1}}
    line = {"custom_id": "a", "response": {"status_code": 200, "body": {}}}
    proxy.rule("GET", "/batches/batch_9$", Answer(200, json.dumps(batch).encode()), times=None)
    proxy.rule("GET", "/files/file-1/content$", Answer(200, json.dumps(line).encode() + b"\n"), times=None)
    proxy.rule("GET", "/files/file-1$", Answer(200, b'{"id": "file-1", "bytes": 60}'), times=None)
    asset, events = Asset("landed"), OutletEventAccessors()
    out = f"{tmp_path}/out.jsonl"
    task = LLMBatchDownloadResultsOperator(task_id="land", batch_id="batch_9", destination=out, outlets=[asset])
    task.execute(context(task, outlet_events=events))
    assert events[asset].extra == {"uri": out, "rows": 1, "outcomes": {"succeeded": 1}}
