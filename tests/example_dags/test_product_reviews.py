"""The table of the example is what the README and the demo say of it."""

from __future__ import annotations

import csv
from collections import Counter
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def reviews(example_dags: Path) -> list[dict[str, str]]:
    with (example_dags / "data" / "product_reviews.csv").open(newline="", encoding="utf-8") as table:
        return list(csv.DictReader(table, strict=True))


def test_there_are_64_reviews_with_every_field_filled(reviews: list[dict[str, str]]) -> None:
    assert len(reviews) == 64
    columns = ["review_id", "product", "review", "truth", "difficulty"]
    assert [row for row in reviews if list(row) != columns or not all(row.values())] == []


@pytest.mark.parametrize("column", ["review_id", "review"])
def test_nothing_is_there_twice(reviews: list[dict[str, str]], column: str) -> None:
    assert [value for value, count in Counter(row[column] for row in reviews).items() if count > 1] == []


def test_labels_and_difficulties_are_mixed_so_that_no_constant_answer_looks_good(reviews: list[dict[str, str]]) -> None:
    kinds = Counter((row["truth"], row["difficulty"]) for row in reviews)
    assert set(kinds) == {(truth, hard) for truth in ("positive", "negative") for hard in ("easy", "hard")}
    assert min(kinds.values()) >= 12
    assert 0.4 <= sum(row["truth"] == "positive" for row in reviews) / len(reviews) <= 0.6
