"""How hard a model shall think: OpenAI's ``reasoning_effort`` in the words of each family of Gemini.

2.5 takes a budget of tokens, 3 and later a level, and either is answered with 400 by the other.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from airflow_provider_llmbatch.adapters.vertex.refused import LineRefused, refuse_unless_dropped

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet

THINKING_BUDGETS: Final[Mapping[str, int]] = MappingProxyType(
    {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24576, "xhigh": 24576, "max": 24576}
)
"""Tokens for each effort on Gemini 2.5: Google's own for its OpenAI-compatible endpoint (April 2025)."""

_LEVELS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "none": "MINIMAL",  # no level turns thinking off
        "minimal": "MINIMAL",
        "low": "LOW",
        "medium": "MEDIUM",
        "high": "HIGH",
        "xhigh": "HIGH",  # v1 knows no higher one
        "max": "HIGH",
    }
)
_SMALLEST_PRO_BUDGET: Final = 128  # 2.5 Pro cannot be kept from thinking
_family = re.compile(r"gemini-(\d+)(?:\.(\d+))?-(.*)").fullmatch


def thinking_config(
    effort: str, model: str | None, budgets: Mapping[str, int], drop_params: AbstractSet[str]
) -> dict[str, object] | None:
    """``generationConfig.thinkingConfig`` for an effort.

    :param model: As the line names it, or the connection.
    :param budgets: Tokens for each effort, on models that take a budget.
    :raises LineRefused: The effort is none of OpenAI's, or the model takes none.
    """
    if effort not in _LEVELS:
        known = ", ".join(_LEVELS)
        raise LineRefused(f'has the reasoning_effort "{effort}"; it can be one of {known}', "reasoning_effort")
    name = (model or "").rpartition("/")[2]
    if (match := _family(name)) and (version := (int(match[1]), int(match[2] or 0))) >= (2, 5):
        is_pro = match[3].startswith("pro")
        if version >= (3, 0):
            level = _LEVELS[effort]
            return {"thinkingLevel": "LOW" if is_pro and level == "MINIMAL" else level}
        budget = budgets.get(effort, THINKING_BUDGETS[effort])
        return {"thinkingBudget": _SMALLEST_PRO_BUDGET if is_pro and budget == 0 else budget}
    asked = f'the model "{model}"' if model else "the model, which neither it nor the connection names,"
    refuse_unless_dropped(
        "reasoning_effort",
        f'has a "reasoning_effort", and whether {asked} takes a budget or a level of thinking cannot be told from its '
        "name (only of gemini-2.5 and later)",
        drop_params,
    )
    return None
