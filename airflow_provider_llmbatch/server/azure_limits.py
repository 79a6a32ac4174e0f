"""What makes a caller of Azure OpenAI wait: files that are still being read, and a queue that is full."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from airflow_provider_llmbatch.server.faults import first_striking
from airflow_provider_llmbatch.server.refusals import ApiError
from airflow_provider_llmbatch.server.validation import first_line

if TYPE_CHECKING:
    from airflow_provider_llmbatch.models import File
    from airflow_provider_llmbatch.server.faults import Faults
    from airflow_provider_llmbatch.server.store import Store

_BYTES_PER_TOKEN: Final = 4  # a rule of thumb; Azure's own estimate goes by characters too


class Intake:
    """Files on their way from ``pending`` to ``processed`` or ``error``. After a restart all have arrived.

    :param seconds: How long an input file is on its way; with 0 it has arrived when it is uploaded.
    :param faults: May say which files end as ``error``.
    """

    def __init__(self, seconds: float, faults: Faults | None = None) -> None:
        self._seconds = seconds
        self._rules = faults.files if faults else []
        self._arrivals: dict[str, float] = {}
        self._broken: dict[str, str] = {}

    def begin(self, file: dict[str, object]) -> None:
        """Take in a file that was uploaded; only input files are read."""
        if file["purpose"] != "batch":
            return
        name = str(file["filename"])
        self._arrivals[str(file["id"])] = time.monotonic() + self._seconds
        if rule := first_striking(self._rules, lambda rule: rule.filename.search(name) is not None):
            self._broken[str(file["id"])] = rule.details

    def state(self, file_id: str) -> tuple[str, str | None]:
        """Status and ``status_details``."""
        arrival = self._arrivals.get(file_id)
        if arrival is not None and time.monotonic() < arrival:
            return "pending", None
        self._arrivals.pop(file_id, None)
        details = self._broken.get(file_id)
        return ("processed", None) if details is None else ("error", details)


class TokenQueue:
    """The tokens of all batches that have not ended, and how many there may be.

    Azure counts them for each deployment, and this server for all of its models together.
    """

    def __init__(self, store: Store, limit: int) -> None:
        self._store = store
        self._limit = limit

    def check(self, file: File) -> None:
        """:raises ApiError: A batch of this file would be too much, in Azure's words."""
        if self._enqueued() + file.bytes // _BYTES_PER_TOKEN <= self._limit:
            return
        deployment = first_line(self._store.content(file)).body.model
        raise ApiError(
            400,
            f"The number of enqueued tokens has surpassed the configured limit of {self._limit} for the deployment "
            f"'{deployment}'.",
            code="token_limit_exceeded",
            headers=self.headers(),
        )

    def headers(self) -> dict[str, str]:
        """What the answers to a creation and to a listing carry (2024-10-01-preview and later)."""
        return {
            "deployment-enqueued-tokens": str(self._enqueued()),
            "deployment-maximum-enqueued-tokens": str(self._limit),
        }

    def _enqueued(self) -> int:
        paths = [self._store.input_of(batch) for batch in self._store.unfinished_batches()]
        return sum(path.stat().st_size // _BYTES_PER_TOKEN for path in paths if path.exists())
