"""How amounts are said in logs and messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from decimal import Decimal

    from airflow_provider_llmbatch.core.costs.bill import CostTotals


def dollars(amount: Decimal) -> str:
    """``$12.35``, ``$0.0012``: cents, or two digits of what is less than a dollar."""
    if amount >= 1 or not amount:
        return f"${amount:,.2f}"
    places = max(2, 1 - amount.adjusted())
    return f"${round(amount, places):f}"


def said(costs: CostTotals) -> str:
    """``$0.0012 (without a batch $0.0024)``; a part that is not known is said to be."""
    known = dollars(costs.known_usd)
    if costs.standard_usd is not None and costs.standard_usd != costs.known_usd:
        known += f" (without a batch {dollars(costs.standard_usd)})"
    if not costs.unpriced_rows:
        return known
    answers = f"{costs.unpriced_rows:,} answer{'s' if costs.unpriced_rows > 1 else ''}"
    return f"{known} and {answers} of unknown price" if costs.known_usd else f"cost not known of {answers}"
