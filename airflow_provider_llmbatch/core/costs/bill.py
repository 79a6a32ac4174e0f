"""The bill: what was paid for answers, by model, and what the same would have cost without a batch.

An amount that is not known is ``None``, never 0, and a sum of which a part is not known is ``None`` as well: the part
that is known stands beside it, under another name. Amounts are exact; in JSON they are texts, since many readers would
round numbers.
"""

from __future__ import annotations

from datetime import date  # noqa: TC003 - pydantic reads the annotations
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, PlainSerializer

from airflow_provider_llmbatch.core.costs.tokens import Tokens, tokens_of_usage
from airflow_provider_llmbatch.models import Usage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_provider_llmbatch.core.costs.rates import Price


def _plain(amount: Decimal) -> str:
    """``0.00000125`` for 1.25E-6 and 1.250E-6."""
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


Dollars = Annotated[Decimal, PlainSerializer(_plain, return_type=str, when_used="json")]


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True, protected_namespaces=())


class CostTotals(_Entry):
    """Sums, in US dollars.

    :param total_usd: What was billed; ``None`` if the price of some answers is not known.
    :param known_usd: What was billed for the answers whose price is known.
    :param standard_usd: What the same answers would have cost without a batch; ``None`` if that is not known of all.
    :param unpriced_rows: Answers whose price is not known.
    """

    total_usd: Dollars | None = None
    known_usd: Dollars = Decimal(0)
    standard_usd: Dollars | None = None
    unpriced_rows: int = 0


class RateStep(_Entry):
    """Dollars per million tokens, from a size of the request on.

    :param above_input_tokens: For requests with more input tokens than that.
    :param rates: By the kinds of ``Rates``; what has no rate of its own is left out.
    """

    above_input_tokens: int = 0
    rates: dict[str, Dollars]


class ModelCosts(CostTotals):
    """What the answers of one model cost.

    :param model: As the answers name it.
    :param priced_as: Under which name its price was found.
    :param rows: Answers that were billed.
    :param usage: Their tokens.
    :param source: Where the price comes from.
    :param since: From which day on the source has it.
    :param rates: What was billed with.
    """

    model: str | None = None
    priced_as: str | None = None
    rows: int = 0
    usage: Usage = Usage()
    source: str | None = None
    since: date | None = None
    rates: tuple[RateStep, ...] = ()


class Costs(CostTotals):
    """The bill of a batch, or of several, each of which counts once.

    :param models: Sorted; two entries of one model have prices of different days or sources.
    :param unpriced_models: Those among them whose price is not known, as the answers name them.
    """

    currency: Literal["USD"] = "USD"
    models: tuple[ModelCosts, ...] = ()
    unpriced_models: tuple[str, ...] = ()

    def totals(self) -> CostTotals:
        """Without the models."""
        return CostTotals(**{name: getattr(self, name) for name in CostTotals.model_fields})


def rate_steps(price: Price) -> tuple[RateStep, ...]:
    return tuple(
        RateStep(
            above_input_tokens=start,
            rates={kind: rate for kind, rate in rates.by_kind().items() if rate is not None},
        )
        for start, rates in price.steps
    )


def unknown_costs(rows: int) -> Costs:
    """Of answers that were landed without a price, as older releases did."""
    return costs_of([ModelCosts(rows=rows, unpriced_rows=rows)] if rows else [])


def costs_of(models: Iterable[ModelCosts]) -> Costs:
    """The sums over models."""
    entries = sorted(models, key=lambda each: (each.model or "", each.source or "", str(each.since)))
    return Costs(
        **dict(_sums(entries)),
        models=tuple(entries),
        unpriced_models=tuple(sorted({each.model or _NO_NAME for each in entries if each.unpriced_rows})),
    )


def total_costs(bills: Iterable[Costs]) -> Costs:
    """One bill out of several, with one entry for each model and price."""
    found: dict[tuple[object, ...], list[ModelCosts]] = {}
    for bill in bills:
        for each in bill.models:
            key = (each.model, each.priced_as, each.source, each.since)
            found.setdefault(key, []).append(each)
    return costs_of(_merged(entries) for entries in found.values())


def _merged(entries: list[ModelCosts]) -> ModelCosts:
    tokens = Tokens()
    for each in entries:
        tokens.add(tokens_of_usage(each.usage))
    rows = sum(each.rows for each in entries)
    return entries[0].model_copy(update={**dict(_sums(entries)), "rows": rows, "usage": tokens.as_usage()})


def _sums(entries: list[ModelCosts]) -> CostTotals:
    known = sum((each.known_usd for each in entries), Decimal(0))
    unpriced = sum(each.unpriced_rows for each in entries)
    standard = [each.standard_usd for each in entries if each.standard_usd is not None]
    return CostTotals(
        total_usd=known if not unpriced else None,
        known_usd=known,
        standard_usd=sum(standard, Decimal(0)) if len(standard) == len(entries) else None,
        unpriced_rows=unpriced,
    )


_NO_NAME: Final = "(no name)"
