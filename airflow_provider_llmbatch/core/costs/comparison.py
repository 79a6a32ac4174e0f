"""What the same tokens would have cost on another model: of a model of one's own, which nobody bills, for one."""

from __future__ import annotations

import time
from decimal import Decimal
from typing import TYPE_CHECKING

from airflow_provider_llmbatch.core.costs.bill import Costs, CostTotals
from airflow_provider_llmbatch.core.costs.prices import Prices
from airflow_provider_llmbatch.core.costs.tokens import tokens_of_usage
from airflow_provider_llmbatch.core.costs.wording import dollars

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_llmbatch.core.costs.rates import Price
    from airflow_provider_llmbatch.core.costs.tokens import Tokens


def costs_as(costs: Costs | Mapping[str, object], model: str, *, provider: str = "openai") -> CostTotals:
    """The same answers at a model's prices of today.

    Tokenizers differ by some percent, and so do the lengths of answers. What came from a cache counts as any other
    input, since caches differ too. Where long requests cost more, all count as if they had the same size.

    :param costs: The costs of a run or a batch, also as they come out of XCom.
    :param provider: In genai-prices' words.
    """
    given = costs if isinstance(costs, Costs) else Costs.model_validate(costs)
    found = Prices(provider).of(model, time.time())
    if found is None:
        return CostTotals(unpriced_rows=sum(each.rows for each in given.models))
    work = [(_without_cache(tokens_of_usage(each.usage)), each.rows) for each in given.models if each.rows]
    batch, standard = _cost(found.batch, work), _cost(found.standard, work)
    unpriced = sum(rows for _, rows in work) if batch is None else 0
    return CostTotals(total_usd=batch, known_usd=batch or Decimal(0), standard_usd=standard, unpriced_rows=unpriced)


def compared(costs: Costs | Mapping[str, object], model: str, *, provider: str = "openai") -> str:
    """Such as ``as gpt-5-mini: $0.0016 in a batch, $0.0032 without``."""
    found = costs_as(costs, model, provider=provider)
    batch, standard = (
        "of unknown price" if amount is None else dollars(amount) for amount in (found.total_usd, found.standard_usd)
    )
    return f"as {model}: {batch} in a batch, {standard} without"


def _without_cache(tokens: Tokens) -> Tokens:
    tokens.cached = tokens.cache_write = 0
    return tokens


def _cost(price: Price | None, work: list[tuple[Tokens, int]]) -> Decimal | None:
    total = Decimal(0)
    for tokens, rows in work:
        amount = price.at(tokens.input // rows).cost(tokens) if price else None
        if amount is None:
            return None
        total += amount
    return total
