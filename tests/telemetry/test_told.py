"""What tasks tell Airflow's metrics and traces, as it arrives: real task processes, real receivers on loopback."""

from __future__ import annotations

import json
import socket
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from support.otlp import Receiver, Span, otlp_receiver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.server import RunningServer

    from .conftest import Told

PIPELINE = ["create_file", "create_batch", "sensor", "download"]
CLIENT = 3  # a span's kind
OURS = "airflow.llmbatch."


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with otlp_receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def told(
    receiver: Receiver,
    echo_server: RunningServer,
    run_tasks: Callable[..., Told],
    tmp_path_factory: pytest.TempPathFactory,
) -> Told:
    """All tasks, each in a process of its own; a deferred one in two or more."""
    settings = {
        "AIRFLOW__METRICS__OTEL_ON": "True",
        "AIRFLOW__TRACES__OTEL_ON": "True",
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        "OTEL_TRACES_EXPORTER": "otlp_proto_http",
    }
    told = run_tasks(tmp_path_factory.mktemp("told"), echo_server, ["classify", *PIPELINE], settings)
    assert told.states == dict.fromkeys(["classify", *PIPELINE], "success")
    return told


def tree_of(spans: list[Span], parent_id: str) -> list[Any]:
    """Names, with what lies inside each, in the order of their ends."""
    return [
        (span.name.removeprefix("llmbatch."), tree_of(spans, span.span_id))
        for span in spans
        if span.parent_id == parent_id
    ]


def worker_spans(receiver: Receiver, task_id: str) -> list[Span]:
    """Airflow's own spans of the processes that worked at a task."""
    return sorted((span for span in receiver.spans if span.name == f"worker.{task_id}"), key=lambda span: span.began_at)


def ours(receiver: Receiver, name: str, **attributes: object) -> list[Span]:
    wanted = {f"llmbatch.{key}": value for key, value in attributes.items()}
    return [
        span for span in receiver.spans if span.name == f"llmbatch.{name}" and wanted.items() <= span.attributes.items()
    ]


def test_each_process_of_a_deferred_run_has_its_work_inside_of_its_own_task_span(
    told: Told, receiver: Receiver
) -> None:
    del told
    first, *between, last = [tree_of(receiver.spans, span.span_id) for span in worker_spans(receiver, "classify")]
    submitted = ("part", [("upload", []), ("create_batch", [])])
    landed = ("part", [("landing", []), ("batch", [])])
    assert first == [("run", [("stage", []), submitted, submitted])]
    work = [child for tree in (*between, last) for _, children in tree for child in children]
    assert [name for name, _ in last] == ["run"]
    assert work == [landed, landed, ("publish", [])]


def test_the_steps_of_a_pipeline_lie_inside_of_their_tasks(told: Told, receiver: Receiver) -> None:
    del told
    assert {task: tree_of(receiver.spans, worker_spans(receiver, task)[0].span_id) for task in PIPELINE} == {
        "create_file": [("upload", [])],
        "create_batch": [("create_batch", []), ("batch", [])],
        "sensor": [("batch", [])],
        "download": [("landing", [])],
    }


def test_every_span_is_of_the_trace_that_the_scheduler_began(
    told: Told, receiver: Receiver, trace_parent: tuple[str, str]
) -> None:
    del told
    trace_id, task_span_id = trace_parent
    assert {span.trace_id for span in receiver.spans} == {trace_id}
    assert {span.parent_id for span in receiver.spans if span.name.startswith("worker.")} == {task_span_id}
    assert {span.scope for span in receiver.spans if span.name.startswith("llmbatch.")} == {"airflow_provider_llmbatch"}
    assert {span.status for span in receiver.spans} == {0}


def test_a_batch_is_told_in_the_words_of_the_conventions(told: Told, receiver: Receiver) -> None:
    manifest = json.loads((told.folder / "out" / "manifest.json").read_text())
    for number, part in enumerate(manifest["parts"]):
        [attempt] = part["attempts"]
        [batch] = ours(receiver, "batch", batch_id=attempt["batch_id"])
        assert batch.attributes == {
            "gen_ai.provider.name": "openai",
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": "echo",
            "gen_ai.usage.input_tokens": attempt["usage"]["input_tokens"],
            "gen_ai.usage.cache_read.input_tokens": 0,
            "gen_ai.usage.output_tokens": attempt["usage"]["output_tokens"],
            "gen_ai.usage.reasoning.output_tokens": 0,
            "llmbatch.endpoint": "/v1/chat/completions",
            "llmbatch.batch_id": attempt["batch_id"],
            "llmbatch.key": attempt["key"],
            "llmbatch.status": "completed",
            "llmbatch.part": number,
            "llmbatch.attempt": 1,
            "llmbatch.rows.succeeded": 2,
        }
        assert (batch.began_at, batch.ended_at) == (attempt["created_at"], attempt["ended_at"])
        assert batch.kind == CLIENT
        [creation] = ours(receiver, "create_batch", batch_id=attempt["batch_id"])  # in an earlier process
        assert creation.attributes["llmbatch.key"] == attempt["key"]


