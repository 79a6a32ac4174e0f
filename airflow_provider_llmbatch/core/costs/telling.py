"""Estimates in words, as logs and errors say them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from airflow_provider_llmbatch.core.costs.wording import dollars

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_provider_llmbatch.core.costs.estimate import Estimate

_NAMED: Final = 3  # models in a sentence


def told_estimate(estimate: Estimate) -> str:
    """One line: the figures, what they are for, what they were made from, and what is not in them."""
    models = named([each.model or "(no model)" for each in estimate.models])
    what = f"{estimate.rows:,} rows on {models}"
    total = estimate.total_usd
    if total is None:
        return f"{unknown_price(estimate)} {_tokens(estimate)} for {what}.{_limits(estimate)}"
    alone = "" if estimate.without_batch_usd is None else f", {dollars(estimate.without_batch_usd)} without batch"
    return (
        f"About {dollars(total.likely)} ({dollars(total.low)} to {dollars(total.high)}) for {what}{alone}; "
        f"{prices_told(estimate)}.{_limits(estimate)}"
    )


def prices_told(estimate: Estimate) -> str:
    """Of which day the prices are, and whose."""
    told = {
        f"prices of {each.price_since} from {each.price_source}" if each.price_since else f"prices: {each.price_source}"
        for each in estimate.models
        if each.price_source
    }
    return named(sorted(told))


def unknown_price(estimate: Estimate) -> str:
    """Which models have no price."""
    return f"The price of {named(estimate.unpriced)} in batches is not known."


def named(names: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    different = list(dict.fromkeys(names))
    more = f" and {len(different) - _NAMED:,} more" if len(different) > _NAMED else ""
    return ", ".join(different[:_NAMED]) + more


def _tokens(estimate: Estimate) -> str:
    read, written = ([getattr(each, name) for each in estimate.models] for name in ("input_tokens", "output_tokens"))
    return (
        f"About {sum(each.likely for each in read):,} tokens in "
        f"({sum(each.low for each in read):,} to {sum(each.high for each in read):,}), "
        f"{sum(each.likely for each in written):,} out "
        f"({sum(each.low for each in written):,} to {sum(each.high for each in written):,})"
    )


def _limits(estimate: Estimate) -> str:
    told = []
    if seen := sum(each.calibration.rows for each in estimate.models if each.calibration is not None):
        told.append(f" Made from {seen:,} answers to the same prompt before.")
    if not all(each.bounded for each in estimate.models):
        told.append(" Not all requests bound their answers (max_tokens): longer ones cost more.")
    if estimate.not_counted:
        told.append(f" Not counted: {', '.join(f'{count:,} {kind}' for kind, count in estimate.not_counted.items())}.")
    return "".join(told)
