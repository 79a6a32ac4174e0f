"""What an input is going to cost: low, likely and high, by hand for a few, and by property for all."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_llmbatch.core.costs.estimate import (
    Calibration,
    CostRange,
    Estimate,
    ModelEstimate,
    TokenRange,
    estimate,
    is_reasoning,
)
from airflow_provider_llmbatch.core.costs.prices import Prices
from airflow_provider_llmbatch.core.costs.table import price_table
from airflow_provider_llmbatch.core.costs.telling import told_estimate
from airflow_provider_llmbatch.core.costs.volume import Texts, Volume, VolumeMeter

NOW = 1_790_000_000.0
CHAT = "/v1/chat/completions"
ONE_DOLLAR = {"batch": {"input": "1", "output": "10"}, "standard": {"input": "2", "output": "20"}}
TABLE = price_table(
    {
        "source": "the agreement",
        "as_of": "2026-10-14",
        "models": {"gpt-4o": ONE_DOLLAR, "e": {"batch": {"input": "1"}}},
    },
    name="the test's",
)
PRICES = Prices(None, TABLE)
# 1,000 rows with 100,000 digits in all: 75,000 tokens in GPT-4o's vocabulary, and 7 for each request's own marks.
ROWS = Volume(rows=1_000, bytes=200_000, texts=Texts(messages=1_000, digits=100_000), answers=1_000)
BOUNDED = ROWS.model_copy(update={"bound": 50_000})
UNBOUNDED = ROWS.model_copy(update={"unbounded": 1_000})


def of(volume: Volume, *, model: str = "gpt-4o", calibration: Calibration | None = None) -> Estimate:
    group = (model, CHAT)
    return estimate({group: volume}, PRICES, now=NOW, calibrations={group: calibration} if calibration else {})


def test_bounded_answers_cost_at_most_what_their_bounds_allow() -> None:
    made = of(BOUNDED)
    assert made.models == (
        ModelEstimate(
            model="gpt-4o",
            endpoint=CHAT,
            rows=1_000,
            bytes=200_000,
            input_tokens=TokenRange(low=67_000, likely=82_000, high=112_000),
            output_tokens=TokenRange(low=50_000, likely=50_000, high=50_000),
            cost_usd=CostRange(low=Decimal("0.567"), likely=Decimal("0.582"), high=Decimal("0.612")),
            without_batch_usd=Decimal("1.164"),
            price_source="the agreement",
            price_since=TABLE.as_of,
            bounded=True,
        ),
    )
    assert (made.rows, made.total_usd, made.counted_usd) == (1_000, made.models[0].cost_usd, Decimal("0.612"))
    assert told_estimate(made) == (
        "About $0.58 ($0.57 to $0.61) for 1,000 rows on gpt-4o, $1.16 without batch; prices of 2026-10-14 from the "
        "agreement."
    )


def test_answers_without_a_bound_are_as_long_as_answers_are_and_only_the_likely_figure_counts() -> None:
    made = of(UNBOUNDED)
    assert made.models[0].output_tokens == TokenRange(low=58_000, likely=338_000, high=2_048_000)
    assert made.counted_usd == made.models[0].cost_usd.likely == Decimal("3.462")  # type: ignore[union-attr] # priced
    assert told_estimate(made).endswith("Not all requests bound their answers (max_tokens): longer ones cost more.")


def test_a_reasoning_model_writes_more_than_one_sees() -> None:
    assert of(UNBOUNDED, model="gpt-5-mini").models[0].output_tokens == TokenRange(
        low=338_000, likely=1_000_000, high=25_000_000
    )


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        *((name, True) for name in ("gpt-5", "o3-mini", "gemini-2.5-pro", "deepseek-reasoner")),
        *((name, False) for name in ("gpt-4o", "gpt-5-chat", "gemini-2.5-flash-lite", "proto1", None)),
    ],
)
def test_a_name_tells_whether_a_model_reasons(model: str | None, expected: bool) -> None:
    assert is_reasoning(model) is expected


def test_an_earlier_run_of_the_same_prompt_tells_more_than_any_guess() -> None:
    seen = Calibration.of(rows=10_000, bytes_asked=2_000_000, input_tokens=900_000, output_tokens=120_000)
    made = of(UNBOUNDED, calibration=seen)
    assert made.models[0].input_tokens == TokenRange(low=75_600, likely=90_000, high=104_400)  # 16 % more or less
    assert made.models[0].output_tokens == TokenRange(low=10_080, likely=12_000, high=13_920)
    assert made.counted_usd == made.total_usd.high == Decimal("0.2436")  # type: ignore[union-attr] # priced
    assert "Made from 10,000 answers to the same prompt before." in told_estimate(made)


def test_an_earlier_run_does_not_lift_a_bound() -> None:
    seen = Calibration(rows=10_000, input_per_byte=0.25, output_per_row=60)
    assert of(BOUNDED, calibration=seen).models[0].output_tokens == TokenRange(low=50_000, likely=50_000, high=50_000)


@pytest.mark.parametrize(
    "told",
    [{"rows": 0}, {"bytes_asked": 0}, {"input_tokens": 0}],
    ids=["nothing answered", "nothing asked", "no usage"],
)
def test_a_run_without_figures_tells_nothing(told: dict[str, int]) -> None:
    given = {"rows": 1, "bytes_asked": 1, "input_tokens": 1, "output_tokens": 1}
    assert Calibration.of(**{**given, **told}) is None


@pytest.mark.parametrize("endpoint", ["/v1/embeddings", "/embeddings", "/v1/moderations"])
def test_embeddings_have_no_output_and_are_bounded(endpoint: str) -> None:
    made = estimate({("e", endpoint): UNBOUNDED}, PRICES, now=NOW).models[0]
    assert (made.output_tokens, made.bounded) == (TokenRange(low=0, likely=0, high=0), True)
    assert made.cost_usd is not None  # its price has no rate for output, and needs none


def test_the_price_of_one_model_that_is_not_known_makes_the_sum_unknown() -> None:
    made = estimate({("gpt-4o", CHAT): BOUNDED, ("ours", CHAT): BOUNDED}, PRICES, now=NOW)
    assert (made.total_usd, made.without_batch_usd, made.counted_usd, made.unpriced) == (None, None, None, ("ours",))
    assert told_estimate(made).startswith("The price of ours in batches is not known. About 1")


def test_images_that_are_made_have_no_estimate() -> None:
    made = estimate({("gpt-4o", "/v1/images/generations"): BOUNDED}, PRICES, now=NOW)
    assert (made.total_usd, made.not_counted) == (None, {"images made": 1_000})


def test_what_is_not_counted_is_said() -> None:
    media = BOUNDED.model_copy(update={"not_counted": {"audio": 3}, "images": 2})
    assert told_estimate(of(media)).endswith(" Not counted: 3 audio.")
    made = estimate({("ours", CHAT): media}, PRICES, now=NOW)
    assert made.not_counted == {"audio": 3, "images": 2}  # nobody knows how many tokens an image is to that model


def test_the_size_of_the_mean_request_decides_the_tier() -> None:
    tiers = {"input": "1", "output": "1", "tiers": [{"above": 1_000, "input": "2", "output": "2"}]}
    prices = Prices(None, price_table({"models": {"gemini-x": {"batch": tiers}}}, name="the test's"))
    small, large = (Volume(rows=1, texts=Texts(token_ids=tokens), answers=1) for tokens in (1_000, 1_001))
    costs = [estimate({("gemini-x", CHAT): each}, prices, now=NOW).total_usd for each in (small, large)]
    assert [cost and cost.likely for cost in costs] == [Decimal("0.001"), Decimal("0.002002")]


def test_a_published_price_has_a_day_or_a_source() -> None:
    made = estimate({("gpt-4o-mini", CHAT): BOUNDED}, Prices("openai"), now=NOW)
    assert made.total_usd is not None
    assert made.without_batch_usd == 2 * made.total_usd.likely
    assert "genai-prices" in told_estimate(made)


def test_an_estimate_is_read_as_it_was_written() -> None:
    made = of(BOUNDED, calibration=Calibration(rows=10, input_per_byte=0.25, output_per_row=6))
    written = made.model_dump_json()
    assert Estimate.model_validate_json(written) == made
    assert json.loads(written)["total_usd"]["low"] == str(made.total_usd.low.normalize())  # type: ignore[union-attr]


texts = st.text(st.characters(codec="utf-8"), max_size=60)
bounds = st.none() | st.integers(0, 5_000)
models = st.sampled_from(["gpt-4o", "gpt-5-mini", "gemini-2.5-flash", "claude", "smollm2", "ours", None])


def metered(rows: list[tuple[str, int | None]]) -> Volume:
    meter = VolumeMeter()
    for text, bound in rows:
        body = {"messages": [{"role": "user", "content": text}]}
        meter.add(json.dumps(body).encode(), max_tokens=bound)
    return meter.volume()


@settings(max_examples=30)
@given(st.lists(st.tuples(texts, bounds), min_size=1, max_size=8), models, st.sampled_from([CHAT, "/v1/embeddings"]))
def test_low_is_never_above_likely_nor_that_above_high(
    rows: list[tuple[str, int | None]], model: str | None, endpoint: str
) -> None:
    prices = Prices(None, price_table({"models": {"*": ONE_DOLLAR}}, name="the test's"))
    for calibration in (None, Calibration(rows=9, input_per_byte=0.3, output_per_row=40)):
        calibrations = {(model, endpoint): calibration} if calibration else {}
        made = estimate({(model, endpoint): metered(rows)}, prices, now=NOW, calibrations=calibrations).models[0]
        for each in (made.input_tokens, made.output_tokens, made.cost_usd):
            assert each is not None
            assert 0 <= each.low <= each.likely <= each.high


@settings(max_examples=30)
@given(st.lists(st.tuples(texts, bounds), min_size=1, max_size=8), st.tuples(texts, bounds), models)
def test_one_row_more_never_lowers_what_is_counted(
    rows: list[tuple[str, int | None]], more: tuple[str, int | None], model: str | None
) -> None:
    prices = Prices(None, price_table({"models": {"*": ONE_DOLLAR}}, name="the test's"))
    group = (model, CHAT)
    before, after = (estimate({group: metered(each)}, prices, now=NOW) for each in (rows, [*rows, more]))
    assert before.total_usd is not None
    assert after.total_usd is not None
    assert after.models[0].output_tokens.high >= before.models[0].output_tokens.high
    assert after.total_usd.high >= before.total_usd.high
