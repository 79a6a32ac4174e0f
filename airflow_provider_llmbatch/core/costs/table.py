"""A price table of one's own: negotiated rates, deployments under names of their own, uplifts of a region.

It is JSON, and stands before the published prices::

    {
      "source": "our agreement of 2026", "as_of": "2026-07-01",
      "models": {
        "gpt-5-mini": {"batch": {"input": "0.10", "cached_input": "0.01", "output": "0.80"}},
        "reviews-eu": {"model": "gpt-4.1-mini", "multiplier": "1.1"}
      }
    }
"""

from __future__ import annotations

from datetime import date  # noqa: TC003 - pydantic reads the annotations
from decimal import Decimal
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from airflow_provider_llmbatch.core.costs.rates import Price, Rates
from airflow_provider_llmbatch.errors import ConnectionSettingsError

ANY_MODEL: Final = "*"
"""The name of the entry for models that have none."""

Rate = Annotated[Decimal, Field(ge=0, max_digits=24, decimal_places=12)]


class _Part(BaseModel):
    # Strict about names: a price under a mistyped one would silently not count.
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class _OwnRates(_Part):
    input: Rate | None = None
    cached_input: Rate | None = None
    cache_write: Rate | None = None
    output: Rate | None = None
    input_audio: Rate | None = None
    input_image: Rate | None = None
    output_audio: Rate | None = None
    output_image: Rate | None = None

    def rates(self) -> Rates:
        return Rates(**{name: getattr(self, name) for name in _OwnRates.model_fields})


class _Step(_OwnRates):
    above: Annotated[int, Field(gt=0)]


class OwnPrice(_OwnRates):
    tiers: tuple[_Step, ...] = ()

    def price(self, source: str, since: date | None) -> Price:
        steps = {0: self.rates(), **{tier.above: tier.rates() for tier in self.tiers}}
        return Price(tuple(sorted(steps.items(), key=lambda step: step[0])), source, since)


class Entry(_Part):
    """What the table says of one model.

    :param model: Whose published prices hold; by default the name itself.
    :param multiplier: Of the published prices, such as 1.1 for a data zone.
    :param batch: Rates that hold instead, in a batch; ``standard``: without one.
    """

    model: str | None = None
    multiplier: Annotated[Decimal, Field(gt=0, decimal_places=6)] | None = None
    batch: OwnPrice | None = None
    standard: OwnPrice | None = None
    source: str | None = None
    as_of: date | None = None

    @model_validator(mode="after")
    def _says_something_that_holds(self) -> Entry:
        own, published = self.batch or self.standard, self.model or self.multiplier
        if own and published:
            raise ValueError("either rates (batch, standard) or a published price (model, multiplier), not both")
        if not own and not published:
            raise ValueError("rates (batch, standard) or a published price (model, multiplier) are needed")
        return self


class PriceTable(_Part):
    """What counts before, or instead of, published prices.

    :param provider: Whose published prices hold for models that the table lacks: ``openai``, ``azure``, ``google`` or
        another name of genai-prices', ``none`` for nobody's. By default the connection's own provider.
    :param models: By the name that the request or the answer has; ``*`` for all others.
    :param source: What bills call the table.
    :param as_of: The day that its rates are of.
    """

    provider: str | None = None
    models: dict[str, Entry] = {}
    source: str = "own price table"
    as_of: date | None = None

    def entry_of(self, *names: str | None) -> Entry | None:
        """Of the first name that there is one for; the model of an answer is also found without its date."""
        for name in (*filter(None, names), ANY_MODEL):
            if found := self.models.get(name) or self.models.get(_undated(name)):
                return found
        return None


def _undated(model: str) -> str:
    """``gpt-5-mini`` of ``gpt-5-mini-2025-08-07``."""
    name, date_ = model[:-11], model[-11:]
    return name if name and date_[0] == "-" and date_.replace("-", "").isdecimal() and len(date_) == 11 else model


def price_table(content: str | bytes | dict[str, object], *, name: str) -> PriceTable:
    """Read a table.

    :param name: What messages call it.
    :raises ConnectionSettingsError: It cannot be used; the message names the fields.
    """
    try:
        return (
            PriceTable.model_validate(content) if isinstance(content, dict) else PriceTable.model_validate_json(content)
        )
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'the whole'}: {e['msg']}"
            for e in error.errors(include_input=False, include_url=False)[:_PROBLEMS_SHOWN]
        )
    raise ConnectionSettingsError(
        f"{name} cannot be used as a price table ({problems}). Nothing was submitted or billed by this task now. A "
        "retry would find the same: mend it (docs/costs.md shows its form), and clear the task."
    )


_PROBLEMS_SHOWN: Final = 5
