"""The example in a real Airflow: every review ends in its table exactly once."""

from __future__ import annotations

import csv
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

Told = dict[str, Any]


@pytest.fixture
def run(examples: Told) -> Told:
    told: Told = examples["nightly_batch_inference"]
    return told


def test_it_runs_every_night(run: Told) -> None:
    assert (run["schedule"], run["catchup"], run["retries"]) == ("0 1 * * *", False, [2])


def test_its_five_tasks_follow_each_other_and_all_succeed(run: Told) -> None:
    assert run["upstream"] == {
        "build_requests": [],
        "create_file": ["build_requests"],
        "classify": ["create_file"],
        "download": ["classify"],
        "join": ["download"],
    }
    assert (run["state"], run["tasks"]) == ("success", dict.fromkeys(run["upstream"], "success"))


def test_the_engine_echo_labels_nothing_and_still_every_review_is_in_the_table_once(
    run: Told, example_dags: Path, output: Path
) -> None:
    with (example_dags / "data" / "product_reviews.csv").open(newline="", encoding="utf-8") as table:
        reviews = list(csv.DictReader(table))
    with (output / run["run_id"] / "reviews_labelled.csv").open(newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    kept = ("review_id", "review", "truth")
    assert [[row[name] for name in kept] for row in rows] == [[row[name] for name in kept] for row in reviews]
    assert Counter((row["label"], row["outcome"]) for row in rows) == {("", "invalid"): 64}
    assert min(int(row["prompt_tokens"]) for row in rows) > 0
