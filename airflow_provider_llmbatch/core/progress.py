"""What a waiting task says: a line in its log for each change, readable as it is, and how old its batches are."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from airflow_provider_llmbatch.core.polling import is_refusal
from airflow_provider_llmbatch.core.telemetry import OFF, tell_seen_end, tell_waiting
from airflow_provider_llmbatch.errors import LLMBatchError
from airflow_provider_llmbatch.models import Batch, RequestCounts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from structlog.typing import FilteringBoundLogger

    from airflow_provider_llmbatch.core.polling import Look
    from airflow_provider_llmbatch.core.telemetry import Telemetry

_BAR_WIDTH: Final = 20


@dataclass
class Progress:
    """Remembers what was said, so that nothing is said twice.

    :param telemetry: Learns of each look.
    """

    telemetry: Telemetry = OFF
    _said: tuple[str, int, int, int] | None = None
    _outages: set[str] = field(default_factory=set)

    def report(self, look: Look, now: float, log: FilteringBoundLogger) -> None:
        """Log what a look saw, if that is new; ``now`` in seconds since 1970."""
        if isinstance(look, LLMBatchError):
            if line := self.of_outage(look):
                log.warning(line)
            return
        tell = tell_seen_end if look.is_terminal else tell_waiting
        tell(self.telemetry, look, now)
        if line := self.of_batch(look, now):
            log.info(line, batch_id=look.id, status=look.provider_status or look.status)

    def of_batch(self, batch: Batch, now: float) -> str | None:
        """A line if the batch changed since the last one, or is seen again after an outage, else ``None``.

        :param now: In seconds since 1970.
        """
        is_seen_again = self.outage_is_over()
        counts = batch.request_counts
        seen = (batch.provider_status or batch.status, counts.total, counts.completed, counts.failed)
        if seen == self._said and not is_seen_again:
            return None
        self._said = seen
        if not counts.total:
            return f"Batch {batch.id} is {seen[0]}"
        return _line(counts, *_paces([batch], now))

    def outage_is_over(self) -> bool:
        """Whether there was one until now."""
        there_was = bool(self._outages)
        self._outages.clear()
        return there_was

    def of_outage(self, error: LLMBatchError) -> str | None:
        """A line when looks begin to fail, or fail in another way, else ``None``."""
        kind = f"{type(error).__name__} {error.status_code}"
        if kind in self._outages:
            return None
        self._outages.add(kind)
        if error.retriable:
            return f"{error} The batch goes on at the provider; looking again, with growing pauses, until the deadline."
        if is_refusal(error):
            return f"{error} Looking again a few times, in case that passes."
        return None  # nobody looks again, and the task's own error says why


@dataclass
class JointProgress:
    """Of several batches together: one line for each change, however many of them changed.

    :param telemetry: Learns of each round of looks: the age of the oldest batch, and each end as it is seen.
    """

    telemetry: Telemetry = OFF
    _one: Progress = field(default_factory=Progress)
    _batches: dict[str, Batch] = field(default_factory=dict)
    _said: tuple[object, ...] = ()

    def report(self, looks: Mapping[str, Look], now: float, log: FilteringBoundLogger) -> None:
        """Log what a round of looks saw, if that is new; ``now`` in seconds since 1970."""
        errors = [look for look in looks.values() if isinstance(look, LLMBatchError)]
        for error in errors:
            if line := self._one.of_outage(error):
                log.warning(line)
        seen = {batch_id: look for batch_id, look in looks.items() if isinstance(look, Batch)}
        self._tell(seen, now)
        self._batches |= seen
        if not self._batches or errors:
            return
        statuses = Counter(batch.provider_status or batch.status for batch in self._batches.values())
        counts = self._counts()
        is_seen_again = self._one.outage_is_over()
        if (statuses, counts) == self._said and not is_seen_again:
            return
        self._said = (statuses, counts)
        of_each = ", ".join(f"{count:,} {status}" for status, count in statuses.most_common())
        if counts.total:
            log.info(_line(counts, *_paces(self._batches.values(), now)), batches=of_each)
        elif looks:
            log.info(f"Batches: {of_each}")

    def _tell(self, seen: Mapping[str, Batch], now: float) -> None:
        for batch_id, batch in seen.items():
            before = self._batches.get(batch_id)
            if batch.is_terminal and not (before and before.is_terminal):
                tell_seen_end(self.telemetry, batch, now)
        waited_for = [batch for batch in seen.values() if not batch.is_terminal and batch.created_at is not None]
        if waited_for:
            tell_waiting(self.telemetry, min(waited_for, key=lambda batch: batch.created_at or 0), now)

    def _counts(self) -> RequestCounts:
        each = [batch.request_counts for batch in self._batches.values()]
        return RequestCounts(
            total=sum(counts.total for counts in each),
            completed=sum(counts.completed for counts in each),
            failed=sum(counts.failed for counts in each),
        )


def _line(counts: RequestCounts, *paces: str) -> str:
    done = min(counts.done, counts.total)  # counts are approximate while a batch runs
    filled = done * _BAR_WIDTH // counts.total
    bar = "#" * filled + "." * (_BAR_WIDTH - filled)
    parts = [f"{counts.done:,}/{counts.total:,} done", f"{counts.failed:,} failed", *paces]
    return f"[{bar}] {done * 100 // counts.total:4}%  {', '.join(parts)}"


def _paces(batches: Iterable[Batch], now: float) -> list[str]:
    """Requests per second of all that run, and the time that the last of them takes, as far as they can be told."""
    paces = [pace for batch in batches if not batch.is_terminal if (pace := _pace(batch, now))]
    rate, left = sum(rate for rate, _ in paces), max((left for _, left in paces), default=0.0)
    if not rate:
        return []
    told = f"{rate:.1f}/s" if rate >= 0.1 else f"{rate * 3600:.3g}/h"
    return [told, f"about {_duration(left)} left"] if left > 0 else [told]


def _pace(batch: Batch, now: float) -> tuple[float, float] | None:
    """Requests per second, and the seconds left, if they can be told."""
    counts = batch.request_counts
    elapsed = now - batch.in_progress_at if batch.in_progress_at is not None else 0.0
    if not counts.done or elapsed <= 0:
        return None
    rate = counts.done / elapsed
    return rate, (counts.total - counts.done) / rate


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
