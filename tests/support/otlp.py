"""A receiver of OpenTelemetry's protocol on loopback, which keeps what arrives as protobuf over HTTP."""

from __future__ import annotations

import gzip
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from opentelemetry.proto.common.v1.common_pb2 import KeyValue
    from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan

Attributes = dict[str, Any]


@dataclass(frozen=True)
class Span:
    """:param began_at: In seconds since 1970."""

    name: str
    span_id: str
    parent_id: str
    trace_id: str
    scope: str
    kind: int
    status: int
    began_at: float
    ended_at: float
    attributes: Attributes


@dataclass(frozen=True)
class Point:
    """What a metric was at an export: a sum, a gauge's value, or the sum of a histogram's values."""

    name: str
    value: float
    attributes: Attributes


@dataclass
class Receiver:
    url: str
    spans: list[Span] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)

    def take(self, path: str, content: bytes) -> None:
        if path == "/v1/traces":
            traces = ExportTraceServiceRequest.FromString(content)
            for resource in traces.resource_spans:
                for scope in resource.scope_spans:
                    self.spans += [_span(span, scope.scope.name) for span in scope.spans]
        elif path == "/v1/metrics":
            exported = ExportMetricsServiceRequest.FromString(content)
            for resource in exported.resource_metrics:
                for scope in resource.scope_metrics:
                    for metric in scope.metrics:
                        self.points += _points(metric)


def _values(pairs: Iterable[KeyValue]) -> Attributes:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value") for pair in pairs}


def _span(span: ProtoSpan, scope: str) -> Span:
    return Span(
        name=span.name,
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        trace_id=span.trace_id.hex(),
        scope=scope,
        kind=span.kind,
        status=span.status.code,
        began_at=span.start_time_unix_nano / 1e9,
        ended_at=span.end_time_unix_nano / 1e9,
        attributes=_values(span.attributes),
    )


def _points(metric: Any) -> Iterator[Point]:
    data = getattr(metric, metric.WhichOneof("data"))
    for point in data.data_points:
        kind = point.WhichOneof("value") if hasattr(point, "as_int") else "sum"
        yield Point(metric.name, float(getattr(point, kind)), _values(point.attributes))


@contextmanager
def otlp_receiver() -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                content = gzip.decompress(content)
            receiver.take(self.path, content)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            del args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver = Receiver(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
