"""A Gemini request reaches the engine as the chat completion that it means, and the answer comes back as Gemini's."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from airflow_provider_llmbatch.models import ResultResponse
from airflow_provider_llmbatch.server.gemini import RequestRefusedError, chat_of
from airflow_provider_llmbatch.server.gemini_answers import prediction, response_of
from airflow_provider_llmbatch.server.google_json import JsonFieldError, message

_ASKED = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
_MESSAGES = [{"role": "user", "content": "hi"}]


def _chat(request: dict[str, Any]) -> dict[str, Any]:
    return chat_of(message("GenerateContentRequest", request), "m")


def test_a_conversation_with_a_system_and_tools_is_told_in_openais_roles() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    request = {
        "system_instruction": {"parts": [{"text": "Be brief."}, {"text": "Be kind."}]},
        "contents": [
            {"parts": [{"text": "Weather in Rome and Oslo?"}]},
            {
                "role": "model",
                "parts": [
                    {"text": "thinking", "thought": True},
                    {"text": "Let me look."},
                    {"functionCall": {"name": "weather", "args": {"city": "Rome"}}},
                    {"function_call": {"name": "weather", "args": {"city": "Oslo"}, "id": "call_x"}},
                ],
            },
            {
                "role": "user",
                "parts": [
                    {"functionResponse": {"name": "weather", "id": "call_x", "response": {"output": "snow"}}},
                    {"functionResponse": {"name": "weather", "response": {"output": "sun"}}},
                    {"text": "Well?"},
                ],
            },
        ],
        "tools": [{"functionDeclarations": [{"name": "weather", "description": "d", "parametersJsonSchema": schema}]}],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["weather"]}},
    }

    def call(call_id: str, city: str) -> dict[str, Any]:
        function = {"name": "weather", "arguments": json.dumps({"city": city})}
        return {"id": call_id, "type": "function", "function": function}

    assert _chat(request) == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief.\nBe kind."},
            {"role": "user", "content": "Weather in Rome and Oslo?"},
            {
                "role": "assistant",
                "content": "Let me look.",
                "tool_calls": [call("call_1", "Rome"), call("call_x", "Oslo")],
            },
            {"role": "tool", "tool_call_id": "call_x", "content": '{"output": "snow"}'},
            {"role": "tool", "tool_call_id": "call_1", "content": '{"output": "sun"}'},
            {"role": "user", "content": "Well?"},
        ],
        "tools": [{"type": "function", "function": {"name": "weather", "description": "d", "parameters": schema}}],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
    }


def test_pictures_sounds_and_documents_become_parts() -> None:
    parts = [
        {"text": "What is this?"},
        {"inlineData": {"mimeType": "image/png", "data": "aGk="}},
        {"file_data": {"mime_type": "image/jpeg", "file_uri": "gs://b/x.jpg"}},
        {"inlineData": {"mimeType": "audio/wav", "data": "aGk="}},
        {"inlineData": {"mimeType": "application/pdf", "data": "aGk="}},
    ]
    request = {"contents": [{"parts": parts}], "generationConfig": {"mediaResolution": "MEDIA_RESOLUTION_LOW"}}
    assert _chat(request)["messages"][0]["content"] == [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk=", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "gs://b/x.jpg", "detail": "low"}},
        {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,aGk="}},
    ]


@pytest.mark.parametrize(
    ("config", "chat"),
    [
        (
            {
                "temperature": 0.5,
                "topP": 0.9,
                "top_k": 40,
                "candidateCount": 2,
                "maxOutputTokens": 7,
                "stopSequences": ["x"],
                "seed": 1,
                "presencePenalty": 0.1,
                "frequencyPenalty": 0.2,
                "responseLogprobs": True,
                "logprobs": 3,
            },
            {
                "temperature": 0.5,
                "top_p": 0.9,
                "top_k": 40,
                "n": 2,
                "max_tokens": 7,
                "stop": ["x"],
                "seed": 1,
                "presence_penalty": 0.1,
                "frequency_penalty": 0.2,
                "logprobs": True,
                "top_logprobs": 3,
            },
        ),
        ({"temperature": None, "responseMimeType": "text/plain", "responseModalities": ["TEXT"]}, {}),
        ({"responseMimeType": "application/json"}, {"response_format": {"type": "json_object"}}),
        (
            {"responseMimeType": "application/json", "responseJsonSchema": {"enum": ["A"]}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "response", "schema": {"enum": ["A"]}, "strict": True},
                }
            },
        ),
        (
            {
                "responseMimeType": "application/json",
                "responseSchema": {
                    "type": "OBJECT",
                    "properties": {"type": {"type": "STRING", "nullable": True}, "n": {"type": "ARRAY", "items": {}}},
                    "propertyOrdering": ["n", "type"],
                    "required": ["n"],
                },
            },
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {
                        "name": "response",
                        "schema": {
                            "type": "object",
                            "properties": {"type": {"type": ["string", "null"]}, "n": {"type": "array", "items": {}}},
                            "required": ["n"],
                        },
                        "strict": True,
                    },
                }
            },
        ),
        ({"thinkingConfig": {"thinkingLevel": "HIGH"}}, {"reasoning_effort": "high"}),
        ({"thinkingConfig": {"thinkingBudget": 0}}, {"reasoning_effort": "none"}),
        ({"thinkingConfig": {"thinkingBudget": 1024}}, {"reasoning_effort": "low"}),
        ({"thinkingConfig": {"thinkingBudget": 8192}}, {"reasoning_effort": "medium"}),
        ({"thinkingConfig": {"thinkingBudget": 24576}}, {"reasoning_effort": "high"}),
        ({"thinkingConfig": {"thinkingBudget": -1}}, {}),
    ],
)
def test_the_configuration_becomes_parameters(config: dict[str, Any], chat: dict[str, Any]) -> None:
    assert _chat({**_ASKED, "generationConfig": config}) == {"model": "m", "messages": _MESSAGES, **chat}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"contents": []}, "at least one contents field is required"),
        ({"contents": [{"role": "user", "parts": [{"text": ""}]}]}, "must have a text parameter"),
        ({"contents": [{"role": "assistant", "parts": [{"text": "x"}]}]}, "Please use a valid role: user, model."),
        (
            {"contents": [{"parts": [{"functionResponse": {"name": "f", "response": {}}}]}]},
            "after a function call turn",
        ),
        ({"contents": [{"parts": [{"fileData": {"fileUri": "gs://b/x"}}]}]}, "mimeType parameter"),
        ({"cachedContent": "projects/1/x"}, "Explicit caching is not supported"),
        ({"tools": [{"googleSearch": {}}]}, "has no tool googleSearch"),
        ({"toolConfig": {"functionCallingConfig": {"allowedFunctionNames": ["f"]}}}, "do not go together"),
        ({"generationConfig": {"stopSequences": list("abcdef")}}, "At most 5 stopSequences"),
        ({"generationConfig": {"responseModalities": ["AUDIO"]}}, "does not answer in the modality AUDIO"),
        ({"generationConfig": {"responseJsonSchema": {}}}, "needs the responseMimeType"),
        ({"generationConfig": {"responseJsonSchema": {}, "responseSchema": {}}}, "Only one of responseSchema"),
        (
            {"generationConfig": {"thinkingConfig": {"thinkingLevel": "LOW", "thinkingBudget": 1}}},
            "only one of thinking",
        ),
    ],
)
def test_what_the_service_or_the_engine_cannot_do_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestRefusedError, match=words):
        _chat({**_ASKED, **change})


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"messages": []}, 'Unknown name "messages": Cannot find field.'),
        ({"contents": [{"parts": [{"txt": "x"}]}]}, "Unknown name \"txt\" at 'contents\\[0\\].parts\\[0\\]'"),
        ({"systemInstruction": {}, "system_instruction": {}}, '"systemInstruction" is there twice'),
        ({"generationConfig": 5}, "Invalid value at 'generationConfig'"),
        ([], "an object was expected"),
    ],
)
def test_a_request_with_other_fields_than_the_services_is_refused(request_: Any, words: str) -> None:
    with pytest.raises(JsonFieldError, match=words):
        message("GenerateContentRequest", request_)


def _completion(*choices: dict[str, Any], **more: object) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "model": "m", "created": 1_700_000_000, "choices": list(choices), **more}


def test_an_answer_with_thoughts_calls_and_probabilities_comes_back_in_geminis_words() -> None:
    said = {
        "role": "assistant",
        "reasoning_content": "Hm.",
        "content": "Sun.",
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
            {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "broken"}},
        ],
    }
    logprobs = {"content": [{"token": "Sun", "logprob": -1.0, "top_logprobs": [{"token": "Rain", "logprob": -2.0}]}]}
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 5},
    }
    completion = _completion(
        {"index": 0, "message": said, "finish_reason": "tool_calls", "logprobs": logprobs},
        {"index": 1, "message": {"content": "cut"}, "finish_reason": "length"},
        usage=usage,
    )
    assert response_of(completion) == {
        "candidates": [
            {
                "content": {
                    "role": "model",
                    "parts": [
                        {"text": "Hm.", "thought": True},
                        {"text": "Sun."},
                        {"functionCall": {"name": "f", "args": {"a": 1}}},
                        {"functionCall": {"name": "g", "args": {"arguments": "broken"}}},
                    ],
                },
                "finishReason": "STOP",
                "avgLogprobs": -1.0,
                "logprobsResult": {
                    "chosenCandidates": [{"token": "Sun", "logProbability": -1.0}],
                    "topCandidates": [{"candidates": [{"token": "Rain", "logProbability": -2.0}]}],
                },
            },
            {"content": {"role": "model", "parts": [{"text": "cut"}]}, "finishReason": "MAX_TOKENS", "index": 1},
        ],
        "modelVersion": "m",
        "responseId": "1",
        "createTime": "2023-11-14T22:13:20.000000Z",
        "usageMetadata": {
            "promptTokenCount": 10,
            "candidatesTokenCount": 2,
            "thoughtsTokenCount": 5,
            "cachedContentTokenCount": 4,
            "totalTokenCount": 17,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 10}],
            "candidatesTokensDetails": [{"modality": "TEXT", "tokenCount": 2}],
            "cacheTokensDetails": [{"modality": "TEXT", "tokenCount": 4}],
        },
    }


@pytest.mark.parametrize(
    ("choice", "candidate"),
    [
        (
            {"message": {"content": None}, "finish_reason": "content_filter"},
            {"content": {"role": "model"}, "finishReason": "SAFETY"},
        ),
        (
            {"message": {"content": "half"}, "finish_reason": "content_filter"},
            {"content": {"role": "model", "parts": [{"text": "half"}]}, "finishReason": "SAFETY"},
        ),
        (
            {"message": {"refusal": "No."}, "finish_reason": "stop"},
            {"content": {"role": "model", "parts": [{"text": "No."}]}, "finishReason": "STOP"},
        ),
        (
            {"message": {"content": "x"}},
            {"content": {"role": "model", "parts": [{"text": "x"}]}, "finishReason": "OTHER"},
        ),
    ],
)
def test_an_end_is_told_in_geminis_words(choice: dict[str, Any], candidate: dict[str, Any]) -> None:
    assert response_of(_completion(choice))["candidates"] == [candidate]


def test_a_row_of_a_failed_request_has_the_error_as_its_status_and_an_echo_as_it_came() -> None:
    body = {"error": {"message": "Overloaded.", "code": None}}
    failed = ResultResponse(503, None, msgspec.Raw(msgspec.json.encode(body)))
    line, is_good = prediction(b'{"unknown": null}', failed, at=1_700_000_000.0)
    told = {"error": {"code": 503, "message": "Overloaded.", "status": "UNAVAILABLE"}}
    assert (json.loads(line), is_good) == (
        {
            "status": f"Service Unavailable: {json.dumps(told)}",
            "processed_time": "2023-11-14T22:13:20.000+00:00",
            "request": {"unknown": None},
            "response": {},
        },
        False,
    )
