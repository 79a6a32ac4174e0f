"""The body of a request, read: which parameters there are, and what becomes of those that Gemini has nothing for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from msgspec import Meta, Raw

from airflow_provider_llmbatch.adapters.vertex.extras import ExtraBody  # noqa: TC001 - msgspec reads it
from airflow_provider_llmbatch.adapters.vertex.messages import Message  # noqa: TC001 - msgspec reads it
from airflow_provider_llmbatch.adapters.vertex.refused import LineRefused

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet

ABSENT: Final = Raw(b"")

_Int32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
_Positive = Annotated[int, Meta(ge=1, le=2**31 - 1)]
_Penalty = Annotated[float, Meta(ge=-2, le=2)]


class Body(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A chat completion's request, ranges as OpenAI's schema has them."""

    messages: list[Message]
    model: str | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    max_completion_tokens: _Positive | None = None
    max_tokens: _Positive | None = None
    n: _Positive | None = None
    stop: str | list[str] | None = None
    seed: _Int32 | None = None
    frequency_penalty: _Penalty | None = None
    presence_penalty: _Penalty | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    reasoning_effort: str | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    modalities: list[str] | None = None
    audio: dict[str, str] | None = None
    extra_body: ExtraBody | None = None
    tools: Raw = ABSENT
    tool_choice: Raw = ABSENT
    response_format: Raw = ABSENT


_decode_body = msgspec.json.Decoder(Body).decode

_ANYTHING: Final = object()
# What says only what Gemini does anyway, or what cannot change an answer. None of them is declared in the structs.
_HARMLESS: Final[Mapping[str, tuple[object, ...]]] = {
    "logit_bias": ({},),
    "parallel_tool_calls": (True,),
    "prompt_cache_key": (_ANYTHING,),  # a hint; Gemini's cache needs none
    "prompt_cache_retention": (_ANYTHING,),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "stream": (False,),
    "verbosity": ("medium",),
    "function_call": ("none", "auto"),
    "functions": ([],),
}
_INSTEAD: Final[Mapping[str, str]] = {
    "stream": "which a batch cannot do",
    "functions": "which OpenAI gave up for tools",
    "function_call": "which OpenAI gave up for tool_choice",
}
_unknown_field = re.compile(r"contains unknown field `([^`]*)`").search
_missing_field = re.compile(r"missing required field `([^`]*)`").search
_path = re.compile(r" - at `\$(?:\.([A-Za-z_]\w*))?[^`]*`$").search


class BodyReading:
    """Reads the bodies of one file."""

    def __init__(self, drop_params: AbstractSet[str]) -> None:
        self._drop_params = drop_params
        self._always_pruned = not drop_params.isdisjoint(Body.__struct_fields__)

    def body(self, raw: Raw) -> Body:
        """:raises LineRefused: It has a parameter that Gemini cannot do, or one of the wrong type.
        :raises msgspec.DecodeError: It is no JSON.
        """
        if not self._always_pruned:
            try:
                return _decode_body(raw)
            except msgspec.ValidationError:
                pass
        try:
            return _decode_body(msgspec.json.encode(self._pruned(msgspec.json.decode(raw))))
        except msgspec.ValidationError as error:
            raise self._refused_body(error) from None

    def _pruned(self, body: Any) -> Any:
        """Without what was given up, and what is harmless. What is left of unknown fields makes the struct refuse."""
        if not isinstance(body, dict):
            return body
        kept = {}
        for name, value in body.items():
            if name in self._drop_params or (name not in Body.__struct_fields__ and _is_harmless(name, value)):
                continue
            kept[name] = value
        if "messages" in kept:
            kept["messages"] = self._pruned_messages(kept["messages"])
        return kept

    def _pruned_messages(self, value: Any) -> Any:
        """Answers that became questions bring nulls of every kind along."""
        if isinstance(value, list):
            return [self._pruned_messages(each) for each in value]
        if isinstance(value, dict):
            return {
                name: self._pruned_messages(each)
                for name, each in value.items()
                if each is not None and f"messages.{name}" not in self._drop_params
            }
        return value

    def _refused_body(self, error: msgspec.ValidationError) -> LineRefused:
        text = str(error)
        top = (match := _path(text)) and match[1]
        if unknown := _unknown_field(text):
            name = f"{top}.{unknown[1]}" if top else unknown[1]
            param = top if top and top != "messages" else name  # what can be given up by itself
            why = _INSTEAD.get(name, "which Gemini cannot do")
            return LineRefused(
                f'has "{name}", {why}; list "{param}" in the connection\'s drop_params to leave it out', param
            )
        missing = _missing_field(text)
        where = text.replace("`$", "`body")
        return LineRefused(f"is no request for a chat completion: {where}", top or (missing and missing[1]))


def _is_harmless(name: str, value: Any) -> bool:
    return value is None or any(each is _ANYTHING or each == value for each in _HARMLESS.get(name, ()))
