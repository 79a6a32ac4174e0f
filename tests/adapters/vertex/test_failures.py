"""Why a request has no answer: a block, a failure, or a line that is not what it should be."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.gemini_lines import ECHO, USAGE, answer, landed, mapped, output

from airflow_provider_llmbatch.adapters.vertex.responses import custom_id_of, result_line
from airflow_provider_llmbatch.core.results import result_of_line


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
    "response", [{"candidates": 7}, [], [{"a": 1}], {"candidates": [{"content": {"parts": [{"text": []}]}}]}]
)
def test_an_answer_of_another_shape_costs_its_row_only(response: object) -> None:
    result = result_of_line(result_line(output(response)))
    assert (result.outcome, result.error and result.error.code) == ("failed", "unreadable_result")
    assert result.response is not None  # it was paid for
    assert json.loads(bytes(result.response.body)) == response


@pytest.mark.parametrize("broken", [b'"\\ud83d"', b'"\xff"', b"NaN"])
def test_an_answer_that_is_not_quite_json_is_kept(broken: bytes) -> None:
    """As Python's own writer makes it, or one that cuts a text anywhere."""
    line = output(answer({"text": "A"}, x="BROKEN", finishMessage="BROKEN")).replace(b'"BROKEN"', broken)
    assert landed(line) == ("succeeded", None, None, 14)


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"{", b"[]", b'{"request": 7}', b'{"request": {"labels": {"team": "a"}}}', b'{"response": {}}'),
        b'{"request": {"labels": {"llmbatch_id": "a"}}, "response": ' + b"[" * 5000 + b"]" * 5000 + b"}",
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
