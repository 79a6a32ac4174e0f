"""What a model costs: by one's own table first, else as published, else not known."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from importlib.metadata import version

import pytest

from airflow_provider_llmbatch.core.costs.prices import Prices
from airflow_provider_llmbatch.core.costs.rates import Rates
from airflow_provider_llmbatch.core.costs.table import price_table
from airflow_provider_llmbatch.core.costs.tokens import Tokens
from airflow_provider_llmbatch.errors import ConnectionSettingsError

PACKAGE = f"genai-prices {version('genai-prices')}"
NOVEMBER = datetime(2026, 11, 1, tzinfo=UTC).timestamp()
RULE = "half, by https://platform.openai.com/docs/guides/batch"


def test_the_published_price_of_a_batch_comes_with_its_source_and_date() -> None:
    found = Prices("openai").of("gpt-5-mini-2025-08-07", NOVEMBER)
    assert found is not None
    assert found.model == "gpt-5-mini"
    assert found.batch is not None
    assert found.batch.source == f"{PACKAGE}: openai/gpt-5-mini, batch"
    assert found.batch.since == date(2026, 10, 14)
    assert found.batch.steps == ((0, Rates(input=Decimal("0.125"), cached_input=Decimal("0.0125"), output=Decimal(1))),)
    assert found.standard is not None
    assert found.standard.steps == (
        (0, Rates(input=Decimal("0.25"), cached_input=Decimal("0.025"), output=Decimal(2))),
    )


@pytest.mark.parametrize(
    ("provider", "model", "cached"),
    [
        ("openai", "gpt-4o-mini", "0.075"),  # no cached price in OpenAI's table of batches
        ("google", "gemini-2.5-flash", "0.03"),  # the discounts of cache and batch do not stack
        ("google", "publishers/google/models/gemini-2.5-flash", "0.03"),
    ],
)
def test_reads_from_the_cache_keep_their_price_where_batches_have_none_of_their_own(
    provider: str, model: str, cached: str
) -> None:
    found = Prices(provider).of(model, NOVEMBER)
    assert found is not None
    assert found.batch is not None
    assert found.standard is not None
    rates, standard = found.batch.at(1), found.standard.at(1)
    assert rates.cached_input == standard.cached_input == Decimal(cached)
    assert rates.input == standard.input / 2 if standard.input else False


def test_a_model_without_a_published_price_of_batches_is_billed_by_its_providers_rule_and_says_so() -> None:
    found = Prices("openai").of("text-embedding-3-small", NOVEMBER)
    assert found is not None
    assert found.batch is not None
    assert found.batch.source == f"{PACKAGE}: openai/text-embedding-3-small, standard; {RULE}"
    assert found.batch.steps == ((0, Rates(input=Decimal("0.01"))),)


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("google", "gemini-embedding-001"),  # Google's rule is about Gemini's answers
        ("google", "claude-haiku-4-5"),
        ("groq", "llama-3.1-8b-instant"),
    ],
)
def test_no_discount_is_invented(provider: str, model: str) -> None:
    found = Prices(provider).of(model, NOVEMBER)
    assert found is not None
    assert found.standard is not None
    assert found.batch is None


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "smollm2-135m-instruct"),
        ("openai", "whisper-1"),  # billed by the hour
        ("http://127.0.0.1:4000/v1", "gpt-5-mini"),  # a server of one's own
        (None, "gpt-5-mini"),
        ("openai", ""),
    ],
)
def test_what_nobody_publishes_is_not_known(provider: str | None, model: str) -> None:
    assert Prices(provider).of(model, NOVEMBER) is None


def test_a_server_that_speaks_openais_api_has_its_own_providers_prices() -> None:
    found = Prices("https://api.mistral.ai/v1").of("mistral-small-latest", NOVEMBER)
    assert found is not None
    assert found.batch is not None
    assert found.batch.source.startswith(f"{PACKAGE}: mistral/")


def test_azure_sells_openais_models_at_openais_price_and_its_own_list_comes_first() -> None:
    prices = Prices("azure")
    found, own = prices.of("gpt-4o-mini-2024-07-18", NOVEMBER), prices.of("o4-mini", NOVEMBER)
    assert found is not None
    assert own is not None
    assert found.batch is not None
    assert own.batch is not None
    assert found.batch.source == f"{PACKAGE}: openai/gpt-4o-mini, batch"
    assert own.batch.source.startswith(f"{PACKAGE}: azure/o4-mini, standard; half, by https://learn.microsoft")


def test_prices_are_those_of_the_day() -> None:
    prices = Prices("openai")
    june, august = (prices.of("gpt-5.6-luna", datetime(2026, month, 1, tzinfo=UTC).timestamp()) for month in (6, 8))
    assert june is not None
    assert august is not None
    assert june.standard is not None
    assert august.standard is not None
    assert (june.standard.at(1).input, june.standard.since) == (Decimal(1), None)
    assert (august.standard.at(1).input, august.standard.since) == (Decimal("0.2"), date(2026, 7, 30))


def test_long_prompts_have_their_own_price_for_all_of_their_tokens() -> None:
    found = Prices("google").of("gemini-2.5-pro", NOVEMBER)
    assert found is not None
    assert found.batch is not None
    assert [start for start, _ in found.batch.steps] == [0, 200_000]
    assert found.batch.at(200_000).output == Decimal(5)
    assert found.batch.at(200_001).output == Decimal("7.5")
    assert found.batch.cost(Tokens(input=200_001, output=10)) == (200_001 * Decimal("1.25") + 75) / 1_000_000


TABLE = """{
  "source": "our agreement", "as_of": "2026-07-01",
  "models": {
    "gpt-5-mini": {"batch": {"input": 0.1, "output": "0.8", "tiers": [{"above": 1000, "input": 0.2, "output": 1.6}]}},
    "reviews-eu": {"model": "gpt-4.1-mini", "multiplier": 1.1},
    "*": {"multiplier": "1.05", "source": "uplift"}
  }
}"""


def test_ones_own_rates_come_before_the_published_ones() -> None:
    found = Prices("openai", price_table(TABLE, name="the table")).of("gpt-5-mini-2025-08-07", NOVEMBER)
    assert found is not None
    assert found.batch is not None
    assert found.standard is None
    assert (found.batch.source, found.batch.since) == ("our agreement", date(2026, 7, 1))
    assert found.batch.steps == (
        (0, Rates(input=Decimal("0.1"), output=Decimal("0.8"))),
        (1000, Rates(input=Decimal("0.2"), output=Decimal("1.6"))),
    )


@pytest.mark.parametrize("answering", ["gpt-4.1-mini-2025-04-14", "reviews-eu", None])
def test_a_deployment_is_found_by_the_name_that_was_asked_for(answering: str | None) -> None:
    found = Prices("azure", price_table(TABLE, name="the table")).of(answering, NOVEMBER, asked="reviews-eu")
    assert found is not None
    assert found.batch is not None
    assert found.batch.at(1) == Rates(
        input=Decimal("0.22"), cached_input=Decimal("0.11"), output=Decimal("0.88")
    )  # 0.20, 0.10 and 0.80
    assert found.batch.source == f"{PACKAGE}: openai/gpt-4.1-mini, batch, times 1.1 by our agreement"


def test_all_other_models_may_have_a_multiplier() -> None:
    found = Prices("openai", price_table(TABLE, name="the table")).of("gpt-5-nano", NOVEMBER)
    assert found is not None
    assert found.batch is not None
    assert found.batch.at(1).output == Decimal("0.2") * Decimal("1.05")


def test_a_table_may_name_whose_published_prices_hold() -> None:
    own_server = "http://127.0.0.1:4000/v1"
    assert Prices(own_server, price_table('{"provider": "openai"}', name="t")).of("gpt-5-mini", NOVEMBER) is not None
    assert Prices("openai", price_table('{"provider": "none"}', name="t")).of("gpt-5-mini", NOVEMBER) is None


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "Invalid JSON"),
        ('{"models": {"m": {"batch": {"inptu": 1}}}}', "models.m.batch.inptu: Extra inputs are not permitted"),
        ('{"models": {"m": {"batch": {"input": -1}}}}', "greater than or equal to 0"),
        ('{"models": {"m": {"batch": {"input": "NaN"}}}}', "finite"),
        ('{"models": {"m": {}}}', "rates (batch, standard) or a published price (model, multiplier) are needed"),
        ('{"models": {"m": {"multiplier": 2, "batch": {"input": 1}}}}', "not both"),
    ],
)
def test_a_table_that_cannot_be_used_says_what_is_wrong_with_it(content: str, problem: str) -> None:
    with pytest.raises(ConnectionSettingsError) as error:
        price_table(content, name="The extra prices of 'llm'")
    assert problem in str(error.value)
    assert "Nothing was submitted or billed" in str(error.value)


@pytest.mark.parametrize(
    ("tokens", "dollars"),
    [
        (Tokens(input=1_000_000, output=1_000_000), "11"),
        (Tokens(input=1_000_000, cached=400_000), "0.64"),
        (Tokens(input=1_000_000, cached=400_000, cache_write=100_000), "0.665"),
        (Tokens(input=1_000_000, input_audio=500_000), "2"),
        (Tokens(input=100, cached=1_000_000), "0.00001"),  # beside the input: no more than there is
        (Tokens(input=1_000_000, cached=900_000, input_audio=300_000), "0.39"),  # cached audio: 100,000 are left
        (Tokens(output=1_000_000, reasoning=900_000), "10"),
        (Tokens(output=1_000_000, output_image=500_000), "10"),
        (Tokens(), "0"),
    ],
)
def test_every_token_is_billed_once_at_the_rate_of_its_kind(tokens: Tokens, dollars: str) -> None:
    rates = Rates(
        input=Decimal(1),
        cached_input=Decimal("0.1"),
        cache_write=Decimal("1.25"),
        input_audio=Decimal(3),
        output=Decimal(10),
    )
    assert rates.cost(tokens) == Decimal(dollars)


def test_tokens_of_a_kind_without_any_price_have_none() -> None:
    assert Rates(input=Decimal(1)).cost(Tokens(input=1, output=1)) is None


def test_prices_are_not_loaded_before_one_is_asked_for() -> None:
    program = (
        "import sys\nfrom airflow_provider_llmbatch.core.costs.prices import Prices\n"
        "assert 'genai_prices' not in sys.modules\n"
        "Prices(None).of('m', 0)\nassert 'genai_prices' not in sys.modules\n"
        "Prices('openai').of('m', 0)\nassert 'genai_prices' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
