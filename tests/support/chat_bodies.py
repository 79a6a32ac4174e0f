"""Bodies of chat completions, generated: most of what OpenAI's description allows, and some of what it does not."""

from __future__ import annotations

import base64
from typing import Any

from hypothesis import strategies as st

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | st.floats(-1e6, 1e6) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=5,
)
_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_NAMES = st.sampled_from(["f", "get_weather", "g-1"])
_BASE64 = st.binary(max_size=6).map(lambda content: base64.b64encode(content).decode())
_URLS = st.sampled_from(["gs://b/a.png", "https://e.org/a.jpg?x=1", "http://e.org/a.png", "gs://b/a"]) | _BASE64.map(
    lambda data: f"data:image/png;base64,{data}"
)


def _objects(required: dict[str, st.SearchStrategy[Any]], optional: dict[str, st.SearchStrategy[Any]]) -> Any:
    return st.fixed_dictionaries(required, optional=optional)


def _part(kind: str, strategy: st.SearchStrategy[Any]) -> Any:
    return st.fixed_dictionaries({"type": st.just(kind), kind: strategy})


_TEXT_PARTS = _part("text", _TEXTS)
_USER_PARTS = st.one_of(
    _TEXT_PARTS,
    _part("image_url", _objects({"url": _URLS}, {"detail": st.sampled_from(["auto", "low", "high"])})),
    _part("input_audio", _objects({"data": _BASE64, "format": st.sampled_from(["wav", "mp3"])}, {})),
    _part(
        "file",
        _objects(
            {},
            {
                "file_data": _BASE64,
                "filename": st.just("a.pdf"),
                "file_id": st.sampled_from(["file-1", "gs://b/a.pdf"]),
            },
        ),
    ),
)


@st.composite
def _conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    calls = 0
    for role in draw(st.lists(st.sampled_from(["system", "developer", "user", "assistant", "calls"]), max_size=4)):
        if role == "calls":
            made = [f"call_{calls + i}" for i in range(draw(st.integers(1, 2)))]
            calls += len(made)
            messages.append(
                {
                    "role": "assistant",
                    "content": draw(st.none() | _TEXTS),
                    "tool_calls": [
                        {
                            "id": each,
                            "type": "function",
                            "function": {
                                "name": draw(_NAMES),
                                "arguments": draw(st.sampled_from(["{}", '{"a":[1,null]}', "", "[1]"])),
                            },
                        }
                        for each in made
                    ],
                }
            )
            messages += [
                {"role": "tool", "tool_call_id": each, "content": draw(_TEXTS | st.just('{"a": {"b": null}}'))}
                for each in draw(st.permutations(made))
            ]
        else:
            parts = _USER_PARTS if role == "user" else _TEXT_PARTS
            content = draw(_TEXTS | st.lists(parts, min_size=1, max_size=2))
            messages.append({"role": role, "content": content})
    return [*messages, {"role": "user", "content": draw(_TEXTS)}]


_SCHEMAS = st.recursive(
    st.sampled_from(
        [
            {"type": "string"},
            {"type": ["string", "null"], "enum": ["a", None]},
            {"type": "integer", "minimum": 0, "maximum": 5},
            {"const": "x"},
            {"type": "string", "pattern": "^a"},
            {},
        ]
    ),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"type": st.just("array"), "items": inner}),
        st.fixed_dictionaries(
            {
                "type": st.just("object"),
                "properties": st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2),
                "additionalProperties": st.just(False) | inner,
            }
        ),
        st.fixed_dictionaries({"anyOf": st.lists(inner, min_size=1, max_size=2)}),
    ),
    max_leaves=4,
)
_TOOLS = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.just("function"),
            "function": _objects(
                {"name": _NAMES}, {"description": _TEXTS, "parameters": _SCHEMAS, "strict": st.booleans()}
            ),
        }
    ),
    max_size=2,
)
_CHOICES = st.sampled_from(["auto", "none", "required"]) | _NAMES.map(
    lambda name: {"type": "function", "function": {"name": name}}
)
_FORMATS = st.sampled_from([{"type": "text"}, {"type": "json_object"}]) | st.fixed_dictionaries(
    {
        "type": st.just("json_schema"),
        "json_schema": _objects({"name": st.just("a"), "schema": _SCHEMAS}, {"description": _TEXTS}),
    }
)
_OPTIONAL: dict[str, st.SearchStrategy[Any]] = {
    "temperature": st.floats(0, 2) | st.none(),
    "top_p": st.floats(0, 1),
    "max_tokens": st.integers(1, 1000),
    "max_completion_tokens": st.integers(1, 1000),
    "n": st.integers(1, 4),
    "stop": _TEXTS | st.lists(_TEXTS, max_size=6),
    "seed": st.integers(-(2**33), 2**33) | st.integers(0, 9),
    "frequency_penalty": st.floats(-2, 2),
    "presence_penalty": st.floats(-2, 2),
    "logprobs": st.just(True),
    "top_logprobs": st.integers(0, 20),
    "reasoning_effort": st.sampled_from(["none", "low", "high", "xhigh"]),
    "user": st.sampled_from(["u1", "a@b.c"]),
    "metadata": st.dictionaries(st.sampled_from(["team", "k-1", "Bad"]), st.sampled_from(["a", "", "1"]), max_size=2),
    "modalities": st.lists(st.sampled_from(["text", "audio", "image"]), max_size=2),
    "tools": _TOOLS,
    "tool_choice": _CHOICES,
    "response_format": _FORMATS,
    "parallel_tool_calls": st.just(True),
    "stream": st.just(False),
    "logit_bias": st.just({}),
    "extra_body": st.fixed_dictionaries(
        {
            "google": _objects(
                {},
                {
                    "safety_settings": st.just([{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "OFF"}]),
                    "thinking_config": _objects(
                        {},
                        {
                            "include_thoughts": st.booleans(),
                            "thinking_budget": st.integers(-1, 9),
                            "thinking_level": st.sampled_from(["low", "HIGH"]),
                        },
                    ),
                },
            )
        }
    ),
    "unheard_of": JSON,
}


@st.composite
def bodies(draw: st.DrawFn) -> dict[str, Any]:
    """A conversation, and up to five parameters: with more of them nearly every body would be refused for one."""
    body: dict[str, Any] = {
        "model": draw(st.sampled_from(["gemini-2.5-flash", "gemini-3.1-pro-preview", "google/gemini-2.5-pro"])),
        "messages": draw(_conversations()),
    }
    for name in draw(st.lists(st.sampled_from(sorted(_OPTIONAL)), max_size=5, unique=True)):
        body[name] = draw(_OPTIONAL[name])
    return body
