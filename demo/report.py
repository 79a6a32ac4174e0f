"""What the run was worth: computed from the downloaded results and from the table that the DAG made of them."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from demo.stopping import DemoError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_ECHO: Final = "echo"  # the system_fingerprint of the test engine
# How many rows of each kind the table shows: the mistakes are of interest, and that hard ones can be right.
_SHOWN: Final = ((("easy", False), 2), (("hard", False), 4), (("hard", True), 4), (("easy", True), 4))


class UnusableResultsError(DemoError):
    """The results say nothing about a model; the message says why."""


@dataclass(frozen=True)
class Row:
    """A review and what the model made of it."""

    review_id: str
    review: str
    truth: str
    difficulty: str
    label: str
    outcome: str
    prompt_tokens: int
    completion_tokens: int

    @property
    def is_right(self) -> bool:
        return self.outcome == "succeeded" and self.label == self.truth

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class Report:
    rows: tuple[Row, ...]

    @property
    def right(self) -> int:
        return sum(row.is_right for row in self.rows)

    def of_interest(self) -> list[Row]:
        """A dozen rows or so, wrong ones among them, in the order of the table."""
        shown: set[str] = set()
        for kind, count in _SHOWN:
            of_kind = [row.review_id for row in self.rows if (row.difficulty, row.is_right) == kind]
            shown.update(of_kind[:count])
        return [row for row in self.rows if row.review_id in shown]

    def summary(self) -> str:
        """Such as ``53 of 64 right (83 %) · 4,611 tokens in, 512 out · 0 failed, 0 missing``."""
        outcomes = Counter(row.outcome for row in self.rows)
        counts = [f"{outcomes.pop(name, 0)} {name}" for name in ("failed", "missing")]
        counts += [f"{count} {name}" for name, count in sorted(outcomes.items()) if name != "succeeded"]
        tokens_in = sum(row.prompt_tokens for row in self.rows)
        tokens_out = sum(row.completion_tokens for row in self.rows)
        share = self.right / len(self.rows)
        return (
            f"{self.right} of {len(self.rows)} right ({share:.0%}) · {tokens_in:,} tokens in, {tokens_out:,} out · "
            + ", ".join(counts)
        ).replace("%)", " %)")


def read_report(*, reviews: Path, labelled: Path, results: Path) -> Report:
    """Read a run.

    :param reviews: The table that the DAG read.
    :param labelled: The table that it wrote.
    :param results: The downloaded results that it was made from.
    :raises UnusableResultsError: Rows or answers are missing, or no model made the answers.
    """
    table = _table(reviews)
    outcomes = _checked_outcomes(results, expected={row["review_id"] for row in table})
    found = _table(labelled)
    if Counter(row["review_id"] for row in found) != Counter(row["review_id"] for row in table):
        raise UnusableResultsError(
            f"{labelled.name} has {len(found)} rows, but not each of the {len(table)} reviews exactly once."
        )
    difficulty = {row["review_id"]: row["difficulty"] for row in table}
    rows = tuple(_row(row, difficulty[row["review_id"]]) for row in found)
    for row in rows:
        if row.outcome not in {outcomes[row.review_id], "invalid"}:
            raise UnusableResultsError(
                f"{row.review_id} is {row.outcome} in {labelled.name}, but {outcomes[row.review_id]} in the results."
            )
    return Report(rows)


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def _row(row: dict[str, str], difficulty: str) -> Row:
    return Row(
        review_id=row["review_id"],
        review=row["review"],
        truth=row["truth"],
        difficulty=difficulty,
        label=row["label"],
        outcome=row["outcome"],
        prompt_tokens=int(row["prompt_tokens"]),
        completion_tokens=int(row["completion_tokens"]),
    )


def _checked_outcomes(path: Path, *, expected: set[str]) -> dict[str, str]:
    outcomes: dict[str, str] = {}
    made_by: Counter[str] = Counter()
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            result = json.loads(line)
            outcomes[result["custom_id"]] = result["outcome"]
            body = (result["response"] or {}).get("body") or {}
            if result["outcome"] == "succeeded":
                made_by[_maker(body)] += 1
    if made_by[_ECHO]:
        raise UnusableResultsError(
            f"{made_by[_ECHO]} answers were made by the engine echo, which is no model: there is no accuracy to tell."
        )
    lost = sorted((expected - outcomes.keys()) | {key for key, outcome in outcomes.items() if outcome == "missing"})
    if lost:
        raise UnusableResultsError(f"{len(lost)} of {len(expected)} reviews have no answer: {_some(lost)}.")
    if not made_by:
        raise UnusableResultsError(
            f"None of the {len(expected)} requests succeeded: {dict(Counter(outcomes.values()))}."
        )
    return outcomes


def _maker(body: dict[str, object]) -> str:
    """What made an answer. Vertex AI has no field for it but the answer's id, into which the server writes it there."""
    fingerprint = str(body.get("system_fingerprint"))
    return _ECHO if str(body.get("id")).startswith(f"{_ECHO}-") else fingerprint


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
