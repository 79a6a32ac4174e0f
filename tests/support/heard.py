"""A listener that keeps what the core tells, in the order in which it is told."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from airflow_provider_llmbatch.core.telemetry import Span, Telemetry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_llmbatch.core.telemetry import AttributeValue


@dataclass
class Heard(Telemetry, Span):
    told: list[tuple[Any, ...]] = field(default_factory=list)

    @override
    def count(self, name: str, value: float = 1, /, **tags: str | None) -> None:
        if value:
            self.told.append((name, value, tags))

    @override
    def gauge(self, name: str, value: float, /, **tags: str | None) -> None:
        self.told.append((name, value, tags))

    @override
    def timing(self, name: str, seconds: float, /, **tags: str | None) -> None:
        self.told.append((name, seconds, tags))

    @override
    @contextmanager
    def span(self, name: str, /, **attributes: AttributeValue) -> Iterator[Span]:
        self.told.append((name, "begins", attributes))
        yield self
        self.told.append((name, "ends"))

    @override
    def past(self, name: str, began_at: float, ended_at: float, /, **attributes: AttributeValue) -> None:
        self.told.append((name, began_at, ended_at, attributes))

    @override
    def set(self, **attributes: AttributeValue) -> None:
        self.told.append(("set", attributes))
