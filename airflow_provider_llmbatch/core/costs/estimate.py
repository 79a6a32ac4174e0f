"""What an input is going to cost, before anything of it is uploaded: low, likely and high.

Input tokens come from the characters of the requests, by the family of the model. Output tokens are at most what
``max_tokens`` allows, under whichever of its names; how many of them a model uses, nobody knows beforehand, unless an
earlier run asked the same: then its own figures count.
"""

from __future__ import annotations

import math
from collections import Counter
from datetime import date  # noqa: TC003 - pydantic reads the annotations
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, ConfigDict

from airflow_provider_llmbatch.core.costs.bill import Dollars  # noqa: TC001 - pydantic reads it
from airflow_provider_llmbatch.core.costs.tokenizers import tokenizer_of
from airflow_provider_llmbatch.core.costs.tokens import Tokens

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import TypeAlias

    from airflow_provider_llmbatch.core.costs.prices import Prices
    from airflow_provider_llmbatch.core.costs.rates import Price
    from airflow_provider_llmbatch.core.costs.volume import Volume

    Group: TypeAlias = tuple[str | None, str]
    """A model and an endpoint."""

# Mean answers of the two data sets that serving systems are measured with, Alpaca and ShareGPT, and the longest that is
# kept of the latter (Kwon et al., "Efficient Memory Management for Large Language Model Serving with PagedAttention",
# 2023, section 6.1).
_ANSWER: Final = (58, 338, 2_048)
# OpenAI's guide "Reasoning models": from a few hundred to tens of thousands of tokens; 25,000 are to be reserved.
_REASONED_ANSWER: Final = (338, 1_000, 25_000)
_REASONING: Final = ("gpt-5", "o1", "o3", "o4", "gpt-oss", "gemini-2.5", "gemini-3", "gemini-4", "thinking", "reason")
_NOT_REASONING: Final = ("gpt-5-chat", "lite")  # flash-lite does not think unless it is told to
_WITHOUT_OUTPUT: Final = ("/embeddings", "/moderations")
_IMAGES: Final = "/images/generations"
_MARGIN: Final = 0.15
_CENT: Final = Decimal("0.000001")  # what an estimate is rounded to, in dollars


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True, protected_namespaces=())  # as the manifest


class TokenRange(_Entry):
    low: int
    likely: int
    high: int


class CostRange(_Entry):
    """US dollars."""

    low: Dollars
    likely: Dollars
    high: Dollars

    def __add__(self, other: CostRange) -> CostRange:
        return CostRange(low=self.low + other.low, likely=self.likely + other.likely, high=self.high + other.high)


class Calibration(_Entry):
    """What answers to the same prompt have used before.

    :param rows: That were answered.
    :param input_per_byte: Input tokens for each byte of a request's body.
    :param output_per_row: Output tokens of one row.
    """

    rows: int
    input_per_byte: float
    output_per_row: float

    @classmethod
    def of(cls, *, rows: int, bytes_asked: float, input_tokens: int, output_tokens: int) -> Calibration | None:
        """``None`` if that tells nothing."""
        if rows <= 0 or bytes_asked <= 0 or input_tokens <= 0:
            return None
        return cls(rows=rows, input_per_byte=input_tokens / bytes_asked, output_per_row=output_tokens / rows)

    def around(self, mean: float) -> tuple[float, float, float]:
        """Other rows of the same kind: a sixth more or less, and more the fewer were seen."""
        margin = _MARGIN + 1 / math.sqrt(self.rows)
        return max(0.0, mean * (1 - margin)), mean, mean * (1 + margin)


class ModelEstimate(_Entry):
    """Of all rows that ask one model at one endpoint.

    :param bytes: Of the requests' bodies.
    :param cost_usd: In batches; ``None`` if no such price is known.
    :param without_batch_usd: What the likely tokens cost in single calls.
    :param price_source: Where the price of batches comes from, ``price_since`` of which day it is.
    :param bounded: Whether each request bounds its answer.
    :param calibration: What the tokens were taken from, if an earlier run tells; else they are estimated.
    :param images: That are in it; counted where their family's figure is known.
    :param not_counted: What is not in the figures, by kind.
    """

    model: str | None
    endpoint: str
    rows: int
    bytes: int
    input_tokens: TokenRange
    output_tokens: TokenRange
    cost_usd: CostRange | None = None
    without_batch_usd: Dollars | None = None
    price_source: str | None = None
    price_since: date | None = None
    bounded: bool
    calibration: Calibration | None = None
    images: int = 0
    not_counted: dict[str, int] = {}

    @property
    def counted_usd(self) -> Decimal | None:
        """What a cap is compared with: the high figure where that holds whatever the model answers, or where an
        earlier run tells how it answers; else the likely one, since no figure would hold."""
        if self.cost_usd is None:
            return None
        return self.cost_usd.high if self.bounded or self.calibration is not None else self.cost_usd.likely


