"""Gemini's output lines as OpenAI's result lines: answers, blocks and failures, each its own kind."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from airflow_provider_llmbatch.adapters.vertex.responses import custom_id_of, result_line
from airflow_provider_llmbatch.core.results import result_of_line

USAGE = {"promptTokenCount": 10, "candidatesTokenCount": 4, "totalTokenCount": 14}
NO_USAGE_DETAILS = {
    "prompt_tokens_details": {"cached_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0},
}
MAPPED_USAGE = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14, **NO_USAGE_DETAILS}
ECHO = {"contents": [{"role": "user", "parts": [{"text": "Who?"}]}], "labels": {"llmbatch_id": "row-1"}}


def output(response: Any = ..., status: Any = "", **more: Any) -> bytes:
    line = {"status": status, "processed_time": "2026-11-13T14:04:28.376+00:00", "request": ECHO, "response": response}
    return json.dumps({name: value for name, value in (line | more).items() if value is not ...}).encode()


def answer(*parts: dict[str, Any], **candidate: Any) -> dict[str, Any]:
    return {
        "candidates": [{"content": {"role": "model", "parts": list(parts)}, "finishReason": "STOP", **candidate}],
        "usageMetadata": USAGE,
        "modelVersion": "gemini-2.5-flash@default",
        "createTime": "2026-11-13T14:04:28.376123456Z",
        "responseId": "abc",
    }


def mapped(response: Any = ..., **more: Any) -> dict[str, Any]:
    line: dict[str, Any] = json.loads(result_line(output(response, **more)))
    return line


def choice(*parts: dict[str, Any], **candidate: Any) -> dict[str, Any]:
    (only,) = mapped(answer(*parts, **candidate))["response"]["body"]["choices"]
    return only  # type: ignore[no-any-return]


def message(*parts: dict[str, Any], **candidate: Any) -> dict[str, Any]:
    said = choice(*parts, **candidate)["message"]
    assert said.pop("role") == "assistant"
    assert said.pop("refusal") is None
    return said  # type: ignore[no-any-return]


def landed(line: bytes) -> tuple[str, str | None, str | None, int | None]:
    """Outcome, error code, error message, and how many tokens the answer that is kept was billed for."""
    result = result_of_line(result_line(line))
    assert result.custom_id == "row-1"
    usage = msgspec.json.decode(result.response.body).get("usage") if result.response else None
    error = result.error
    return (
        result.outcome,
        error.code if error else None,
        error.message if error else None,
        usage and usage["total_tokens"],
    )


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
    for moment in (..., None, "soon"):
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


@pytest.mark.parametrize(
    ("response", "code", "words"),
    [
        (
            {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": {"promptTokenCount": 9}},
            "content_filter",
            "Gemini blocked the prompt: PROHIBITED_CONTENT",
        ),
        (
            {
                "promptFeedback": {"blockReason": "SAFETY", "blockReasonMessage": "No."},
                "usageMetadata": {"promptTokenCount": 9},
            },
            "content_filter",
            "Gemini blocked the prompt: SAFETY (No.)",
        ),
        (
            {
                "candidates": [{"finishReason": "OTHER"}, {"finishReason": "SPII", "finishMessage": "Ids."}],
                "usageMetadata": {"promptTokenCount": 9},
            },
            "content_filter",
            "Gemini blocked its answer: SPII (Ids.)",
        ),
        (
            {
                "candidates": [
                    {"finishReason": "SAFETY", "content": {"parts": [{"text": "Hm.", "thought": True}, {"text": ""}]}}
                ],
                "usageMetadata": {"promptTokenCount": 9},
            },
            "content_filter",
            "Gemini blocked its answer: SAFETY",
        ),
        (
            {
                "candidates": [{"finishReason": "MALFORMED_FUNCTION_CALL", "finishMessage": "f("}],
                "usageMetadata": {"promptTokenCount": 9},
            },
            "malformed_function_call",
            "Gemini ended without an answer: MALFORMED_FUNCTION_CALL (f()",
        ),
        (
            {"usageMetadata": {"promptTokenCount": 9}, "candidates": []},
            "no_candidates",
            "Gemini sent neither an answer nor a reason.",
        ),
    ],
)
def test_nothing_said_is_a_failure_of_its_own_kind_whose_tokens_are_kept(
    response: dict[str, Any], code: str, words: str
) -> None:
    assert landed(output(response)) == ("failed", code, words, 9)


def test_a_blocked_prompt_is_one_choice_without_content() -> None:
    line = mapped({"promptFeedback": {"blockReason": "SAFETY"}})
    assert line["response"]["status_code"] == 200
    assert line["response"]["body"]["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": None, "refusal": None},
            "logprobs": None,
            "finish_reason": "content_filter",
        }
    ]


@pytest.mark.parametrize("reason", ["STOP", "MAX_TOKENS", None])
def test_an_empty_answer_that_was_not_blocked_is_one(reason: str | None) -> None:
    assert landed(output({"candidates": [{"finishReason": reason}], "usageMetadata": USAGE})) == (
        "succeeded",
        None,
        None,
        14,
    )


def test_one_candidate_of_several_is_enough() -> None:
    response = {
        "candidates": [
            {"finishReason": "SAFETY", "index": 1},
            {"finishReason": "STOP", "index": 0, "content": {"parts": [{"text": "x"}]}},
        ],
        "promptFeedback": {"blockReason": "BLOCKED_REASON_UNSPECIFIED"},
    }
    line = mapped(response)
    assert line["error"] is None
    assert [(found["index"], found["finish_reason"]) for found in line["response"]["body"]["choices"]] == [
        (1, "content_filter"),
        (0, "stop"),
    ]


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
        "candidatesTokensDetails": [{"modality": "AUDIO"}, {"modality": 4, "tokenCount": 5}],
        "trafficType": "ON_DEMAND",
    }
    assert mapped(answer({"text": "x"}) | {"usageMetadata": usage})["response"]["body"]["usage"] == {
        "prompt_tokens": 110,
        "completion_tokens": 320,
        "total_tokens": 430,
        "prompt_tokens_details": {"cached_tokens": 60, "audio_tokens": 60},
        "completion_tokens_details": {"reasoning_tokens": 300, "audio_tokens": 5},
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


@pytest.mark.parametrize(
    ("status", "code", "words", "http"),
    [
        (
            'Bad Request: {"error": {"code": 400, "message": "No role.", "status": "INVALID_ARGUMENT"}}',
            "INVALID_ARGUMENT",
            "No role.",
            400,
        ),
        ('{"code": 8, "message": "Full."}', "RESOURCE_EXHAUSTED", "Full.", 429),
        ({"code": 3, "message": "No role."}, "INVALID_ARGUMENT", "No role.", 400),
        ({"code": "13", "message": "Oh."}, "INTERNAL", "Oh.", 500),
        ({"code": 503, "message": "Gone."}, "http_503", "Gone.", 503),
        ({"error": {"message": "Hm.", "status": "NOT_FOUND"}}, "NOT_FOUND", "Hm.", 404),
        ({"error": "Hm."}, "vertex_error", "Hm.", None),
        ({"code": 7}, "PERMISSION_DENIED", "It gave no reason.", 403),
        ("DEADLINE_EXCEEDED: too late", "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED: too late", 504),
        ("Internal Server Error: x", "http_500", "Internal Server Error: x", 500),
        ("HTTP 429 slow down", "http_429", "HTTP 429 slow down", 429),
        ("Something {else} happened.", "vertex_error", "Something {else} happened.", None),
        (5, "NOT_FOUND", "It gave no reason.", 404),
    ],
)
def test_a_status_tells_why_there_is_no_answer(status: object, code: str, words: str, http: int | None) -> None:
    for response in (..., {}, None, answer({"text": "not to be trusted"})):
        line = mapped(response, status=status)
        assert line["error"] == {"code": code, "message": words}
        assert (line["response"] or {}).get("status_code") == http
        assert landed(output(response, status=status)) == ("failed", code, words, None)


@pytest.mark.parametrize("status", ["", " ", None, {}, "OK", {"code": 0}, 0, ...])
def test_a_status_that_says_nothing_is_a_good_one(status: object) -> None:
    assert landed(output(answer({"text": "x"}), status=status))[0] == "succeeded"


@pytest.mark.parametrize("response", [..., None, {}])
def test_neither_an_answer_nor_an_error_is_a_failure(response: object) -> None:
    assert landed(output(response)) == ("failed", "no_response", "The row has neither an answer nor an error.", None)


@pytest.mark.parametrize(
    "response", [{"candidates": 7}, [], "x", {"candidates": [{"content": {"parts": [{"text": []}]}}]}]
)
def test_an_answer_of_another_shape_costs_its_row_only(response: object) -> None:
    assert landed(output(response))[:2] == ("failed", "unreadable_result")


@pytest.mark.parametrize("broken", [b'"\\ud83d"', b'"\xff"', b"NaN"])
def test_an_answer_that_is_not_quite_json_is_kept(broken: bytes) -> None:
    """As Python's own writer makes it, or one that cuts a text anywhere."""
    line = output(answer({"text": "A"}, x="BROKEN", finishMessage="BROKEN")).replace(b'"BROKEN"', broken)
    assert landed(line) == ("succeeded", None, None, 14)


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"{", b"[]", b'{"request": 7}', b'{"request": {"labels": {"team": "a"}}}', b'{"response": {}}'),
        *(b'{"request": null}', b'{"request": "{"}', b'{"request": {"labels": {"llmbatch_id_1": "ie"}}}'),
    ],
)
def test_a_line_that_names_no_request_is_an_error(line: bytes) -> None:
    for read in (custom_id_of, result_line):
        with pytest.raises(ValueError, match=r"."):
            read(line)


@pytest.mark.parametrize("request_", [ECHO, json.dumps(ECHO), ECHO | {"labels": {"llmbatch_id_0": "ojxxollb"}}])
def test_the_id_is_in_the_echo_whether_an_object_or_a_text(request_: object) -> None:
    line = output(answer({"text": "x"}), request=request_)
    found = "row-a" if "ojxxollb" in line.decode() else "row-1"
    assert custom_id_of(line) == found
    assert json.loads(result_line(line))["custom_id"] == found
