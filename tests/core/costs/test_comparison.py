"""The same tokens on another model, and how amounts are said."""

from __future__ import annotations

from decimal import Decimal

import pytest

from airflow_provider_llmbatch.core.costs.bill import CostTotals
from airflow_provider_llmbatch.core.costs.comparison import compared, costs_as
from airflow_provider_llmbatch.core.costs.meter import Meter
from airflow_provider_llmbatch.core.costs.prices import Prices
from airflow_provider_llmbatch.core.costs.tokens import Tokens
from airflow_provider_llmbatch.core.costs.wording import dollars, said


def local_bill(rows: int, taken: int, given: int) -> dict[str, object]:
    """Of a model of one's own, as it comes out of XCom."""
    meter = Meter(Prices(), 0, None)
    for _ in range(rows):
        meter.answered("smollm2", Tokens(input=taken, cached=taken // 2, output=given, total=taken + given))
    return meter.costs().model_dump(mode="json")


def test_a_model_that_nobody_bills_is_told_at_another_models_price() -> None:
    bill = local_bill(10, 1_000, 200)  # 10,000 x 0.125 + 2,000 x 1, and twice that
    assert costs_as(bill, "gpt-5-mini") == CostTotals(
        total_usd=Decimal("0.00325"), known_usd=Decimal("0.00325"), standard_usd=Decimal("0.0065")
    )
    assert compared(bill, "gpt-5-mini") == "as gpt-5-mini: $0.0032 in a batch, $0.0065 without"


def test_long_requests_are_priced_as_such() -> None:
    bill = local_bill(2, 200_001, 0)
    assert costs_as(bill, "gemini-2.5-pro", provider="google").total_usd == 400_002 * Decimal("1.25") / 1_000_000


def test_a_model_without_a_price_is_said_to_have_none() -> None:
    assert costs_as(local_bill(3, 1, 1), "no-such-model").unpriced_rows == 3
    told = compared(local_bill(1, 1, 1), "gemini-embedding-001", provider="google")
    assert told == "as gemini-embedding-001: of unknown price in a batch, of unknown price without"


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("1234.5", "$1,234.50"),
        ("1", "$1.00"),
        ("0.126", "$0.13"),
        ("0.012", "$0.012"),
        ("0.000123456", "$0.00012"),
        ("0", "$0.00"),
    ],
)
def test_small_amounts_are_said_to_two_digits(amount: str, text: str) -> None:
    assert dollars(Decimal(amount)) == text


@pytest.mark.parametrize(
    ("costs", "text"),
    [
        (CostTotals(total_usd=2, known_usd=2, standard_usd=4), "$2.00 (without a batch $4.00)"),
        (CostTotals(total_usd=2, known_usd=2), "$2.00"),
        (CostTotals(known_usd=2, unpriced_rows=1), "$2.00 and 1 answer of unknown price"),
        (CostTotals(unpriced_rows=1_200), "cost not known of 1,200 answers"),
    ],
)
def test_what_is_not_known_is_said(costs: CostTotals, text: str) -> None:
    assert said(costs) == text
