"""Airflow's metrics and traces behind the core's words: off the import path until switched on, and never in the way."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.observability.stats import Stats as TriggererStats
from airflow.sdk.observability.stats import Stats as WorkerStats
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from support.task import TaskInstance

from airflow_provider_llmbatch.core.telemetry import OFF
from airflow_provider_llmbatch.hooks import telemetry as module
from airflow_provider_llmbatch.hooks.telemetry import atelemetry_of, conventional, telemetry_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from airflow_provider_llmbatch.core.telemetry import Telemetry

WHAT_IS_IMPORTED = """
import sys
import airflow.sdk, airflow.sdk.configuration
before = set(sys.modules)
import asyncio
import airflow_provider_llmbatch.operators.run_work, airflow_provider_llmbatch.triggers.run
from airflow_provider_llmbatch.core.telemetry import OFF
from airflow_provider_llmbatch.hooks.telemetry import atelemetry_of, telemetry_of
class Instance:
    dag_id = task_id = "x"
assert telemetry_of(Instance()) is OFF
assert asyncio.run(atelemetry_of(Instance())) is OFF
new = sorted(set(sys.modules) - before)
print(*[name for name in new if name.startswith(("statsd", "datadog", "opentelemetry")) or "observability" in name])
"""


@dataclass
class Backend:
    """What Airflow sends metrics with, as its ``Stats`` has one."""

    error: Exception | None = None
    sent: list[tuple[Any, ...]] = field(default_factory=list)

    def incr(self, stat: str, count: int, *, tags: dict[str, str]) -> None:
        self._send(stat, count, tags)

    def gauge(self, stat: str, value: float, *, tags: dict[str, str]) -> None:
        self._send(stat, value, tags)

    def timing(self, stat: str, dt: Any, *, tags: dict[str, str]) -> None:
        self._send(stat, dt.total_seconds(), tags)

    def timer(self, *args: object, **kwargs: object) -> AbstractContextManager[object]:
        """A stopwatch, which sends nothing; whoever comes after these tests has this one too."""
        del args, kwargs
        return nullcontext(SimpleNamespace(duration=0.0))

    def _send(self, *told: Any) -> None:
        if self.error is not None:
            raise self.error
        self.sent.append(told)


@pytest.fixture
def backend() -> Iterator[Backend]:
    backend = Backend()
    for stats in (WorkerStats, TriggererStats):
        initialize(stats, lambda: backend)
    yield backend
    for stats in (WorkerStats, TriggererStats):
        initialize(stats, Backend)


def initialize(stats: Any, factory: Any) -> None:
    try:
        stats.initialize(factory=factory, export_legacy_names=False)
    except TypeError:  # before Airflow 3.3
        stats.initialize(factory=factory)


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__METRICS__STATSD_ON", "True")


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    monkeypatch.setenv("AIRFLOW__TRACES__OTEL_ON", "True")
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(module, "_tracer", lambda: provider.get_tracer("test"))
    return exporter


def tell_all(telemetry: Telemetry) -> None:
    telemetry.count("rows.failed", 3, model="m")
    telemetry.count("rows.expired", 0)
    telemetry.gauge("batch.age", 1.5, provider="azure")
    telemetry.timing("poll.lag", 0.25, model=None)


def test_nothing_of_metrics_or_traces_is_imported_while_they_are_off() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WHAT_IS_IMPORTED],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW__")},
    )
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


@pytest.mark.usefixtures("on")
def test_metrics_have_airflows_tags_beside_their_own(backend: Backend) -> None:
    tell_all(telemetry_of(TaskInstance(task_id="t", dag_id="d"), provider="openai"))
    tags = {"dag_id": "d", "task_id": "t", "provider": "openai"}
    assert backend.sent == [
        ("llmbatch.rows.failed", 3, {**tags, "model": "m"}),
        ("llmbatch.batch.age", 1.5, {**tags, "provider": "azure"}),
        ("llmbatch.poll.lag", 0.25, tags),
    ]


@pytest.mark.usefixtures("on")
@pytest.mark.parametrize("instance", [TaskInstance(task_id="t", dag_id="d"), None])
def test_a_trigger_sends_through_what_the_triggerer_has_begun(backend: Backend, instance: TaskInstance | None) -> None:
    initialize(WorkerStats, lambda: Backend(error=RuntimeError("only a task runner begins this one")))
    telemetry = asyncio.run(atelemetry_of(instance))
    telemetry.gauge("watcher.batches", 2.0, connection="c")
    own = {"dag_id": "d", "task_id": "t"} if instance else {}
    assert backend.sent == [("llmbatch.watcher.batches", 2.0, {**own, "connection": "c"})]


@pytest.mark.usefixtures("on")
def test_a_backend_that_fails_costs_one_line_of_the_log_and_no_task(
    backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    backend.error = OSError("no such host")
    with caplog.at_level(logging.WARNING, module.__name__):
        telemetry = telemetry_of(TaskInstance())
        tell_all(telemetry)
        tell_all(telemetry)
    assert [record.message for record in caplog.records] == ["A metric or span could not be sent; the task goes on"]


@pytest.mark.usefixtures("on")
def test_a_client_that_cannot_be_made_leaves_the_task_without_metrics(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> Backend:
        raise ValueError("[metrics] statsd_port is no number")

    for stats in (WorkerStats, TriggererStats):
        initialize(stats, broken)
    with caplog.at_level(logging.WARNING, module.__name__):
        assert telemetry_of(TaskInstance()) is OFF
        assert asyncio.run(atelemetry_of(TaskInstance())) is OFF
    assert [record.message for record in caplog.records] == [
        "Metrics and traces of this task are off, since they cannot be begun",
        "Metrics of this trigger are off, since they cannot be begun",
    ]
    for stats in (WorkerStats, TriggererStats):
        initialize(stats, Backend)


def test_an_error_marks_its_span_with_its_type_and_never_with_its_text(spans: InMemorySpanExporter) -> None:
    telemetry = telemetry_of(TaskInstance())
    with pytest.raises(KeyError, match="what a provider quotes"), telemetry.span("run", key="k"):
        raise KeyError("what a provider quotes")
    [span] = spans.get_finished_spans()
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "KeyError")
    assert (span.attributes, span.events) == ({"llmbatch.key": "k", "error.type": "KeyError"}, ())


def test_what_is_over_already_is_a_span_of_its_own_time(spans: InMemorySpanExporter) -> None:
    telemetry = telemetry_of(TaskInstance(), provider="vertex")
    with telemetry.span("landing"):
        telemetry.past("batch", 100.5, 160.0, batch_id="b", model=None)
    batch, landing = spans.get_finished_spans()
    assert (batch.name, batch.start_time, batch.end_time) == ("llmbatch.batch", 100_500_000_000, 160_000_000_000)
    assert batch.attributes == {"gen_ai.provider.name": "gcp.vertex_ai", "llmbatch.batch_id": "b"}
    assert batch.parent is not None
    assert batch.parent.span_id == landing.context.span_id


@pytest.mark.usefixtures("spans")
def test_a_tracer_that_fails_lets_the_work_be_done(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def start_span(self, *_args: object, **_kwargs: object) -> None:
            raise RuntimeError("exporter")

    monkeypatch.setattr(module, "_tracer", Broken)
    telemetry = telemetry_of(TaskInstance())
    with telemetry.span("run") as span:
        span.set(rows=1)
    telemetry.past("batch", 1.0, 2.0)
    assert [record.message for record in caplog.records] == ["A metric or span could not be sent; the task goes on"]


@pytest.mark.parametrize(
    ("provider", "named"),
    [("openai", "openai"), ("azure", "azure.ai.openai"), ("vertex", "gcp.vertex_ai"), ("other", "other")],
)
def test_a_provider_has_its_name_in_the_conventions(provider: str, named: str) -> None:
    assert conventional({"provider": provider}) == {"gen_ai.provider.name": named}


@pytest.mark.parametrize(
    ("endpoint", "operation"),
    [
        ("/v1/chat/completions", {"gen_ai.operation.name": "chat"}),
        ("/v1/responses", {"gen_ai.operation.name": "chat"}),
        ("/v1/completions", {"gen_ai.operation.name": "text_completion"}),
        ("/v1/embeddings", {"gen_ai.operation.name": "embeddings"}),
        ("/v1/moderations", {}),
    ],
)
def test_an_endpoint_is_an_operation_where_the_conventions_have_one(endpoint: str, operation: dict[str, str]) -> None:
    assert conventional({"endpoint": endpoint}) == {"llmbatch.endpoint": endpoint, **operation}


def test_every_name_of_the_conventions_is_one_that_they_have() -> None:
    from opentelemetry.semconv._incubating.attributes import gen_ai_attributes

    known = {value for name, value in vars(gen_ai_attributes).items() if name.startswith("GEN_AI_")}
    assert {*module._CONVENTIONS.values(), "gen_ai.operation.name"} <= known
    names = {each.value for each in gen_ai_attributes.GenAiProviderNameValues}
    operations = {each.value for each in gen_ai_attributes.GenAiOperationNameValues}
    assert set(module._PROVIDERS.values()) <= names
    assert set(module._OPERATIONS.values()) <= operations
