"""Airflow's own metrics and traces, as the core's ``Telemetry``: only what is switched on in Airflow is ever imported.

Metrics go through Airflow's ``Stats`` (StatsD, DogStatsD or OpenTelemetry, as ``[metrics]`` says), spans through the
tracer that Airflow configures if ``[traces] otel_on`` is set, inside of the task's own span. Whatever fails there is
logged once, and never an error of the task.

Attributes of spans are those of OpenTelemetry's semantic conventions for generative AI where there is one (1.41, in
development: https://opentelemetry.io/docs/specs/semconv/gen-ai/), else ``llmbatch.`` and the core's word.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Protocol, cast

from airflow.sdk.configuration import conf
from typing_extensions import override

import airflow_provider_llmbatch
from airflow_provider_llmbatch.core.telemetry import NO_SPAN, OFF, Span, Telemetry

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from opentelemetry import trace

    from airflow_provider_llmbatch.core.telemetry import AttributeValue

PREFIX: Final = "llmbatch."
_METRICS: Final = ("statsd_on", "otel_on", "statsd_datadog_enabled")  # options of [metrics], any of which sends them

_CONVENTIONS: Final = {
    "provider": "gen_ai.provider.name",
    "model": "gen_ai.request.model",
    "input_tokens": "gen_ai.usage.input_tokens",
    "cached_input_tokens": "gen_ai.usage.cache_read.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
    "reasoning_output_tokens": "gen_ai.usage.reasoning.output_tokens",
}
_PROVIDERS: Final = {"openai": "openai", "azure": "azure.ai.openai", "vertex": "gcp.vertex_ai"}
_OPERATIONS: Final = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}
_CALLS: Final = frozenset({"upload", "create_batch", "batch"})  # what the provider does, or is asked to do

_BEGINNING: Final = threading.Lock()
_log = logging.getLogger(__name__)


class TaskIdentity(Protocol):
    """The task instance that something is told of, as a worker or a trigger has it."""

    @property
    def dag_id(self) -> str: ...
    @property
    def task_id(self) -> str: ...


class _Stats(Protocol):
    """What is used of Airflow's ``Stats``, which 3.2 and 3.3 have alike."""

    def incr(self, stat: str, count: float, *, tags: Mapping[str, str]) -> object: ...
    def gauge(self, stat: str, value: float, *, tags: Mapping[str, str]) -> object: ...
    def timing(self, stat: str, dt: timedelta, *, tags: Mapping[str, str]) -> object: ...
    def timer(self) -> object: ...


def telemetry_of(instance: TaskIdentity, *, provider: str | None = None) -> Telemetry:
    """What passes on metrics and spans of a task on its worker, as Airflow is configured; ``OFF`` if it sends neither.

    :param instance: Whose ``dag_id`` and ``task_id`` are tags of each metric; its team too, where Airflow has teams.
    :param provider: Of all that is told, where nothing else is said.
    """
    try:
        stats = _workers_stats() if _are_metrics_on() else None
        tracer = _tracer() if conf.getboolean("traces", "otel_on", fallback=False) else None
    except Exception:  # noqa: BLE001 - whatever a client raises: nobody's task fails for it
        _log.warning("Metrics and traces of this task are off, since they cannot be begun", exc_info=True)
        return OFF
    if stats is None and tracer is None:
        return OFF
    return _AirflowTelemetry(stats, tracer, _tags_of(instance), provider)


async def atelemetry_of(instance: TaskIdentity | None) -> Telemetry:
    """What passes on the metrics of a trigger; ``OFF`` if Airflow sends none. It has no spans beside Airflow's own one.

    :param instance: The task that the trigger is of; ``None`` for what serves several.
    """
    if not _are_metrics_on():
        return OFF
    try:
        stats = await asyncio.to_thread(_triggerers_stats)  # making the client may ask for a name
    except Exception:  # noqa: BLE001 - as above
        _log.warning("Metrics of this trigger are off, since they cannot be begun", exc_info=True)
        return OFF
    return _AirflowTelemetry(stats, None, _tags_of(instance), None)


def _are_metrics_on() -> bool:
    return any(conf.getboolean("metrics", option, fallback=False) for option in _METRICS)


# Airflow has two copies of this module: its task runner begins the one, its triggerer the other.
def _workers_stats() -> _Stats:
    from airflow.sdk.observability.stats import Stats  # noqa: PLC0415 - off the import path until it is switched on

    return _begun(cast("_Stats", Stats))


def _triggerers_stats() -> _Stats:
    from airflow.observability.stats import Stats  # noqa: PLC0415 - as above

    return _begun(cast("_Stats", Stats))


