"""The demo's figures come from what was downloaded, or there are none."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING

import pytest

from demo.report import Report, Row, UnusableResultsError, read_report

if TYPE_CHECKING:
    from pathlib import Path

REVIEWS = [
    {"review_id": "r1", "review": "Good.", "truth": "positive", "difficulty": "easy"},
    {"review_id": "r2", "review": "Bad.", "truth": "negative", "difficulty": "easy"},
    {"review_id": "r3", "review": "Not bad.", "truth": "positive", "difficulty": "hard"},
]


def labelled(
    review: dict[str, str], label: str | None, outcome: str = "succeeded", tokens: int = 10
) -> dict[str, object]:
    return {
        "review_id": review["review_id"],
        "review": review["review"],
        "truth": review["truth"],
        "label": label,
        "outcome": outcome,
        "prompt_tokens": tokens,
        "completion_tokens": 2,
    }


def result(custom_id: str, outcome: str = "succeeded", fingerprint: str = "b9000") -> dict[str, object]:
    body = {"system_fingerprint": fingerprint} if outcome == "succeeded" else None
    response = {"status_code": 200, "request_id": None, "body": body} if body else None
    return {"custom_id": custom_id, "outcome": outcome, "response": response, "error": None}


LABELLED = [
    labelled(REVIEWS[0], "positive"),
    labelled(REVIEWS[1], "negative"),
    labelled(REVIEWS[2], "negative"),
]
RESULTS = [result("r3"), result("r1"), result("r2")]


def read(folder: Path, table: list[dict[str, object]], results: list[dict[str, object]]) -> Report:
    for name, rows in (("reviews.csv", REVIEWS), ("labelled.csv", table)):
        with (folder / name).open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(LABELLED[0]) if name == "labelled.csv" else list(REVIEWS[0]))
            writer.writeheader()
            writer.writerows(rows)
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in results))
    return read_report(
        reviews=folder / "reviews.csv", labelled=folder / "labelled.csv", results=folder / "results.jsonl"
    )


def test_the_summary_counts_what_is_right_and_what_it_took(tmp_path: Path) -> None:
    report = read(tmp_path, LABELLED, RESULTS)
    assert report.summary() == "2 of 3 right (67 %) · 30 tokens in, 6 out · 0 failed, 0 missing"


def test_rows_without_a_label_are_not_right_and_are_named_by_their_outcome(tmp_path: Path) -> None:
    table = [LABELLED[0], labelled(REVIEWS[1], None, "failed", 0), labelled(REVIEWS[2], None, "invalid")]
    report = read(tmp_path, table, [result("r1"), result("r2", "failed"), result("r3")])
    assert report.summary() == "1 of 3 right (33 %) · 20 tokens in, 6 out · 1 failed, 0 missing, 1 invalid"
    assert [row.is_right for row in report.rows] == [True, False, False]


def test_answers_of_the_engine_echo_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableResultsError, match="1 answers were made by the engine echo, which is no model"):
        read(tmp_path, LABELLED, [result("r1"), result("r2", fingerprint="echo"), result("r3")])


@pytest.mark.parametrize("results", [RESULTS[:2], [*RESULTS[:2], result("r2", "missing")]])
def test_a_review_without_an_answer_is_refused_by_name(tmp_path: Path, results: list[dict[str, object]]) -> None:
    with pytest.raises(UnusableResultsError, match=r"^1 of 3 reviews have no answer: r2\.$"):
        read(tmp_path, LABELLED, results)


@pytest.mark.parametrize("table", [LABELLED[:2], [*LABELLED, LABELLED[0]], [*LABELLED[:2], LABELLED[0]]])
def test_a_table_that_lacks_or_repeats_a_review_is_refused(tmp_path: Path, table: list[dict[str, object]]) -> None:
    with pytest.raises(UnusableResultsError, match="not each of the 3 reviews exactly once"):
        read(tmp_path, table, RESULTS)


def test_a_table_that_contradicts_the_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableResultsError, match=r"^r1 is succeeded in labelled\.csv, but failed in the results\.$"):
        read(tmp_path, LABELLED, [result("r1", "failed"), *RESULTS[::2]])


def test_a_batch_in_which_nothing_succeeded_is_refused(tmp_path: Path) -> None:
    table = [labelled(review, None, "failed", 0) for review in REVIEWS]
    with pytest.raises(UnusableResultsError, match=r"None of the 3 requests succeeded: \{'failed': 3\}"):
        read(tmp_path, table, [result(review["review_id"], "failed") for review in REVIEWS])


def test_a_dozen_rows_or_so_are_shown_with_mistakes_among_them_in_the_order_of_the_table() -> None:
    rows = tuple(
        Row(f"r{n:02}", "text", "positive", "hard" if n % 2 else "easy", label, "succeeded", 1, 1)
        for n, label in enumerate(["positive", "positive", "negative", "negative"] * 16)
    )
    shown = Report(rows).of_interest()
    assert [row.review_id for row in shown] == sorted(row.review_id for row in shown)
    assert (len(shown), sum(row.is_right for row in shown)) == (14, 8)
