"""What the core tells of itself beside its log: counts, gauges, durations and spans.

Nothing here knows who listens: whoever builds a run or a wait hands in what passes it on, and by default nobody does,
so that no metrics or tracing library is imported unless it is switched on.

Tags and attributes have the core's own words, of which a listener makes those of its field: ``provider``, ``model``,
``endpoint``, ``batch_id``, ``part`` and so on. ``None`` says that something is not known, and is left out.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from airflow_provider_llmbatch.models import Batch, Usage

AttributeValue: TypeAlias = "str | bool | int | float | None"


class Span(Protocol):
    """A piece of work with a beginning and an end, inside of another one."""

    def set(self, **attributes: AttributeValue) -> None:
        """Add what is known only now."""


class Telemetry(Protocol):
    """Names are dotted and without a prefix, such as ``batches.created``; tags tell few values apart.

    No method raises, whatever becomes of what it is told.
    """

    def count(self, name: str, value: float = 1, /, **tags: str | None) -> None:
        """Add to a counter; nothing, if that is 0."""

    def gauge(self, name: str, value: float, /, **tags: str | None) -> None:
        """Say how much there is now."""

    def timing(self, name: str, seconds: float, /, **tags: str | None) -> None:
        """Say how long something took."""

    def span(self, name: str, /, **attributes: AttributeValue) -> AbstractContextManager[Span]:
        """Say what is done meanwhile; an exception that leaves it is the span's error."""

    def past(self, name: str, began_at: float, ended_at: float, /, **attributes: AttributeValue) -> None:
        """A span of what is over already; its moments in seconds since 1970."""


class _NoSpan:
    def set(self, **attributes: AttributeValue) -> None:
        """Nobody listens."""


class _Off:
    def count(self, name: str, value: float = 1, /, **tags: str | None) -> None:
        """Nobody listens."""

    def gauge(self, name: str, value: float, /, **tags: str | None) -> None:
        """Nobody listens."""

    def timing(self, name: str, seconds: float, /, **tags: str | None) -> None:
        """Nobody listens."""

    def span(self, name: str, /, **attributes: AttributeValue) -> AbstractContextManager[Span]:
        del name, attributes
        return nullcontext(NO_SPAN)

    def past(self, name: str, began_at: float, ended_at: float, /, **attributes: AttributeValue) -> None:
        """Nobody listens."""


NO_SPAN: Final[Span] = _NoSpan()
OFF: Final[Telemetry] = _Off()
"""Nobody listens."""


def tell_waiting(telemetry: Telemetry, batch: Batch, now: float) -> None:
    """How old a batch is that is waited for; ``now`` in seconds since 1970."""
    if batch.created_at is not None:
        age = max(now - batch.created_at, 0.0)
        telemetry.gauge("batch.age", age, provider=batch.provider, model=batch.model)


def tell_seen_end(telemetry: Telemetry, batch: Batch, now: float) -> None:
    """How long after its end a batch was seen to have ended; ``now`` in seconds since 1970."""
    if batch.ended_at is not None:
        lag = max(now - batch.ended_at, 0.0)
        telemetry.timing("poll.lag", lag, provider=batch.provider, model=batch.model)


def tell_end(telemetry: Telemetry, batch: Batch) -> None:
    """What a batch by itself came to, as the provider counts: its requests, its tokens, its time.

    Requests that a batch did not come to are ``expired`` or ``cancelled`` as it is, else ``missing``.
    """
    counts = batch.request_counts
    rest = {"expired": "expired", "cancelled": "cancelled"}.get(batch.status, "missing")
    tell_batch(
        telemetry,
        batch.status,
        began_at=batch.created_at,
        ended_at=batch.ended_at,
        usage=batch.usage,
        provider=batch.provider,
        model=batch.model,
        endpoint=batch.endpoint,
        batch_id=batch.id,
    )
    numbers = {"succeeded": counts.completed, "failed": counts.failed, rest: max(counts.total - counts.done, 0)}
    for outcome, number in numbers.items():
        telemetry.count(f"rows.{outcome}", number, provider=batch.provider, model=batch.model)


def tell_batch(
    telemetry: Telemetry,
    status: str,
    *,
    began_at: float | None,
    ended_at: float | None,
    usage: Usage | None,
    provider: str | None,
    model: str | None,
    **attributes: AttributeValue,
) -> None:
    """A batch from its creation to its end, and the tokens that it took.

    :param attributes: More that its span tells.
    """
    telemetry.count(f"batches.{status}", provider=provider, model=model)
    for name, tokens in tokens_of(usage).items():
        telemetry.count(f"tokens.{name.removesuffix('_tokens')}", tokens, provider=provider, model=model)
    if began_at is None or ended_at is None:
        return
    telemetry.timing("batch.duration", max(ended_at - began_at, 0.0), provider=provider, model=model)
    told = {**attributes, **tokens_of(usage)}
    telemetry.past("batch", began_at, ended_at, provider=provider, model=model, status=status, **told)


def tokens_of(usage: Usage | None) -> dict[str, int]:
    """Tokens by the names that attributes have; without ``usage`` none."""
    if usage is None:
        return {}
    read, written = usage.input_tokens_details, usage.output_tokens_details
    return {
        "input_tokens": usage.input_tokens,
        "cached_input_tokens": read.cached_tokens if read else 0,
        "output_tokens": usage.output_tokens,
        "reasoning_output_tokens": written.reasoning_tokens if written else 0,
    }
