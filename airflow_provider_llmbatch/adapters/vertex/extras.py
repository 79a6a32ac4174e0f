"""``extra_body.google`` of a line: what OpenAI has no parameter for, as Google's endpoint for OpenAI clients takes it.

::

    {"extra_body": {"google": {
        "safety_settings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_ONLY_HIGH"}],
        "thinking_config": {"include_thoughts": true, "thinking_budget": 2048}}}}

Thoughts come back as ``reasoning_content``.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from airflow_provider_llmbatch.adapters.vertex.refused import LineRefused


class _SafetySetting(msgspec.Struct, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    category: Annotated[str, Meta(pattern="^HARM_CATEGORY_[A-Z_]+$")]
    threshold: Literal["OFF", "BLOCK_NONE", "BLOCK_ONLY_HIGH", "BLOCK_MEDIUM_AND_ABOVE", "BLOCK_LOW_AND_ABOVE"]
    method: Literal["SEVERITY", "PROBABILITY"] | None = None


class _ThinkingConfig(msgspec.Struct, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """:param thinking_budget: In tokens; 0 is none, -1 as many as the model likes."""

    include_thoughts: bool | None = None
    thinking_budget: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    thinking_level: str | None = None


class _Google(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    safety_settings: list[_SafetySetting] | None = None
    thinking_config: _ThinkingConfig | None = None


class ExtraBody(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    google: _Google | None = None


_LEVELS: Final = frozenset({"MINIMAL", "LOW", "MEDIUM", "HIGH"})
_PARAM: Final = "extra_body"


def safety_settings(extra: ExtraBody | None) -> list[_SafetySetting] | None:
    """They are named alike on both sides."""
    return (extra.google.safety_settings or None) if extra and extra.google else None


def with_thinking_config(effort: dict[str, object] | None, extra: ExtraBody | None) -> dict[str, object] | None:
    """What an effort became, together with what is asked for in Google's words.

    :raises LineRefused: They contradict each other, or the level is none of Gemini's.
    """
    wanted = extra.google.thinking_config if extra and extra.google else None
    if wanted is None:
        return effort
    config: dict[str, object] = {}
    if wanted.include_thoughts is not None:
        config["includeThoughts"] = wanted.include_thoughts
    if wanted.thinking_budget is not None:
        config["thinkingBudget"] = wanted.thinking_budget
    if wanted.thinking_level is not None:
        level = wanted.thinking_level.upper()
        if level not in _LEVELS:
            raise LineRefused(
                f'has the thinking_level "{wanted.thinking_level}"; it can be minimal, low, medium or high', _PARAM
            )
        config["thinkingLevel"] = level
    if (wanted.thinking_budget is not None or wanted.thinking_level is not None) and effort:
        raise LineRefused("has a reasoning_effort beside the budget or level in its thinking_config", _PARAM)
    if wanted.thinking_budget is not None and wanted.thinking_level is not None:
        raise LineRefused("has a thinking_config with a budget and a level, and Gemini takes one of them", _PARAM)
    return config | (effort or {})
