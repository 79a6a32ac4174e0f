"""What a waiting task says in its log: one line for each change, readable as it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from airflow_provider_llmbatch.core.polling import is_refusal
from airflow_provider_llmbatch.errors import LLMBatchError

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from airflow_provider_llmbatch.core.polling import Look
    from airflow_provider_llmbatch.models import Batch

_BAR_WIDTH: Final = 20


@dataclass
class Progress:
    """Remembers what was said, so that nothing is said twice."""

    _said: tuple[str, int, int, int] | None = None
    _outages: set[str] = field(default_factory=set)

    def report(self, look: Look, now: float, log: FilteringBoundLogger) -> None:
        """Log what a look saw, if that is new; ``now`` in seconds since 1970."""
        if isinstance(look, LLMBatchError):
            if line := self.of_outage(look):
                log.warning(line)
        elif line := self.of_batch(look, now):
            log.info(line, status=look.provider_status or look.status)

    def of_batch(self, batch: Batch, now: float) -> str | None:
        """A line if the batch changed since the last one, or is seen again after an outage, else ``None``.

        :param now: In seconds since 1970.
        """
        is_seen_again = bool(self._outages)
        self._outages.clear()
        counts = batch.request_counts
        seen = (batch.provider_status or batch.status, counts.total, counts.completed, counts.failed)
        if seen == self._said and not is_seen_again:
            return None
        self._said = seen
        if not counts.total:
            return f"Batch {batch.id} is {seen[0]}"
        done = min(counts.done, counts.total)  # counts are approximate while a batch runs
        filled = done * _BAR_WIDTH // counts.total
        bar = "#" * filled + "." * (_BAR_WIDTH - filled)
        parts = [f"{counts.done:,}/{counts.total:,} done", f"{counts.failed:,} failed", *_pace(batch, now)]
        return f"[{bar}] {done * 100 // counts.total:4}%  {', '.join(parts)}"

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


def _pace(batch: Batch, now: float) -> list[str]:
    """Requests per second and the time left, while both can be told."""
    counts = batch.request_counts
    elapsed = now - batch.in_progress_at if batch.in_progress_at is not None else 0.0
    if batch.is_terminal or not counts.done or elapsed <= 0:
        return []
    rate = counts.done / elapsed
    pace = f"{rate:.1f}/s" if rate >= 0.1 else f"{rate * 3600:.3g}/h"
    left = (counts.total - counts.done) / rate
    return [pace, f"about {_duration(left)} left"] if left > 0 else [pace]


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
