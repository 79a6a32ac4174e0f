from __future__ import annotations

import base64
import json
import struct
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from airflow_provider_llmbatch.core.costs.tokens import Tokens, tokens_of_usage
from airflow_provider_llmbatch.core.results import result_of_line
from airflow_provider_llmbatch.core.run.content import content_of, decoded_text
from airflow_provider_llmbatch.core.run.quick_answer import quick_answer
from airflow_provider_llmbatch.models import Usage

if TYPE_CHECKING:
    from pydantic import JsonValue

CHAT_USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 5,
    "total_tokens": 15,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
RESPONSES_USAGE = {
    "input_tokens": 10,
    "input_tokens_details": {"cached_tokens": 4},
    "output_tokens": 5,
    "output_tokens_details": {"reasoning_tokens": 2},
    "total_tokens": 15,
}
ALL_KINDS = {
    "prompt_tokens": 30,
    "completion_tokens": 20,
    "total_tokens": 50,
    "prompt_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 2, "audio_tokens": 3, "image_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 5, "audio_tokens": 6, "image_tokens": 7},
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def chat(message: JsonValue, **choice: JsonValue) -> dict[str, JsonValue]:
    return {
        "object": "chat.completion",
        "model": "m-1",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", **choice}],
        "usage": CHAT_USAGE,
    }


def response(*output: JsonValue, status: str = "completed", **more: JsonValue) -> dict[str, JsonValue]:
    body = {"object": "response", "status": status, "model": "m-1", "output": list(output), "usage": RESPONSES_USAGE}
    return {**body, **more}


def said(*texts: str) -> dict[str, JsonValue]:
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": t} for t in texts]}


def fields(body: JsonValue) -> dict[str, Any]:
    """What is in a body, without the fields that hold nothing."""
    content = content_of(json.dumps(body).encode())
    found: dict[str, Any] = {"text": decoded_text(content.text), "finish_reason": content.finish_reason}
    found |= {"model": content.model, "tokens": content.tokens and msgspec.structs.astuple(content.tokens)[:5]}
    for name in ("refusal", "tool_calls", "reasoning", "embedding", "body"):
        value = getattr(content, name)
        found[name] = None if value is None else json.loads(value)
    return {name: value for name, value in found.items() if value is not None}


ANSWERED = {"finish_reason": "stop", "model": "m-1", "tokens": (10, 4, 5, 2, 15)}
SEVERAL = {**chat({"content": "a"}), "choices": [{"message": {"content": "a"}}, {"message": {"content": "b"}}]}
CITED = chat({"content": "a", "annotations": [{"type": "url_citation"}]})
DRAWN = chat({"content": None, "images": [{"type": "image_url"}]})
GROUNDED = chat({"content": "a"}, grounding_metadata={"chunks": []})
LOGPROBS = chat({"content": "a"}, logprobs={"content": []})


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (chat({"role": "assistant", "content": 'a"\n\u2028'}), {"text": 'a"\n\u2028', **ANSWERED}),
        (
            chat({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "\nb"}]}),
            {"text": "a\nb", **ANSWERED},
        ),
        (chat({"content": None, "refusal": "I won't."}), {"refusal": "I won't.", **ANSWERED}),
        (
            chat({"content": None, "tool_calls": [CALL]}, finish_reason="tool_calls"),
            {**ANSWERED, "tool_calls": [CALL], "finish_reason": "tool_calls"},
        ),
        (chat({"content": "a", "tool_calls": [], "annotations": [], "images": None}), {"text": "a", **ANSWERED}),
        (chat({"content": "a", "reasoning_content": "Hm."}), {"text": "a", "reasoning": "Hm.", **ANSWERED}),
        (chat({"content": "a", "reasoning": "Hm.\n"}), {"text": "a", "reasoning": "Hm.\n", **ANSWERED}),
        (CITED, {"text": "a", **ANSWERED, "body": CITED}),
        (DRAWN, {**ANSWERED, "body": DRAWN}),
        (GROUNDED, {"text": "a", **ANSWERED, "body": GROUNDED}),
        (SEVERAL, {"text": "a", "model": "m-1", "tokens": (10, 4, 5, 2, 15), "body": SEVERAL}),
        (LOGPROBS, {"text": "a", **ANSWERED, "body": LOGPROBS}),
    ],
    ids=[
        *("text", "parts", "refusal", "calls", "nothing besides", "reasoning_content", "reasoning", "cited", "drawn"),
        *("grounded", "several choices", "logprobs"),
    ],
)
def test_chat_completions(body: JsonValue, expected: JsonValue) -> None:
    assert fields(body) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (response({"type": "reasoning", "summary": []}, said("a")), {"text": "a", **ANSWERED}),
        (response(said("a", "b"), said("\nc")), {"text": "ab\nc", **ANSWERED}),
        (response(said()), ANSWERED),
        (
            response({"type": "message", "content": [{"type": "refusal", "refusal": "No."}]}),
            {"refusal": "No.", **ANSWERED},
        ),
        (
            response({"type": "function_call", "name": "f", "arguments": "{}"}),
            {
                **ANSWERED,
                "tool_calls": [{"type": "function_call", "name": "f", "arguments": "{}"}],
                "finish_reason": "tool_calls",
            },
        ),
        (
            response(said("a"), status="incomplete", incomplete_details={"reason": "max_output_tokens"}),
            {**ANSWERED, "text": "a", "finish_reason": "length"},
        ),
        (
            response(status="incomplete", incomplete_details={"reason": "content_filter"}),
            {**ANSWERED, "finish_reason": "content_filter"},
        ),
    ],
    ids=["text", "texts", "nothing said", "refusal", "calls", "too long", "filtered"],
)
def test_responses(body: JsonValue, expected: JsonValue) -> None:
    assert fields(body) == expected


