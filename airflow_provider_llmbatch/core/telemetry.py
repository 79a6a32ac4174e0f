"""What the core tells of itself beside its log: counts, gauges, durations and spans.

Nothing here knows who listens: whoever builds a run or a watcher hands in what passes it on, and by default nobody does,
so that no metrics or tracing library is imported unless it is switched on.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

AttributeValue: TypeAlias = "str | bool | int | float | Sequence[str]"


class Span(Protocol):
    """A piece of work with a beginning and an end, inside of another one."""

    def set(self, name: str, value: AttributeValue) -> None:
        """Add what is known only now."""


class Telemetry(Protocol):
    """Names are dotted and without a prefix, such as ``batch.rows``; tags tell few values apart."""

    def count(self, name: str, value: int = 1, /, **tags: str) -> None:
        """Add to a counter."""

    def gauge(self, name: str, value: float, /, **tags: str) -> None:
        """Say how much there is now."""

    def timing(self, name: str, seconds: float, /, **tags: str) -> None:
        """Say how long something took."""

    def span(self, name: str, /, **attributes: AttributeValue) -> AbstractContextManager[Span]:
        """Say what is done meanwhile; an exception that leaves it is the span's error."""


class _NoSpan:
    def set(self, name: str, value: AttributeValue) -> None:
        """Nobody listens."""


class _Off:
    def count(self, name: str, value: int = 1, /, **tags: str) -> None:
        """Nobody listens."""

    def gauge(self, name: str, value: float, /, **tags: str) -> None:
        """Nobody listens."""

    def timing(self, name: str, seconds: float, /, **tags: str) -> None:
        """Nobody listens."""

    @contextmanager
    def span(self, name: str, /, **attributes: AttributeValue) -> Iterator[Span]:
        del name, attributes
        yield _NO_SPAN


_NO_SPAN: Final = _NoSpan()
OFF: Final[Telemetry] = _Off()
"""Nobody listens."""
