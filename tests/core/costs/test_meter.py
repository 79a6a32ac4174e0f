"""The bill of a batch: every answer once, by its own tokens and model, exact to the last digit."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_llmbatch.core.costs.bill import Costs, ModelCosts, RateStep, total_costs, unknown_costs
from airflow_provider_llmbatch.core.costs.meter import Meter
from airflow_provider_llmbatch.core.costs.prices import Prices
from airflow_provider_llmbatch.core.costs.table import price_table
from airflow_provider_llmbatch.core.costs.tokens import Tokens
from airflow_provider_llmbatch.models import InputTokensDetails, OutputTokensDetails, Usage

TABLE = price_table(
    {
        "source": "ours",
        "as_of": "2026-07-01",
        "models": {
            "m": {
                "batch": {
                    "input": "1",
                    "cached_input": "0.1",
                    "cache_write": "1.25",
                    "output": "4",
                    "input_audio": "3",
                },
                "standard": {
                    "input": "2",
                    "cached_input": "0.2",
                    "cache_write": "2.5",
                    "output": "8",
                    "input_audio": 6,
                },
            },
            "long": {
                "batch": {"input": "1", "output": "4", "tiers": [{"above": 1000, "input": 2, "output": 6}]},
                "standard": {"input": "2", "output": "8", "tiers": [{"above": 500, "input": 4, "output": 12}]},
            },
            "vectors": {"batch": {"input": "0.01"}, "standard": {"input": "0.02"}},
            "only single": {"standard": {"input": "2", "output": "8"}},
        },
    },
    name="the table",
)


def meter(asked: str | None = None) -> Meter:
    return Meter(Prices(None, TABLE), 0, asked)


def test_each_answer_has_its_price_and_the_bill_is_their_sum() -> None:
    bill = meter("m")
    assert bill.answered("m", Tokens(input=1000, cached=400, output=50, reasoning=30, total=1050)) == b"0.00084"
    assert bill.answered(None, Tokens(input=1, total=1)) == b"0.000001"
    assert bill.unanswered("m", None) == b"0"
    assert bill.unanswered("m", Tokens(output=250_000, total=250_000)) == b"1"  # broken off, and billed
    rates = {"input": 1, "cached_input": "0.1", "cache_write": "1.25", "output": 4, "input_audio": 3}
    assert bill.costs() == Costs(
        total_usd=Decimal("1.000841"),
        known_usd=Decimal("1.000841"),
        standard_usd=Decimal("2.001682"),
        models=(
            ModelCosts(
                model="m",
                priced_as="m",
                rows=3,
                usage=Usage(
                    input_tokens=1001,
                    input_tokens_details=InputTokensDetails(cached_tokens=400),
                    output_tokens=250_050,
                    output_tokens_details=OutputTokensDetails(reasoning_tokens=30),
                    total_tokens=251_051,
                ),
                source="ours",
                since=date(2026, 7, 1),
                rates=(RateStep(rates={kind: Decimal(rate) for kind, rate in rates.items()}),),
                total_usd=Decimal("1.000841"),
                known_usd=Decimal("1.000841"),
                standard_usd=Decimal("2.001682"),
            ),
        ),
    )


def test_a_request_is_billed_by_its_own_size_in_a_batch_and_without_one() -> None:
    bill = meter("long")
    sizes = (500, 501, 1000, 1001)
    assert [bill.answered("long", Tokens(input=size, output=100, total=size + 100)) for size in sizes] == [
        b"0.0009",
        b"0.000901",
        b"0.0014",
        b"0.002602",
    ]
    costs = bill.costs()
    assert costs.total_usd == Decimal("0.005803")
    assert costs.standard_usd == Decimal("0.0018") + 3 * Decimal("0.0012") + 2502 * Decimal("0.000004")


def test_vectors_are_billed_by_their_input_alone() -> None:
    bill = meter("vectors")
    assert bill.answered("vectors", Tokens(input=8, total=8)) == b"0.00000008"
    assert bill.costs().total_usd == Decimal("0.00000008")


@pytest.mark.parametrize(
    ("model", "tokens"),
    [
        ("unheard-of", Tokens(input=1, output=1, total=2)),
        ("only single", Tokens(input=1, output=1, total=2)),
        ("vectors", Tokens(input=1, output=1, total=2)),
        ("m", None),
        ("m", Tokens()),
    ],
)
def test_a_sum_of_which_a_part_is_not_known_never_looks_like_the_whole(model: str, tokens: Tokens | None) -> None:
    bill = meter()
    assert bill.answered(model, tokens) == b"null"
    assert bill.answered("m", Tokens(input=1_000_000, total=1_000_000)) == b"1"
    costs = bill.costs()
    assert (costs.total_usd, costs.known_usd, costs.unpriced_rows) == (None, Decimal(1), 1)
    assert costs.unpriced_models == (model,)
    known = Decimal("2.00001") if model == "only single" else None
    assert costs.standard_usd == known


def test_the_providers_own_sum_is_billed_where_answers_tell_nothing() -> None:
    bill = meter("m")
    for _ in range(3):
        bill.answered(None, None)
    bill.whole(Tokens(input=900_000, output=25_000, total=925_000))
    costs = bill.costs()
    assert (costs.total_usd, costs.models[0].rows) == (Decimal(1), 3)


@pytest.mark.parametrize(("size", "total"), [(500, Decimal("0.0005")), (501, None)])
def test_a_sum_of_requests_of_unknown_size_has_a_price_only_if_all_have_the_same(
    size: int, total: Decimal | None
) -> None:
    bill = meter("long")
    bill.answered("long", None)
    bill.answered("long", None)
    bill.whole(Tokens(input=size, total=size))
    costs = bill.costs()
    assert (costs.total_usd, costs.unpriced_rows) == (total, 0 if total else 2)


def test_a_server_that_names_each_answer_differently_does_not_fill_the_ledger() -> None:
    bill = meter()
    for number in range(1000):
        bill.answered(f"m-{number}", Tokens(input=1, total=1))
    costs = bill.costs()
    assert len(costs.models) == 51
    assert (sum(each.rows for each in costs.models), costs.unpriced_rows) == (1000, 1000)


counts = st.integers(0, 3000)
answers = st.lists(
    st.tuples(
        st.sampled_from(["m", "long", "vectors", "unheard-of"]),
        st.builds(
            lambda taken, cached, written, heard, given, total: Tokens(
                taken, cached, given, 0, total, written, heard, 0, 0, 0
            ),
            counts,
            counts,
            counts,
            counts,
            counts,
            st.integers(1, 9),
        ),
    )
)


@given(answers, answers)
def test_the_bill_is_the_sum_of_its_rows_and_bills_add_up(
    first: list[tuple[str, Tokens]], second: list[tuple[str, Tokens]]
) -> None:
    bills, amounts = [], []
    for batch in (first, second):
        bill = meter()
        amounts += [bill.answered(model, tokens) for model, tokens in batch]
        bills.append(bill.costs())
        assert bill.tokens == _sum([tokens for _, tokens in batch])
    total = total_costs(bills)
    assert total.known_usd == sum(Decimal(amount.decode()) for amount in amounts if amount != b"null")
    assert total.unpriced_rows == amounts.count(b"null")
    together = meter()
    for model, tokens in first + second:
        together.answered(model, tokens)
    assert total == together.costs()
    assert Costs.model_validate_json(total.model_dump_json()) == total


def _sum(all_tokens: list[Tokens]) -> Tokens:
    def added(total: Tokens, tokens: Tokens) -> Tokens:
        total.add(tokens)
        return total

    return reduce(added, all_tokens, Tokens())


def test_answers_of_an_older_release_are_not_known_to_cost_anything() -> None:
    costs = total_costs([unknown_costs(3), meter().costs()])
    assert (costs.total_usd, costs.known_usd, costs.unpriced_rows) == (None, Decimal(0), 3)
    assert unknown_costs(0).total_usd == 0


def test_amounts_are_texts_without_an_exponent_in_json() -> None:
    bill = meter("vectors")
    bill.answered("vectors", Tokens(input=8, total=8))
    told = bill.costs().model_dump(mode="json")
    assert told["total_usd"] == "0.00000008"
    assert told["models"][0]["rates"] == [{"above_input_tokens": 0, "rates": {"input": "0.01"}}]
