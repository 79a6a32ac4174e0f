"""Lines of OpenAI's chat, and what the mapping to Gemini makes of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_llmbatch.adapters.vertex.requests import LineRefused, MappingSettings, RequestMapping

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MODEL = "gemini-2.5-flash"
QUESTION = {"role": "user", "content": "Who?"}


def chat_line(custom_id: str = "row-1", **body: Any) -> bytes:
    """A question to ``gemini-2.5-flash``; a body's field of ``...`` is left out."""
    whole = {"model": MODEL, "messages": [QUESTION], **body}
    whole = {name: value for name, value in whole.items() if value is not ...}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": whole}).encode()


def request_of(
    *,
    drop: Iterable[str] = (),
    budgets: Mapping[str, int] | None = None,
    custom_id: str = "row-1",
    default_model: str | None = None,
    **body: Any,
) -> dict[str, Any]:
    """The request of Gemini's line for one of OpenAI's."""
    settings = MappingSettings(frozenset(drop), budgets or {}, default_model)
    line = RequestMapping(settings).line(chat_line(custom_id, **body))
    mapped: dict[str, Any] = json.loads(line)
    assert list(mapped) == ["request"]
    return mapped["request"]  # type: ignore[no-any-return]


def refusal_of(*, drop: Iterable[str] = (), **body: Any) -> tuple[str, str | None]:
    """Why a line is refused, and the parameter at fault."""
    with pytest.raises(LineRefused) as refused:
        request_of(drop=drop, **body)
    return str(refused.value), refused.value.param