def test_completions_have_their_text_in_the_choice() -> None:
    body = {"model": "m-1", "choices": [{"text": "a", "finish_reason": "length"}], "usage": None}
    assert fields(body) == {"text": "a", "finish_reason": "length", "model": "m-1"}


@pytest.mark.parametrize("vector", [[0.5, -1, 2e-3], []])
def test_an_embedding_is_the_numbers_that_came(vector: JsonValue) -> None:
    body = {"object": "list", "model": "e-1", "data": [{"embedding": vector}], "usage": {"prompt_tokens": 3}}
    assert fields(body) == {"embedding": vector, "model": "e-1", "tokens": (3, 0, 0, 0, 3)}


def test_an_embedding_in_base64_becomes_numbers() -> None:
    packed = base64.b64encode(struct.pack("<3f", 0.5, -1.0, 0.25)).decode()
    assert fields({"data": [{"embedding": packed}]}) == {"embedding": [0.5, -1.0, 0.25]}


@pytest.mark.parametrize(
    "body",
    [
        {"data": [{"embedding": [1]}, {"embedding": [2]}]},
        {"data": [{"b64_json": "aGk="}], "model": "i-1"},
        {"id": "modr-1", "model": "i-1", "results": [{"flagged": False}]},
        {"data": [{"embedding": "not base64!"}]},
        {"data": [{"embedding": "aGk="}]},
        {"choices": []},
        "a transcript",
        7,
        [],
    ],
)
def test_a_body_that_no_field_can_hold_is_kept_whole(body: JsonValue) -> None:
    model = body.get("model") if isinstance(body, dict) else None
    assert fields(body) == {"body": body} | ({"model": model} if model else {})


@pytest.mark.parametrize(
    "choices",
    [7, [7], [{"message": 7}], [{"message": {"content": 7}}], [{"message": {"content": "a"}, "finish_reason": []}]],
)
def test_a_body_of_another_shape_is_kept_whole_with_model_and_usage(choices: JsonValue) -> None:
    body = {"model": "m-1", "choices": choices, "usage": CHAT_USAGE}
    assert fields(body) == {"body": body, "model": "m-1", "tokens": (10, 4, 5, 2, 15)}


def test_kinds_of_tokens_that_few_models_have() -> None:
    read = {"cached_tokens": 4, "cache_write_tokens": 3, "audio_tokens": 2, "image_tokens": 1}
    written = {"reasoning_tokens": 2, "audio_tokens": 6, "image_tokens": 5}
    usage = {"prompt_tokens": 30, "completion_tokens": 20, "total_tokens": 50}
    body = {
        **chat({"content": "a"}),
        "usage": usage | {"prompt_tokens_details": read, "completion_tokens_details": written},
    }
    tokens = content_of(msgspec.json.encode(body)).tokens
    assert tokens == Tokens(30, 4, 20, 2, 50, 3, 2, 1, 6, 5)
    shown = {"input_tokens": 30, "output_tokens": 20, "total_tokens": 50}
    shown |= {"input_tokens_details": read, "output_tokens_details": written}
    assert msgspec.json.decode(tokens.as_json()) == shown
    assert tokens_of_usage(Usage.model_validate(shown)) == tokens


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": "3", "completion_tokens": 2.0}, (3, 0, 2, 0, 5)),
        ({"prompt_tokens": None, "total_tokens": 4, "prompt_tokens_details": None}, (0, 0, 0, 0, 4)),
        ({"prompt_tokens": -1, "completion_tokens": 2, "total_tokens": 10**30}, (0, 0, 2, 0, 2)),
        ({}, (0, 0, 0, 0, 0)),
    ],
)
def test_token_counts_come_as_servers_send_them(usage: JsonValue, tokens: JsonValue) -> None:
    assert fields({**chat({"content": "a"}), "usage": usage}) == {**ANSWERED, "text": "a", "tokens": tokens}


