"""What the task of a run says in its log: the steps of a long run folded away, and a summary that stays in sight."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, cast

from airflow_provider_llmbatch.core.costs.wording import said
from airflow_provider_llmbatch.core.run.verdict import counted
from airflow_provider_llmbatch.core.verdict import moment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from structlog.typing import FilteringBoundLogger

    from airflow_provider_llmbatch.adapters.base import Adapter
    from airflow_provider_llmbatch.core.run.manifest import Manifest
    from airflow_provider_llmbatch.core.run.run import Waiting

_LINES_IN_SIGHT: Final = 8
_LINKS: Final = 3


class _Folding:
    """Opens a group after some lines: a run of one part is in sight, and one of a hundred does not hide the rest.

    Warnings close it, since nobody looks for them in there.
    """

    def __init__(self, title: str, log: FilteringBoundLogger) -> None:
        self._title = title
        self._log = log
        self._lines = 0
        self._is_open = False

    def __getattr__(self, name: str) -> Any:
        if name == "info":
            self._lines += 1
            if self._lines > _LINES_IN_SIGHT and not self._is_open:
                self._is_open = True
                self._log.info(f"::group::{self._title}")
        elif name in ("warning", "error", "exception"):
            self.close()
        return getattr(self._log, name)

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._log.info("::endgroup::")


@contextmanager
def folding(title: str, log: FilteringBoundLogger) -> Iterator[FilteringBoundLogger]:
    """A log whose lines, but for the first ones, Airflow shows below a title when somebody opens it."""
    group = _Folding(title, log)
    try:
        yield cast("FilteringBoundLogger", group)
    finally:
        group.close()


def tell_links(waiting: Waiting, adapter: Adapter, log: FilteringBoundLogger) -> None:
    """Where people can see the first batches."""
    for batch_id in waiting.batch_ids[:_LINKS]:
        if url := adapter.console_url(batch_id):
            log.info(f"Console: {url}")


def tell_wait(waiting: Waiting, interval: float, log: FilteringBoundLogger) -> None:
    """What is waited for, and until when.

    :param interval: Seconds between two looks at first.
    """
    count = len(waiting.batch_ids)
    what = waiting.batch_ids[0] if count == 1 else f"{count:,} batches" if count else "room in the provider's queue"
    more = "; more follow as they end" if waiting.any_end and count else ""
    if waiting.resubmit_at is not None:
        more = f"; more is submitted at {moment(waiting.resubmit_at)}"
    log.info(
        f"Waiting for {what}, at most until {moment(waiting.deadline)}, polling every {interval:g} s at first{more}"
    )


def tell_end(manifest: Manifest, uri: str, log: FilteringBoundLogger) -> None:
    """What came of every row, what it used, and where it lies."""
    usage = manifest.usage
    cost = f"; {said(manifest.costs)}" if manifest.costs else ""
    log.info(
        f"{manifest.rows:,} rows: {counted(manifest)}; {usage.input_tokens:,} tokens in, {usage.output_tokens:,} out"
        f"{cost}"
    )
    log.info(f"Results: {uri}")