def test_metrics_of_a_run_add_up_to_its_result_set(told: Told, receiver: Receiver) -> None:
    manifest = json.loads((told.folder / "out" / "manifest.json").read_text())
    sums = sums_of(receiver, "classify")
    durations = {name: sums.pop(name) for name in list(sums) if name.endswith((".duration", ".lag"))}
    assert sums == {
        "batches.created": 2,
        "batches.completed": 2,
        "rows.succeeded": 4,
        "tokens.input": manifest["usage"]["input_tokens"],
        "tokens.output": manifest["usage"]["output_tokens"],
        "upload.bytes": 612,
    }
    assert set(durations) == {"upload.duration", "batch.duration", "landing.duration", "run.duration"}


@pytest.mark.parametrize("task_id", ["create_batch", "sensor"])
def test_who_waits_for_a_batch_by_itself_counts_what_the_provider_counted(
    task_id: str, told: Told, receiver: Receiver
) -> None:
    del told
    sums = sums_of(receiver, task_id)
    counts = {name: value for name, value in sums.items() if not name.endswith((".duration", ".lag", ".age"))}
    created = {"batches.created": 1.0} if task_id == "create_batch" else {}
    assert counts == {**created, "batches.completed": 1, "rows.succeeded": 3, "tokens.input": 9, "tokens.output": 9}


def sums_of(receiver: Receiver, task_id: str) -> dict[str, float]:
    """Our metrics of a task: each process exports its own, the last of its exports being its sum."""
    own = {"dag_id": "told", "task_id": task_id, "provider": "openai"}
    sums: Counter[str] = Counter()
    for point in receiver.points:
        if point.name.startswith(OURS) and own.items() <= point.attributes.items():
            assert point.attributes.keys() <= {*own, "model"}
            sums[point.name.removeprefix(OURS)] += point.value
    return dict(sums)


def test_each_line_of_ours_has_fields_and_none_has_a_prompt_an_answer_a_key_or_a_row_key(
    told: Told, echo_server: RunningServer
) -> None:
    lines = told.log("classify")
    batch_ids = [attempt["batch_id"] for part in manifest_of(told)["parts"] for attempt in part["attempts"]]
    created = [line for line in lines if line["event"].startswith("Created batch")]
    assert [(line["batch_id"], line["endpoint"], line["console_url"]) for line in created] == [
        (batch_id, "/v1/chat/completions", f"https://console.example/{batch_id}") for batch_id in batch_ids
    ]
    [staged] = [line for line in lines if line["event"].startswith("Staged")]
    assert (staged["rows"], staged["bytes"], staged["parts"]) == (4, 612, 2)
    assert manifest_of(told)["fingerprints"]["rows"].startswith(staged["fingerprint"])
    landed = [line for line in lines if line["event"].startswith("Landed")]
    assert [(line["batch_id"], line["part"], line["attempt"], line["status"]) for line in landed] == [
        (batch_id, part, 1, "completed") for part, batch_id in enumerate(batch_ids)
    ]
    [end] = [line for line in lines if line["event"].startswith("4 rows")]
    assert (end["rows"], end["succeeded"]) == (4, 4)
    said = json.dumps([told.log(task_id) for task_id in told.states])
    assert [secret for secret in ("secret text", "person-", echo_server.api_key) if secret in said] == []


def manifest_of(told: Told) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((told.folder / "out" / "manifest.json").read_text())
    return manifest


def test_statsd_gets_the_metrics_of_a_task_with_its_tags(
    echo_server: RunningServer, run_tasks: Callable[..., Told], tmp_path_factory: pytest.TempPathFactory
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as statsd:
        statsd.bind(("127.0.0.1", 0))
        settings = {
            "AIRFLOW__METRICS__STATSD_ON": "True",
            "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
            "AIRFLOW__METRICS__STATSD_PORT": str(statsd.getsockname()[1]),
            "AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED": "True",
        }
        told = run_tasks(tmp_path_factory.mktemp("statsd"), echo_server, ["create_file", "create_batch"], settings)
        statsd.setblocking(False)
        packets = list(packets_of(statsd))
    assert told.states == {"create_file": "success", "create_batch": "success"}
    tags = "dag_id=told,task_id=create_batch,provider=openai,model=echo"
    ours = [packet.removeprefix(OURS) for packet in packets if packet.startswith(OURS) and "create_batch" in packet]
    counts = [packet for packet in ours if not packet.startswith(("batch.duration", "poll.lag", "batch.age"))]
    assert counts == [
        "batches.created,dag_id=told,task_id=create_batch,provider=openai:1|c",
        f"batches.completed,{tags}:1|c",
        f"tokens.input,{tags}:9|c",
        f"tokens.output,{tags}:9|c",
        f"rows.succeeded,{tags}:3|c",
    ]
    [duration] = [packet for packet in ours if packet.startswith("batch.duration")]
    assert duration.startswith(f"batch.duration,{tags}:")
    assert duration.endswith("|ms")


def packets_of(statsd: socket.socket) -> Iterator[str]:
    while True:
        try:
            yield statsd.recv(65536).decode()
        except BlockingIOError:
            return