def _begun(stats: _Stats) -> _Stats:
    with _BEGINNING:  # many triggers begin at once, and each client that is made has threads or a socket
        stats.timer()  # makes the client now, and sends nothing
    return stats


def _tracer() -> trace.Tracer:
    from opentelemetry import trace  # noqa: PLC0415 - off the import path until it is switched on

    return trace.get_tracer(airflow_provider_llmbatch.__name__, airflow_provider_llmbatch.__version__)


def _tags_of(instance: TaskIdentity | None) -> dict[str, str]:
    if instance is None:
        return {}
    named = getattr(instance, "stats_tags", None)  # Airflow's own, from 3.3 on
    return dict(named) if isinstance(named, dict) else {"dag_id": instance.dag_id, "task_id": instance.task_id}


class _AirflowTelemetry(Telemetry):
    def __init__(
        self, stats: _Stats | None, tracer: trace.Tracer | None, tags: Mapping[str, str], provider: str | None
    ) -> None:
        self._stats = stats
        self._tracer = tracer
        self._tags = tags
        self._provider = provider
        self._failed = False

    @override
    def count(self, name: str, value: float = 1, /, **tags: str | None) -> None:
        if self._stats is not None and value:
            with self._harmless():
                self._stats.incr(PREFIX + name, value, tags=self._tagged(tags))

    @override
    def gauge(self, name: str, value: float, /, **tags: str | None) -> None:
        if self._stats is not None:
            with self._harmless():
                self._stats.gauge(PREFIX + name, value, tags=self._tagged(tags))

    @override
    def timing(self, name: str, seconds: float, /, **tags: str | None) -> None:
        if self._stats is not None:
            with self._harmless():
                self._stats.timing(PREFIX + name, timedelta(seconds=seconds), tags=self._tagged(tags))

    @override
    @contextmanager
    def span(self, name: str, /, **attributes: AttributeValue) -> Iterator[Span]:
        span = None
        with self._harmless():
            span = self._started(name, attributes)
        if span is None:
            yield NO_SPAN
            return
        from opentelemetry import trace  # noqa: PLC0415 - loaded with the tracer

        # Of an exception only its type: its text may hold what a provider quotes.
        with trace.use_span(span, record_exception=False, set_status_on_exception=False):
            try:
                yield _OpenSpan(span, self)
            except BaseException as error:
                with self._harmless():
                    span.set_attribute("error.type", type(error).__name__)
                    span.set_status(trace.StatusCode.ERROR, type(error).__name__)
                raise
            finally:
                with self._harmless():
                    span.end()

    @override
    def past(self, name: str, began_at: float, ended_at: float, /, **attributes: AttributeValue) -> None:
        with self._harmless():
            span = self._started(name, attributes, began_at)
            if span is not None:
                span.end(int(max(began_at, ended_at) * 1e9))

    def _started(
        self, name: str, attributes: Mapping[str, AttributeValue], began_at: float | None = None
    ) -> trace.Span | None:
        if self._tracer is None:
            return None
        from opentelemetry.trace import SpanKind  # noqa: PLC0415 - loaded with the tracer

        return self._tracer.start_span(
            PREFIX + name,
            kind=SpanKind.CLIENT if name in _CALLS else SpanKind.INTERNAL,
            attributes=conventional({"provider": self._provider, **attributes}),
            start_time=None if began_at is None else int(began_at * 1e9),
        )

    def _tagged(self, tags: Mapping[str, str | None]) -> dict[str, str]:
        told = {"provider": self._provider, **tags}
        return {**self._tags, **{name: value for name, value in told.items() if value is not None}}

    @contextmanager
    def _harmless(self) -> Iterator[None]:
        try:
            yield
        except Exception:  # noqa: BLE001 - as above
            if not self._failed:
                self._failed = True
                with suppress(Exception):
                    _log.warning("A metric or span could not be sent; the task goes on", exc_info=True)


class _OpenSpan(Span):
    def __init__(self, span: trace.Span, telemetry: _AirflowTelemetry) -> None:
        self._span = span
        self._telemetry = telemetry

    @override
    def set(self, **attributes: AttributeValue) -> None:
        with self._telemetry._harmless():  # noqa: SLF001 - its own span
            self._span.set_attributes(conventional(attributes))


def conventional(attributes: Mapping[str, AttributeValue]) -> dict[str, str | bool | int | float]:
    """What is known, by the names and values of the conventions where there are some, else in our own."""
    told: dict[str, str | bool | int | float] = {}
    for name, value in attributes.items():
        if value is None:
            continue
        told[_CONVENTIONS.get(name, PREFIX + name)] = _PROVIDERS.get(str(value), value) if name == "provider" else value
        if name == "endpoint" and (operation := _OPERATIONS.get(str(value))):
            told["gen_ai.operation.name"] = operation
    return told