@pytest.mark.parametrize("usage", ["many", {"prompt_tokens": "many"}, [7]])
def test_a_usage_that_cannot_be_read_costs_the_usage_alone(usage: JsonValue) -> None:
    assert fields({**chat({"content": "a"}), "usage": usage}) == {"text": "a", "finish_reason": "stop", "model": "m-1"}


def test_nothing_comes_of_null() -> None:
    assert fields(None) == {}


def test_tokens_add_up_and_are_written_in_the_models_names() -> None:
    tokens = Tokens(1, 2, 3, 4, 5)
    tokens.add(Tokens(10, 20, 30, 40, 50))
    assert (
        json.loads(tokens.as_json())
        == tokens.as_usage().model_dump()
        == {
            "input_tokens": 11,
            "input_tokens_details": {"cached_tokens": 22},
            "output_tokens": 33,
            "output_tokens_details": {"reasoning_tokens": 44},
            "total_tokens": 55,
        }
    )


USUAL = [
    chat({"content": "a"}),
    chat({"content": "a", "refusal": None, "annotations": [], "images": [], "audio": None}, logprobs=None),
    chat({"content": None, "tool_calls": [CALL]}),
    chat({"content": "a", "tool_calls": []}),
    chat({"content": "a", "reasoning_content": "Hm."}),
    chat({"content": "a", "reasoning_content": None, "reasoning": "Hm."}),
    chat({"content": "a"}, finish_reason=None, grounding_metadata={}, citation_metadata=None),
    chat({}),
    {**chat({"content": "a"}), "usage": None, "model": None, "status": None},
    {**chat({"content": "a"}), "usage": {}},
    {**chat({"content": "a"}), "usage": ALL_KINDS},
    {**chat({"content": "a"}), "usage": {**CHAT_USAGE, "prompt_tokens_details": None, "total_tokens": 0}},
]
LINES = [
    *USUAL,
    chat({"content": "a", "tool_calls": [CALL], "refusal": "No."}),
    chat({"content": [{"type": "text", "text": "a"}]}),
    chat({"content": 7}),
    chat({"content": "a"}, finish_reason=7),
    {**chat({"content": "a"}), "usage": "many"},
    {**chat({"content": "a"}), "usage": {"prompt_tokens": "3"}},
    {**chat({"content": "a"}), "usage": {**CHAT_USAGE, "prompt_tokens": -1}},
    {**chat({"content": "a"}), "usage": {**CHAT_USAGE, "completion_tokens": 2**60}},
    {**chat({"content": "a"}), "usage": {**CHAT_USAGE, "input_tokens": 7}},
    {**chat({"content": "a"}), "choices": []},
    {**chat({"content": "a"}), "status": "failed", "object": "response"},
    {"choices": [{"text": "a"}]},
    SEVERAL,
    LOGPROBS,
    CITED,
    DRAWN,
    GROUNDED,
    response(said("a")),
    {"data": [{"embedding": [1]}]},
    json.dumps(chat({"content": "a"})),
    None,
]


@pytest.mark.parametrize("body", LINES)
@pytest.mark.parametrize("status", [200, 201, 400, None, "200"])
@pytest.mark.parametrize("error", [None, {"code": "x"}, {}, ""])
def test_the_quick_way_through_a_line_finds_what_the_long_one_does(
    body: JsonValue, status: JsonValue, error: JsonValue
) -> None:
    line = json.dumps({"custom_id": "7", "response": {"status_code": status, "body": body}, "error": error}).encode()
    found = quick_answer(line)
    result = result_of_line(line) if status != "200" else None
    if found is None:
        assert body not in USUAL or error is not None or status not in (200, 201)
    else:
        assert result is not None
        assert result.response is not None
        assert (found.custom_id, result.outcome) == ("7", "succeeded")
        assert found.content == content_of(result.response.body)


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b'{"custom_id":"\xff"}', b"[" * 100_000, b'{"custom_id":"7"}'])
def test_the_quick_way_leaves_what_is_no_answer_to_the_long_one(line: bytes) -> None:
    assert quick_answer(line) is None


def test_the_quick_way_leaves_broken_characters_to_the_long_one() -> None:
    good = json.dumps({"custom_id": "7", "response": {"status_code": 200, "body": chat({"content": "caf#"})}}).encode()
    assert quick_answer(good.replace(b"#", "\u00e9".encode())) is not None
    for broken in (b"\xe9", b"\\ud83d", b"\\x"):
        assert quick_answer(good.replace(b"#", broken)) is None
