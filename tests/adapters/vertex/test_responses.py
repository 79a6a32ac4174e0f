"""Gemini's answers as OpenAI's chat completions."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.gemini_lines import answer, landed, mapped, output

from airflow_provider_llmbatch.adapters.vertex.responses import result_line

NO_USAGE_DETAILS = {
    "prompt_tokens_details": {"cached_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0},
}
MAPPED_USAGE = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14, **NO_USAGE_DETAILS}


def choice(*parts: dict[str, Any], **candidate: Any) -> dict[str, Any]:
    (only,) = mapped(answer(*parts, **candidate))["response"]["body"]["choices"]
    return only  # type: ignore[no-any-return]


def message(*parts: dict[str, Any], **candidate: Any) -> dict[str, Any]:
    said = choice(*parts, **candidate)["message"]
    assert said.pop("role") == "assistant"
    assert said.pop("refusal") is None
    return said  # type: ignore[no-any-return]


def test_an_answer_is_a_whole_chat_completion() -> None:
    assert mapped(answer({"text": "Me."})) == {
        "id": "batch_req_abc",
        "custom_id": "row-1",
        "response": {
            "status_code": 200,
            "request_id": "abc",
            "body": {
                "id": "abc",
                "object": "chat.completion",
                "created": 1794578668,
                "model": "gemini-2.5-flash",
                "choices": [
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": "Me.", "refusal": None},
                        "logprobs": None,
                        "finish_reason": "stop",
                    }
                ],
                "usage": MAPPED_USAGE,
            },
        },
        "error": None,
    }
    assert landed(output(answer({"text": "Me."}))) == ("succeeded", None, None, 14)


def test_what_gemini_leaves_out_is_made_up_the_same_way_each_time() -> None:
    bare = output({"candidates": [{"content": {"parts": [{"text": "x"}]}}]})
    line = json.loads(result_line(bare, model="gemini-x"))
    body = line["response"].pop("body")
    assert line["response"] == {"status_code": 200, "request_id": None}
    assert {name: body[name] for name in ("created", "model", "object")} == {
        "created": 1794578668,  # the row's time
        "model": "gemini-x",
        "object": "chat.completion",
    }
    assert body["id"].removeprefix("chatcmpl-") == line["id"].removeprefix("batch_req_")
    assert "usage" not in body
    assert body["choices"][0]["finish_reason"] == "stop"
    assert result_line(bare) == result_line(bare)


def test_without_any_time_it_was_made_at_0() -> None:
    for moment in (..., None, "soon", 7):
        line = mapped(answer({"text": "x"}) | {"createTime": None}, processed_time=moment)
        assert line["response"]["body"]["created"] == 0


@pytest.mark.parametrize(
    ("reason", "mapped_reason", "native"),
    [
        ("STOP", "stop", None),
        ("MAX_TOKENS", "length", None),
        *[
            (reason, "content_filter", reason)
            for reason in (
                *("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "LANGUAGE", "IMAGE_SAFETY"),
                *("IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "MODEL_ARMOR", "JAILBREAK"),
            )
        ],
        ("MALFORMED_FUNCTION_CALL", "stop", "MALFORMED_FUNCTION_CALL"),
        ("A_WORD_OF_TOMORROW", "stop", "A_WORD_OF_TOMORROW"),
        (None, "stop", "FINISH_REASON_UNSPECIFIED"),
        (3, "content_filter", "SAFETY"),
        (1, "stop", None),
        (77, "stop", "FINISH_REASON_77"),
    ],
)
def test_a_text_is_an_answer_whatever_ended_it(reason: object, mapped_reason: str, native: str | None) -> None:
    found = choice({"text": "x"}, finishReason=reason)
    assert (found["message"]["content"], found["finish_reason"]) == ("x", mapped_reason)
    assert found.get("native_finish_reason") == native
    assert landed(output(answer({"text": "x"}, finishReason=reason))) == ("succeeded", None, None, 14)


def test_texts_are_joined_and_thoughts_stand_apart() -> None:
    assert message(
        {"text": "Let me see.", "thought": True}, {"text": "A"}, {"text": "B", "thought": False}, {"thought": True}
    ) == {"content": "AB", "reasoning_content": "Let me see."}


def test_calls_get_ids_that_stay_the_same() -> None:
    calls = [
        {"functionCall": {"name": "f", "args": {"b": 1.0, "a": "\u00e9"}}, "thoughtSignature": "c2ln"},
        {"functionCall": {"name": "g", "id": "its-own", "args": None}},
        {"functionCall": {"name": "h"}},
    ]
    found = choice(*calls)
    assert (found["finish_reason"], found["message"]["content"]) == ("tool_calls", None)
    first, second, third = found["message"]["tool_calls"]
    assert first == {
        "id": first["id"],
        "type": "function",
        "function": {"name": "f", "arguments": '{"b": 1.0, "a": "\\u00e9"}'},
        "extra_content": {"google": {"thought_signature": "c2ln"}},
    }
    assert second == {"id": "its-own", "type": "function", "function": {"name": "g", "arguments": "{}"}}
    assert third["function"] == {"name": "h", "arguments": "{}"}
    assert len({first["id"], third["id"]} | {call["id"] for call in message(*calls)["tool_calls"]}) == 3
    assert first["id"].startswith("call_")


def test_a_call_that_its_limit_cut_off_is_no_stop() -> None:
    assert choice({"functionCall": {"name": "f"}}, finishReason="MAX_TOKENS")["finish_reason"] == "length"


def test_pictures_sound_and_files_of_an_answer_are_kept() -> None:
    found = message(
        {"inlineData": {"mimeType": "image/png", "data": "YQ=="}},
        {"inlineData": {"mimeType": "audio/L16", "data": "Yg=="}},
        {"inlineData": {"mimeType": "audio/L16", "data": "Yw=="}},
        {"executableCode": {"code": "1"}},
    )
    assert found.pop("audio") | {"id": ""} == {"id": "", "data": "Yg==", "expires_at": 1794578668, "transcript": ""}
    assert found == {
        "content": None,
        "images": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,YQ=="}}],
        "files": [{"type": "file", "file": {"file_data": "data:audio/L16;base64,Yw=="}}],
        "vertex_parts": [{"executable_code": {"code": "1"}}],
    }


def test_sources_of_an_answer_are_kept() -> None:
    assert choice({"text": "x"}, groundingMetadata={"a": 1}, citationMetadata={"b": 2}, safetyRatings=[{}]) == {
        "index": 0,
        "message": {"role": "assistant", "content": "x", "refusal": None},
        "logprobs": None,
        "finish_reason": "stop",
        "grounding_metadata": {"a": 1},
        "citation_metadata": {"b": 2},
    }


def test_probabilities_of_tokens_have_their_place() -> None:
    logprobs = {
        "chosenCandidates": [
            {"token": "a", "tokenId": 7, "logProbability": -0.5},
            {"token": "b", "logProbability": "-Infinity"},
            {},
        ],
        "topCandidates": [{"candidates": [{"token": "a", "logProbability": -0.5}, {"token": "c"}]}, {}],
    }
    assert choice({"text": "ab"}, logprobsResult=logprobs)["logprobs"] == {
        "content": [
            {
                "token": "a",
                "logprob": -0.5,
                "bytes": None,
                "top_logprobs": [
                    {"token": "a", "logprob": -0.5, "bytes": None},
                    {"token": "c", "logprob": 0.0, "bytes": None},
                ],
            },
            {"token": "b", "logprob": -9999.0, "bytes": None, "top_logprobs": []},
            {"token": "", "logprob": 0.0, "bytes": None, "top_logprobs": []},
        ],
        "refusal": None,
    }


def test_thoughts_and_tools_are_billed_too() -> None:
    usage = {
        "promptTokenCount": 100,
        "toolUsePromptTokenCount": 10,
        "cachedContentTokenCount": 60,
        "candidatesTokenCount": 20,
        "thoughtsTokenCount": "300",
        "totalTokenCount": 1,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 40}, {"modality": "AUDIO", "tokenCount": 60}],
        "candidatesTokensDetails": [
            {"modality": "AUDIO"},
            {"modality": 4, "tokenCount": 5},
            {"modality": "IMAGE", "tokenCount": 7},
        ],
        "trafficType": "ON_DEMAND",
    }
    assert mapped(answer({"text": "x"}) | {"usageMetadata": usage})["response"]["body"]["usage"] == {
        "prompt_tokens": 110,
        "completion_tokens": 320,
        "total_tokens": 430,
        "prompt_tokens_details": {"cached_tokens": 60, "audio_tokens": 60},
        "completion_tokens_details": {"reasoning_tokens": 300, "audio_tokens": 5, "image_tokens": 7},
    }


def test_an_answer_in_snake_case_is_the_same_answer() -> None:
    snake = {
        "candidates": [
            {
                "content": {"parts": [{"function_call": {"name": "f", "args": {"a_b": {"c_d": 1}}}}]},
                "finish_reason": "STOP",
                "finish_message": None,
            }
        ],
        "usage_metadata": {"prompt_token_count": 10, "candidates_token_count": 4},
        "model_version": "gemini-2.5-flash@default",
        "create_time": "2026-11-13T14:04:28.376123456Z",
        "response_id": "abc",
        "prompt_feedback": None,
    }
    camel = answer({"functionCall": {"name": "f", "args": {"a_b": {"c_d": 1}}}})
    wanted = mapped(camel)
    arguments = wanted["response"]["body"]["choices"][0]["message"]["tool_calls"][0]["function"]
    arguments["arguments"] = arguments["arguments"].replace(" ", "")
    assert mapped(snake) == wanted
