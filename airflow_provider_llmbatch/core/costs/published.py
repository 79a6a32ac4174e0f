"""Published prices, from the package genai-prices: dated, with prices of batches, and updated by upgrading it.

It is imported when the first price is looked up, which takes half a second and, for a moment, 70 MB. Nothing here
fetches anything: the package does so only when its ``UpdatePrices`` is started, which nobody does here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from airflow_provider_llmbatch.core.costs.rates import ModelPrices, Price, Rates

if TYPE_CHECKING:
    from datetime import date

    from genai_prices.data_snapshot import DataSnapshot
    from genai_prices.types import ConditionalPrice, ModelInfo, ModelPrice, PriceVariant, Provider, TieredPrices

_BATCH: Final = {"processing": "batch"}
_KEYS: Final = {
    "input": "input_mtok",
    "cached_input": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
    "output": "output_mtok",
    "input_audio": "input_audio_mtok",
    "output_audio": "output_audio_mtok",
    "input_image": "input_image_mtok",
    "output_image": "output_image_mtok",
}
_HALF: Final = Decimal("0.5")


@dataclass(frozen=True)
class _Rule:
    """A provider's own words on what a batch costs, for models whose batch prices nobody has written down.

    Input and output cost half. Reads from the cache and writes to it keep their price: none of the providers promises
    more, and Google rules it out (the discounts do not stack).
    """

    source: str
    is_for: tuple[str, ...] = ("",)
    is_not_for: tuple[str, ...] = ()

    def holds_for(self, model: str) -> bool:
        return model.startswith(self.is_for) and not any(word in model for word in self.is_not_for)


_RULES: Final = {
    # "50% cost discount compared to synchronous APIs"
    "openai": _Rule("half, by https://platform.openai.com/docs/guides/batch"),
    # "at 50% less cost than global standard"
    "azure": _Rule("half, by https://learn.microsoft.com/azure/ai-foundry/openai/how-to/batch"),
    # "50% discounted rate compared to real-time inference", of Gemini; embeddings have prices of their own
    "google": _Rule(
        "half, by https://docs.cloud.google.com/vertex-ai/generative-ai/docs/multimodal/batch-prediction-gemini",
        is_for=("gemini-",),
        is_not_for=("embedding",),
    ),
}


@lru_cache(maxsize=1000)
def published_prices(provider: str, model: str, day: date) -> ModelPrices | None:
    """What a model costs at a provider on a day, by UTC; ``None`` if that is not published.

    :param provider: A name of genai-prices', such as ``openai``, ``azure`` or ``google``, or the URL of its API.
    :param model: Any name that the provider has for it.
    """
    from genai_prices import __version__  # noqa: PLC0415 - heavy
    from genai_prices.data_snapshot import get_snapshot  # noqa: PLC0415 - as above

    snapshot = get_snapshot()
    seller_id = _seller_at(provider, snapshot) if "://" in provider else provider
    if seller_id is None:
        return None
    try:
        seller, info = snapshot.find_provider_model(model, None, seller_id, None)
    except LookupError:
        return None
    moment = datetime(day.year, day.month, day.day, tzinfo=UTC)
    standard, since = _standard(info, moment)
    name = f"genai-prices {__version__}: {_owner(snapshot, seller, info).id}/{info.id}"
    single = Price(_steps(standard), f"{name}, standard", since)
    if single.steps[0][1].input is None and single.steps[0][1].output is None:
        return None  # billed by something else than tokens
    return ModelPrices(info.id, _batch(seller, info, moment, single, name), single)


def _seller_at(url: str, snapshot: DataSnapshot) -> str | None:
    """Who sells at an address; its pattern says how that begins, and must end where a name of a host does."""
    for each in snapshot.providers:
        found = re.match(each.api_pattern, url)
        if found and url[found.end() :][:1] in ("", "/", ":"):
            return each.id
    return None


def _owner(snapshot: DataSnapshot, seller: Provider, info: ModelInfo) -> Provider:
    """Whose price it is: what is sold at its maker's price, as most of Azure's models are, is written down there."""
    makers = [each for each in snapshot.providers if each.id in (seller.fallback_model_providers or ())]
    return next((each for each in (seller, *makers) if any(info is model for model in each.models)), seller)


def _standard(info: ModelInfo, moment: datetime) -> tuple[ModelPrice, date | None]:
    since = None
    if isinstance(info.prices, list):
        active = [each for each in info.prices if each.constraint is None or each.constraint.active(moment)]
        since = _start(active[-1]) if active else None
    return info.get_prices(moment), since


def _batch(seller: Provider, info: ModelInfo, moment: datetime, standard: Price, name: str) -> Price | None:
    variants = [
        variant
        for variant in info.price_variants or ()
        if variant.when == _BATCH and (variant.constraint is None or variant.constraint.active(moment))
    ]
    if variants:
        return Price(_steps(info.get_prices(moment, _BATCH)), f"{name}, batch", _start(variants[0]) or standard.since)
    rule = _RULES.get(seller.id)
    if rule is None or not rule.holds_for(info.id):
        return None
    steps = tuple((start, _halved(rates)) for start, rates in standard.steps)
    return Price(steps, f"{name}, standard; {rule.source}", standard.since)


def _halved(rates: Rates) -> Rates:
    return replace(rates.times(_HALF), cached_input=rates.cached_input, cache_write=rates.cache_write)


def _start(priced: ConditionalPrice | PriceVariant) -> date | None:
    start: date | None = getattr(priced.constraint, "start_date", None)
    return start


def _steps(price: ModelPrice) -> tuple[tuple[int, Rates], ...]:
    found = {kind: value for kind, key in _KEYS.items() if (value := getattr(price, key)) is not None}
    starts = {tier.start for value in found.values() if not isinstance(value, Decimal) for tier in value.tiers}
    return tuple(
        (start, Rates(**{kind: _rate(value, start) for kind, value in found.items()})) for start in sorted({0} | starts)
    )


def _rate(value: Decimal | TieredPrices, start: int) -> Decimal:
    if isinstance(value, Decimal):
        return value
    rate = value.base
    for tier in value.tiers:
        if tier.start <= start and start > 0:
            rate = tier.price
    return rate
