"""Why rows of a result set lack a good answer: the most frequent codes, each with the place of a first example.

Messages come from the provider and may quote a prompt, so they stay in the process: the manifest has none, and the
task's log only if that was asked for. What tells a row is its line in the set, since a key may be personal.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import msgspec

from airflow_provider_llmbatch.core.run.manifest import ErrorEntry
from airflow_provider_llmbatch.models import Outcome, ResultError  # noqa: TC001 - msgspec reads the annotations

if TYPE_CHECKING:
    from collections.abc import Mapping

_ENTRIES: Final = 10
_TOLD_APART: Final = 1_000
_CODE_CHARS: Final = 60
_MESSAGE_CHARS: Final = 2_000
OTHER: Final = "other"
"""The code of all that are not told apart any more."""


class _Tail(msgspec.Struct, gc=False):
    outcome: Outcome
    error: ResultError | None = None


_decode = msgspec.json.Decoder(_Tail).decode


class FrequentErrors:
    """Counts while a set is written."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[Outcome, str]] = Counter()
        self._places: dict[tuple[Outcome, str], tuple[str, int]] = {}
        self._messages: dict[tuple[Outcome, str], str] = {}

    def add(self, tail: bytes, uri: str, line: int) -> None:
        """Count a row that has no good answer.

        :param tail: From ``"outcome"`` to the closing brace, as in the set.
        :param uri: The data file, relative to the manifest.
        :param line: In that file, counted from 1.
        """
        row = _decode(b"{" + tail)
        code = row.error.code[:_CODE_CHARS] if row.error and row.error.code else row.outcome
        kind = (row.outcome, code)
        if kind not in self._counts:
            if len(self._counts) >= _TOLD_APART:
                kind = (row.outcome, OTHER)
            self._places.setdefault(kind, (uri, line))
            if row.error and row.error.message:
                self._messages.setdefault(kind, row.error.message[:_MESSAGE_CHARS])
        self._counts[kind] += 1

    def entries(self) -> tuple[ErrorEntry, ...]:
        """The ten most frequent ones, the most frequent first."""
        most = sorted(self._counts.items(), key=lambda counted: (-counted[1], counted[0]))[:_ENTRIES]
        return tuple(
            ErrorEntry(
                outcome=kind[0], code=kind[1], count=count, uri=self._places[kind][0], line=self._places[kind][1]
            )
            for kind, count in most
        )

    def messages(self) -> Mapping[tuple[Outcome, str], str]:
        """What the provider said of the example of each outcome and code."""
        return self._messages
