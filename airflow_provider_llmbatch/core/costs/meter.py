"""Counts what each answer of a batch costs while it is landed, and adds that up by model.

An answer is priced in whole numbers of 10**-18 dollars: rates have at most twelve decimals per million tokens, so
nothing is rounded, and the sum over rows is the price of the sum of their tokens.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from decimal import ROUND_HALF_EVEN, Decimal
from typing import TYPE_CHECKING, Final

from airflow_provider_llmbatch.core.costs.bill import Costs, ModelCosts, costs_of, rate_steps
from airflow_provider_llmbatch.core.costs.rates import Price, Rates
from airflow_provider_llmbatch.core.costs.tokens import Tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_llmbatch.core.costs.prices import Prices
    from airflow_provider_llmbatch.core.costs.rates import ModelPrices

_NULL: Final = b"null"
_NOTHING: Final = b"0"
_FINEST: Final = Decimal("1E-12")
_PLACES: Final = 18
_MOST_MODELS: Final = 50
"""That are told apart in one batch; a server that names each answer differently must not fill the ledger."""


class Meter:
    """The bill of one batch, as it comes in.

    :param when: When the batch was created, in seconds since 1970: prices of that day hold.
    :param asked: The model of its requests, for answers that name none.
    """

    def __init__(self, prices: Prices, when: float, asked: str | None) -> None:
        self._prices = prices
        self._when = when
        self._asked = asked
        self._accounts: dict[str | None, _Account] = {}
        self._chargers: dict[str | None, Callable[[Tokens], bytes]] = {}

    def answered(self, model: str | None, tokens: Tokens | None) -> bytes:
        """Bill an answer; returns its price in dollars as JSON, ``null`` if it is not known.

        :param tokens: ``None`` or none at all if the server does not count: then it is not known what it cost.
        """
        if tokens is None or not tokens.total:
            self._account(model).uncounted += 1
            return _NULL
        charge = self._chargers.get(model)
        return charge(tokens) if charge is not None else self._charger(model)(tokens)

    def unanswered(self, model: str | None, tokens: Tokens | None) -> bytes:
        """The same for a request that failed, which costs nothing, unless its failure says how many tokens it took."""
        if tokens is None or not tokens.total:
            return _NOTHING
        return self._charger(model)(tokens)

    def whole(self, tokens: Tokens, rows: int | None = None) -> None:
        """Bill all that was answered at once, by the provider's own sum, where the answers themselves tell nothing.

        :param rows: How many answers that are; by default those that told nothing.
        """
        if rows is None:
            rows = sum(account.uncounted for account in self._accounts.values())
        self._accounts.clear()
        self._chargers.clear()
        if rows:
            self._account(self._asked).charge_together(tokens, rows)

    @property
    def tokens(self) -> Tokens:
        """All that were counted."""
        total = Tokens()
        for account in self._accounts.values():
            total.add(account.tokens())
        return total

    def costs(self) -> Costs:
        return costs_of(account.costs() for account in self._accounts.values())

    def _charger(self, model: str | None) -> Callable[[Tokens], bytes]:
        charge = self._account(model).charger()
        if len(self._chargers) < _MOST_MODELS:
            self._chargers[model] = charge
        return charge

    def _account(self, model: str | None) -> _Account:
        name = model or self._asked
        if name not in self._accounts and len(self._accounts) >= _MOST_MODELS:
            name = _OTHERS
        account = self._accounts.get(name)
        if account is None:
            priced = self._prices.of(name, self._when, asked=self._asked) if name != _OTHERS else None
            account = self._accounts[name] = _Account(name, priced)
        return account


_OTHERS: Final = "(others)"


class _Account:
    """The answers of one model."""

    def __init__(self, model: str | None, prices: ModelPrices | None) -> None:
        self.uncounted = 0
        self._model = model
        self._priced_as = prices.model if prices else None
        self._batch = _rounded(prices.batch) if prices and prices.batch else None
        self._standard = _rounded(prices.standard) if prices and prices.standard else None
        starts = {start for price in (self._batch, self._standard) if price for start, _ in price.steps}
        self._starts = sorted(starts - {0})
        self._steps = [_Step(start, self._batch, self._standard) for start in (0, *self._starts)]

    def charger(self) -> Callable[[Tokens], bytes]:
        """What bills an answer; without a step in between where size does not matter, since it is called so often."""
        return self._charge_by_size if self._starts else self._steps[0].charge

    def _charge_by_size(self, tokens: Tokens) -> bytes:
        return self._steps[bisect_left(self._starts, tokens.input)].charge(tokens)

    def charge_together(self, tokens: Tokens, rows: int) -> None:
        """Whether a request was long enough for another rate cannot be told, unless all of them together were not."""
        step = self._steps[0]
        if self._starts and tokens.input > self._starts[0]:
            step = _Step(0, None, None)
            self._steps.append(step)
        step.charge(tokens)
        step.rows += rows - 1
        if step.unpriced:
            step.unpriced = rows

    def tokens(self) -> Tokens:
        total = Tokens()
        for step in self._steps:
            total.add(step.priced)
            total.add(step.other)
        return total

    def costs(self) -> ModelCosts:
        known, standard = Decimal(0), Decimal(0) if not self.uncounted else None
        rows = unpriced = self.uncounted
        for step in self._steps:
            rows += step.rows
            unpriced += step.unpriced
            known += step.known()
            single = step.single()
            standard = None if standard is None or single is None else standard + single
        return ModelCosts(
            model=self._model,
            priced_as=self._priced_as,
            rows=rows,
            usage=self.tokens().as_usage(),
            source=self._batch.source if self._batch else None,
            since=self._batch.since if self._batch else None,
            rates=rate_steps(self._batch) if self._batch else (),
            total_usd=None if unpriced else known,
            known_usd=known,
            standard_usd=standard,
            unpriced_rows=unpriced,
        )


class _Step:
    """The answers to requests of one size, as the price tells sizes apart.

    ``priced`` are tokens as they are billed, or would be, if a price were known; ``other`` are those of answers that
    hold a kind without a price, and what a server counted twice.
    """

    def __init__(self, start: int, batch: Price | None, standard: Price | None) -> None:
        self.rows = self.unpriced = 0
        self.priced = Tokens()
        self.other = Tokens()
        self._rates = batch.at(start + 1) if batch else None
        self._single = standard.at(start + 1) if standard else None
        self._whole = _WholeRates(self._rates) if self._rates and self._rates.input is not None else None

    def charge(self, tokens: Tokens) -> bytes:
        self.rows += 1
        whole, taken, cached, given = self._whole, tokens.input, tokens.cached, tokens.output
        if whole is None or cached > taken or tokens.has_rare_kinds() or (given and whole.output is None):
            return self._charge_rare(tokens)
        priced = self.priced  # in place of ``add``, since nearly all answers come along here
        priced.input += taken
        priced.cached += cached
        priced.output += given
        priced.reasoning += tokens.reasoning
        priced.total += tokens.total
        return _text(taken * whole.input + cached * whole.less_cached + given * (whole.output or 0))

    def _charge_rare(self, tokens: Tokens) -> bytes:
        cost = self._rates.cost(tokens) if self._rates else None
        self.unpriced += cost is None
        if cost is None and self._rates:
            self.other.add(tokens)
            return _NULL
        fitted = tokens.fitted()
        self.priced.add(fitted)
        if fitted is not tokens:
            self.other.add(Tokens(*(getattr(tokens, name) - getattr(fitted, name) for name in _KINDS)))
        return _text(int(cost.scaleb(_PLACES))) if cost is not None else _NULL

    def known(self) -> Decimal:
        return (self._rates.cost(self.priced) if self._rates else None) or Decimal(0)

    def single(self) -> Decimal | None:
        """Without a batch; ``None`` if that is not known of all."""
        if not self.rows:
            return Decimal(0)
        if self._single is None or (self._rates and self.unpriced):
            return None
        return self._single.cost(self.priced)


class _WholeRates:
    """Rates as whole numbers of 10**-18 dollars per token.

    :param less_cached: What a cached token costs more than another one: it is below 0.
    """

    __slots__ = ("input", "less_cached", "output")

    def __init__(self, rates: Rates) -> None:
        self.input = _whole(rates.input) or 0
        self.output = _whole(rates.output)
        cached = _whole(rates.cached_input)
        self.less_cached = cached - self.input if cached is not None else 0


def _whole(rate: Decimal | None) -> int | None:
    return int(rate.scaleb(_PLACES - 6)) if rate is not None else None


def _rounded(price: Price) -> Price:
    """With rates that whole numbers can hold; those of no provider here are finer."""
    return replace(
        price,
        steps=tuple(
            (start, Rates(**{kind: _to_twelve_decimals(rate) for kind, rate in rates.by_kind().items()}))
            for start, rates in price.steps
        ),
    )


def _to_twelve_decimals(rate: Decimal | None) -> Decimal | None:
    return None if rate is None else rate.quantize(_FINEST, ROUND_HALF_EVEN).normalize()


def _text(amount: int) -> bytes:
    """``0.00125`` for 1250000000000000."""
    if not amount:
        return _NOTHING
    digits = b"%019d" % amount
    whole, fraction = digits[:-_PLACES], digits[-_PLACES:].rstrip(b"0")
    return b"%b.%b" % (whole, fraction) if fraction else whole


_KINDS: Final = Tokens.__struct_fields__
