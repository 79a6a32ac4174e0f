"""``docs/costs.md``: its price table can be used, and it names every field of a bill and every kind of rate."""

from __future__ import annotations

import re
from pathlib import Path

from airflow_provider_llmbatch.core.costs.bill import Costs
from airflow_provider_llmbatch.core.costs.rates import Rates
from airflow_provider_llmbatch.core.costs.table import Entry, PriceTable, price_table

TEXT = (Path(__file__).parents[2] / "docs" / "costs.md").read_text()
NAMED = set(re.findall(r"`(\w+)`", TEXT))


def test_the_table_that_is_shown_can_be_used() -> None:
    [shown] = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)
    table = price_table(shown, name="the table in the docs")
    assert list(table.models) == ["gpt-5-mini", "reviews-eu", "*"]


def test_every_field_is_named() -> None:
    assert set(Costs.model_fields) - NAMED == set()
    assert (set(Rates().by_kind()) | set(Entry.model_fields) | set(PriceTable.model_fields)) - NAMED == set()
