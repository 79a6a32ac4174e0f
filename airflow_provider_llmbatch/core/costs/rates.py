"""What tokens cost: rates per kind of token, by the size of the request, in a batch and without one.

All amounts are US dollars, as ``Decimal``; all rates are dollars per million tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import date

    from airflow_provider_llmbatch.core.costs.tokens import Tokens

_MILLION: Final = 1_000_000


@dataclass(frozen=True)
class Rates:
    """Dollars per million tokens of each kind.

    A kind without a rate of its own is billed as what it is a part of: cached input, cache writes, audio and images as
    ``input``, or as ``output``. Where that is ``None`` too, its price is not known. Reasoning is output at every
    provider.

    :param cached_input: Input that was read from the provider's cache.
    :param cache_write: Input that was written to it.
    """

    input: Decimal | None = None
    cached_input: Decimal | None = None
    cache_write: Decimal | None = None
    output: Decimal | None = None
    input_audio: Decimal | None = None
    input_image: Decimal | None = None
    output_audio: Decimal | None = None
    output_image: Decimal | None = None

    def cost(self, tokens: Tokens) -> Decimal | None:
        """Of these tokens, in dollars; ``None`` if there are some whose price is not known."""
        total = Decimal(0)
        for name, count in self.billed(tokens).items():
            rate: Decimal | None = getattr(self, name)
            if rate is None:
                return None
            total += count * rate
        return total / _MILLION

    def billed(self, tokens: Tokens) -> dict[str, int]:
        """How many tokens are billed at each rate, each token once; without those of which there are none."""
        tokens = tokens.fitted()
        of_input = {
            "cached_input": tokens.cached,
            "cache_write": tokens.cache_write,
            "input_audio": tokens.input_audio,
            "input_image": tokens.input_image,
        }
        of_output = {"output_audio": tokens.output_audio, "output_image": tokens.output_image}
        counts: dict[str, int] = {}
        for name, whole, parts in (("input", tokens.input, of_input), ("output", tokens.output, of_output)):
            own = {kind: count for kind, count in parts.items() if count and getattr(self, kind) is not None}
            rest = whole - sum(own.values())
            counts |= {name: rest, **own} if rest else own
        return counts

    def times(self, factor: Decimal) -> Rates:
        """Each rate, multiplied."""
        return Rates(**{name: None if rate is None else rate * factor for name, rate in self.by_kind().items()})

    def by_kind(self) -> dict[str, Decimal | None]:
        return {kind.name: getattr(self, kind.name) for kind in fields(self)}


@dataclass(frozen=True)
class Price:
    """What a model's tokens cost, in one way to have them processed.

    :param steps: How many input tokens a request must have more than, for rates to hold for all of its tokens; the
        first step starts at 0, and they ascend.
    :param source: Where the rates come from, for people.
    :param since: The day from which they hold, if the source tells.
    """

    steps: tuple[tuple[int, Rates], ...]
    source: str
    since: date | None = None

    def at(self, input_tokens: int) -> Rates:
        """The rates of a request of that size, cached tokens included."""
        found = self.steps[0][1]
        for start, rates in self.steps[1:]:
            if input_tokens <= start:
                break
            found = rates
        return found

    def cost(self, tokens: Tokens) -> Decimal | None:
        """Of one request, in dollars; ``None`` if it is not known."""
        return self.at(tokens.input).cost(tokens)

    def times(self, factor: Decimal, source: str) -> Price:
        return replace(self, steps=tuple((start, rates.times(factor)) for start, rates in self.steps), source=source)


@dataclass(frozen=True)
class ModelPrices:
    """What a model costs.

    :param model: The name under which the prices were found.
    :param batch: ``None`` if no price of batches is known: that does not promise a discount.
    :param standard: Of single calls; ``None`` if it is not known.
    """

    model: str
    batch: Price | None
    standard: Price | None
