"""A result line of the most usual kind, decoded at once: one answer of chat completions, with nothing rare about it.

A hot path. The types let nothing pass that a row's fields could not hold, so msgspec makes the checks that
``content_of`` makes one by one. Any other line goes the long way, which takes more than twice the time, with the same
outcome.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from airflow_provider_llmbatch.core.costs.tokens import ChatUsage  # noqa: TC001 - msgspec reads the annotations
from airflow_provider_llmbatch.core.run.content import ABSENT, Content, unless_empty, unless_null

_NULL: Final = b"null"
_TEXT: Final = ord('"')

_Raw = msgspec.Raw
_NoItems = Annotated[list[_Raw], msgspec.Meta(max_length=0)] | None
_NoFields = Annotated[dict[str, _Raw], msgspec.Meta(max_length=0)] | None


class _Message(msgspec.Struct, gc=False):
    content: _Raw = ABSENT
    refusal: None = None
    tool_calls: _Raw = ABSENT
    reasoning_content: _Raw = ABSENT
    reasoning: _Raw = ABSENT
    audio: None = None
    annotations: _NoItems = None
    images: _NoItems = None
    files: _NoItems = None
    vertex_parts: _NoItems = None


class _Choice(msgspec.Struct, gc=False):
    message: _Message
    finish_reason: str | None = None
    logprobs: None = None
    citation_metadata: _NoFields = None
    grounding_metadata: _NoFields = None
    url_context_metadata: _NoFields = None


class _Body(msgspec.Struct, gc=False):
    choices: Annotated[list[_Choice], msgspec.Meta(min_length=1, max_length=1)]
    model: str | None = None
    usage: ChatUsage | None = None
    status: None = None


class _Response(msgspec.Struct, gc=False):
    status_code: Annotated[int, msgspec.Meta(ge=200, lt=300)]
    body: _Body


class _Line(msgspec.Struct, gc=False):
    custom_id: str
    response: _Response
    error: None = None


_decode = msgspec.json.Decoder(_Line).decode


class Answered(msgspec.Struct, gc=False):
    """A request that was answered well, and what the answer says."""

    custom_id: str
    content: Content


def quick_answer(line: bytes) -> Answered | None:
    """What a line of the most usual kind says; ``None`` for any other one."""
    try:
        if not line.isascii():
            line.decode()  # msgspec does not look at what it leaves undecoded
        found = _decode(line)
    except (ValueError, RecursionError):
        return None
    body = found.response.body
    choice = body.choices[0]
    message = choice.message
    text = bytes(message.content)
    if text[0] != _TEXT and text != _NULL:
        return None
    usage = body.usage
    content = Content(text, choice.finish_reason, body.model, usage.tokens() if usage is not None else None)
    if message.tool_calls is not ABSENT:
        content.tool_calls = unless_empty(message.tool_calls)
    if message.reasoning_content is not ABSENT or message.reasoning is not ABSENT:
        content.reasoning = unless_null(message.reasoning_content) or unless_null(message.reasoning)
    return Answered(found.custom_id, content)