class Estimate(_Entry):
    """What a whole input is going to cost.

    :param total_usd: ``None`` if the price of one of the models is not known: a part of a sum must not look like it.
    :param without_batch_usd: What the likely tokens cost in single calls.
    :param made_at: Seconds since 1970.
    """

    rows: int
    models: tuple[ModelEstimate, ...]
    total_usd: CostRange | None = None
    without_batch_usd: Dollars | None = None
    made_at: int

    @property
    def counted_usd(self) -> Decimal | None:
        """What a cap is compared with; see ``ModelEstimate.counted_usd``."""
        counted = [each.counted_usd for each in self.models]
        known = [amount for amount in counted if amount is not None]
        return sum(known, Decimal(0)) if len(known) == len(counted) else None

    @property
    def unpriced(self) -> tuple[str, ...]:
        """The models whose price is not known."""
        return tuple(dict.fromkeys(each.model or "(no model)" for each in self.models if each.cost_usd is None))

    @property
    def not_counted(self) -> dict[str, int]:
        """What is not in the figures, by kind."""
        return dict(sum((Counter(each.not_counted) for each in self.models), Counter()))

    def of(self, group: Group) -> ModelEstimate | None:
        return next((each for each in self.models if (each.model, each.endpoint) == group), None)


def estimate(
    volumes: Mapping[Group, Volume],
    prices: Prices,
    *,
    now: float,
    calibrations: Mapping[Group, Calibration] | None = None,
) -> Estimate:
    """The estimate for volumes, by model and endpoint.

    :param now: Whose prices count, in seconds since 1970.
    :param calibrations: What earlier runs tell.
    """
    models = tuple(
        estimate_model(group, volume, prices, now=now, calibration=(calibrations or {}).get(group))
        for group, volume in volumes.items()
    )
    return Estimate(
        rows=sum(each.rows for each in models),
        models=models,
        total_usd=_sum_of_ranges(each.cost_usd for each in models),
        without_batch_usd=_sum(each.without_batch_usd for each in models),
        made_at=int(now),
    )


def estimate_model(
    group: Group, volume: Volume, prices: Prices, *, now: float, calibration: Calibration | None = None
) -> ModelEstimate:
    """The estimate for what asks one model at one endpoint."""
    model, endpoint = group
    tokenizer = tokenizer_of(model)
    measured = None if volume.images or volume.not_counted else calibration
    taken = measured.around(measured.input_per_byte * volume.bytes) if measured else tokenizer.tokens(volume)
    read, written = _token_range(taken), _token_range(_output(group, volume, calibration))
    not_counted = dict(volume.not_counted)
    if volume.images and tokenizer.image is None:
        not_counted["images"] = volume.images
    makes_images = endpoint.endswith(_IMAGES)
    if makes_images:
        not_counted["images made"] = volume.answers
    found = None if makes_images else prices.of(model, now, asked=model)
    batch = found.batch if found else None
    single = found.standard if found else None
    likely = Tokens(input=read.likely, output=written.likely)
    return ModelEstimate(
        model=model,
        endpoint=endpoint,
        rows=volume.rows,
        bytes=volume.bytes,
        input_tokens=read,
        output_tokens=written,
        cost_usd=_cost_range(batch, read, written, volume.rows),
        without_batch_usd=_cost(single, likely, volume.rows),
        price_source=batch.source if batch else None,
        price_since=batch.since if batch else None,
        bounded=not volume.unbounded or endpoint.endswith(_WITHOUT_OUTPUT),
        calibration=calibration,
        images=volume.images,
        not_counted=not_counted,
    )


def _output(group: Group, volume: Volume, calibration: Calibration | None) -> tuple[float, float, float]:
    model, endpoint = group
    if endpoint.endswith((*_WITHOUT_OUTPUT, _IMAGES)):
        return 0, 0, 0
    if calibration is not None:
        low, likely, high = calibration.around(calibration.output_per_row * volume.rows)
        most = math.inf if volume.unbounded else volume.bound
        return min(low, most), min(likely, most), min(high, most)
    low, likely, high = _REASONED_ANSWER if is_reasoning(model) else _ANSWER
    bounded = volume.answers - volume.unbounded
    return (
        min(low * bounded, volume.bound) + low * volume.unbounded,
        min(likely * bounded, volume.bound) + likely * volume.unbounded,
        volume.bound + max(high * volume.unbounded, 0),
    )


def is_reasoning(model: str | None) -> bool:
    """Whether a model, by its name, thinks before it answers; what it thinks is billed as output."""
    name = (model or "").lower().rpartition("/")[2]
    if any(word in name for word in _NOT_REASONING):
        return False
    return any(name.startswith(word) if len(word) == 2 else word in name for word in _REASONING)


def _token_range(given: tuple[float, float, float]) -> TokenRange:
    return TokenRange(low=math.floor(given[0]), likely=round(given[1]), high=math.ceil(given[2]))


def _cost_range(price: Price | None, read: TokenRange, written: TokenRange, rows: int) -> CostRange | None:
    low = _cost(price, Tokens(input=read.low, output=written.low), rows)
    likely = _cost(price, Tokens(input=read.likely, output=written.likely), rows)
    high = _cost(price, Tokens(input=read.high, output=written.high), rows)
    return None if low is None or likely is None or high is None else CostRange(low=low, likely=likely, high=high)


def _cost(price: Price | None, tokens: Tokens, rows: int) -> Decimal | None:
    if price is None:
        return None
    amount = price.at(tokens.input // (rows or 1)).cost(tokens)  # by the size of the mean request
    return None if amount is None else amount.quantize(_CENT)


def _sum_of_ranges(ranges: Iterable[CostRange | None]) -> CostRange | None:
    total = CostRange(low=Decimal(0), likely=Decimal(0), high=Decimal(0))
    for each in ranges:
        if each is None:
            return None
        total = total + each
    return total


def _sum(amounts: Iterable[Decimal | None]) -> Decimal | None:
    total = Decimal(0)
    for amount in amounts:
        if amount is None:
            return None
        total += amount
    return total
