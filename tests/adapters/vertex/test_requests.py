"""A line of OpenAI's as one of Gemini's: each parameter, and each refusal."""

from __future__ import annotations

from typing import Any

import pytest
from support.chat_lines import refusal_of, request_of

ASKED = {"contents": [{"role": "user", "parts": [{"text": "Who?"}]}], "labels": {"llmbatch_id": "row-1"}}


def test_a_question_becomes_one_turn_and_a_label() -> None:
    assert request_of() == ASKED


@pytest.mark.parametrize(
    ("body", "config"),
    [
        ({"temperature": 0}, {"temperature": 0}),
        ({"top_p": 0.5}, {"topP": 0.5}),
        ({"max_tokens": 7}, {"maxOutputTokens": 7}),
        ({"max_completion_tokens": 8}, {"maxOutputTokens": 8}),
        ({"max_completion_tokens": 8, "max_tokens": 8}, {"maxOutputTokens": 8}),
        ({"n": 2}, {"candidateCount": 2}),
        ({"stop": "END"}, {"stopSequences": ["END"]}),
        ({"stop": ["a", "b", "c", "d", "e"]}, {"stopSequences": ["a", "b", "c", "d", "e"]}),
        ({"seed": -7}, {"seed": -7}),
        ({"frequency_penalty": 2, "presence_penalty": -2}, {"frequencyPenalty": 2, "presencePenalty": -2}),
        ({"logprobs": True}, {"responseLogprobs": True}),
        ({"logprobs": True, "top_logprobs": 0}, {"responseLogprobs": True}),
        ({"logprobs": True, "top_logprobs": 20}, {"responseLogprobs": True, "logprobs": 20}),
        ({"response_format": {"type": "json_object"}}, {"responseMimeType": "application/json"}),
        ({"modalities": ["text", "image"]}, {"responseModalities": ["TEXT", "IMAGE"]}),
        (
            {"modalities": ["audio"], "audio": {"voice": "Kore", "format": "pcm16"}},
            {
                "responseModalities": ["AUDIO"],
                "speechConfig": {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": "Kore"}}},
            },
        ),
    ],
)
def test_a_parameter_has_its_twin(body: dict[str, Any], config: dict[str, Any]) -> None:
    assert request_of(**body) == ASKED | {"generationConfig": config}


@pytest.mark.parametrize(
    "body",
    [
        {"response_format": {"type": "text"}},
        {"stream": False},
        {"store": False},
        {"parallel_tool_calls": True},
        {"service_tier": "auto"},
        {"logit_bias": {}},
        {"prompt_cache_key": "k"},
        {"logprobs": False},
        {"tools": []},
        {"tools": None, "tool_choice": None, "response_format": None, "stop": None, "temperature": None, "other": None},
    ],
)
def test_what_says_only_what_gemini_does_anyway_is_accepted(body: dict[str, Any]) -> None:
    assert request_of(**body) == ASKED


@pytest.mark.parametrize(
    ("body", "why", "param"),
    [
        ({"logit_bias": {"50256": -100}}, 'has "logit_bias", which Gemini cannot do', "logit_bias"),
        ({"prediction": {"type": "content", "content": "x"}}, 'has "prediction", which Gemini cannot do', "prediction"),
        ({"store": True}, 'has "store", which Gemini cannot do', "store"),
        ({"service_tier": "flex"}, 'has "service_tier", which Gemini cannot do', "service_tier"),
        ({"web_search_options": {}}, 'has "web_search_options", which Gemini cannot do', "web_search_options"),
        ({"parallel_tool_calls": False}, 'has "parallel_tool_calls", which Gemini cannot do', "parallel_tool_calls"),
        ({"top_k": 4}, 'has "top_k", which Gemini cannot do', "top_k"),
        ({"stream": True}, 'has "stream", which a batch cannot do', "stream"),
        ({"functions": [{"name": "f"}]}, 'has "functions", which OpenAI gave up for tools', "functions"),
    ],
)
def test_what_gemini_cannot_do_is_refused_by_name_or_left_out_if_listed(
    body: dict[str, Any], why: str, param: str
) -> None:
    advice = f'list "{param}" in the connection\'s drop_params to leave it out'
    assert refusal_of(**body) == (f"{why}; {advice}", param)
    assert request_of(drop=[param], **body) == ASKED


def test_a_listed_parameter_is_left_out_though_it_could_be_mapped() -> None:
    assert request_of(drop=["seed"], seed=1, top_p=0.1) == ASKED | {"generationConfig": {"topP": 0.1}}


NOT_CHAT = "is no request for a chat completion: "


@pytest.mark.parametrize(
    ("body", "why", "param"),
    [
        ({"temperature": 2.1}, f"{NOT_CHAT}Expected `float` <= 2.0 - at `body.temperature`", "temperature"),
        ({"temperature": "0"}, f"{NOT_CHAT}Expected `float | null`, got `str` - at `body.temperature`", "temperature"),
        ({"seed": 2**31}, f"{NOT_CHAT}Expected `int` <= 2147483647 - at `body.seed`", "seed"),
        ({"n": 0}, f"{NOT_CHAT}Expected `int` >= 1 - at `body.n`", "n"),
        ({"messages": ...}, f"{NOT_CHAT}Object missing required field `messages`", "messages"),
        (
            {"max_tokens": 1, "max_completion_tokens": 2},
            "has max_tokens and max_completion_tokens that differ; Gemini has one limit",
            "max_tokens",
        ),
        ({"stop": list("abcdef")}, "has 6 texts to stop at; Gemini takes at most 5", "stop"),
        ({"top_logprobs": 2}, 'has top_logprobs without "logprobs": true', "top_logprobs"),
        ({"modalities": ["video"]}, 'has the modality "video"; it can be text, image or audio', "modalities"),
        (
            {"audio": {"voice": "alloy"}},
            (
                'has the audio.voice "alloy", and Gemini has its own, such as Kore or Puck; list "audio.voice" in the '
                "connection's drop_params to leave it out"
            ),
            "audio.voice",
        ),
        (
            {"audio": {"format": "mp3"}},
            (
                'has the audio.format "mp3", and Gemini answers in pcm16; list "audio.format" in the connection\'s '
                "drop_params to leave it out"
            ),
            "audio.format",
        ),
        (
            {"reasoning_effort": "extreme"},
            'has the reasoning_effort "extreme"; it can be one of none, minimal, low, medium, high, xhigh, max',
            "reasoning_effort",
        ),
        (
            {"user": "a@b.c"},
            (
                "has user of 5 characters, and Vertex AI keeps it as a label, whose value has at most 63 of a-z, 0-9, "
                '_ and -; change it, or list "user" in the connection\'s drop_params to leave it out'
            ),
            "user",
        ),
        (
            {"metadata": {"user": "a"}, "user": "b"},
            'has a "user", and another one in its metadata: both would be the label "user"',
            "user",
        ),
    ],
)
def test_a_value_that_gemini_has_no_twin_for_is_refused(body: dict[str, Any], why: str, param: str | None) -> None:
    assert refusal_of(**body) == (why, param)


@pytest.mark.parametrize(
    ("model", "effort", "config"),
    [
        ("gemini-2.5-flash", "none", {"thinkingBudget": 0}),
        ("gemini-2.5-pro", "none", {"thinkingBudget": 128}),
        ("gemini-2.5-flash-lite", "minimal", {"thinkingBudget": 1024}),
        ("google/gemini-2.5-flash", "low", {"thinkingBudget": 1024}),
        ("publishers/google/models/gemini-2.5-flash@001", "medium", {"thinkingBudget": 8192}),
        ("gemini-2.5-pro-preview-06-05", "max", {"thinkingBudget": 24576}),
        ("gemini-3-flash-preview", "none", {"thinkingLevel": "MINIMAL"}),
        ("gemini-3.1-pro-preview", "minimal", {"thinkingLevel": "LOW"}),
        ("gemini-3.5-flash", "medium", {"thinkingLevel": "MEDIUM"}),
        ("gemini-4-pro", "xhigh", {"thinkingLevel": "HIGH"}),
    ],
)
def test_effort_is_a_budget_up_to_gemini_2_5_and_a_level_after_it(
    model: str, effort: str, config: dict[str, Any]
) -> None:
    assert request_of(model=model, reasoning_effort=effort)["generationConfig"] == {"thinkingConfig": config}


def test_a_connection_may_have_budgets_of_its_own() -> None:
    def budget(effort: str) -> object:
        request = request_of(budgets={"low": 512}, reasoning_effort=effort)
        return request["generationConfig"]["thinkingConfig"]

    assert [budget("low"), budget("medium")] == [{"thinkingBudget": 512}, {"thinkingBudget": 8192}]


@pytest.mark.parametrize(
    "model", ["gemini-2.0-flash", "projects/p/locations/l/models/123", "gemini-flash-latest", None]
)
def test_effort_is_refused_if_the_model_does_not_tell_how_it_thinks(model: str | None) -> None:
    why, param = refusal_of(model=model, reasoning_effort="low")
    named = f'the model "{model}"' if model else "the model, which neither it nor the connection names,"
    assert (why.partition(" takes")[0], param) == (
        f'has a "reasoning_effort", and whether {named}',
        "reasoning_effort",
    )
    assert request_of(drop=["reasoning_effort"], model=model, reasoning_effort="low") == ASKED


@pytest.mark.parametrize(
    ("named", "config"),
    [
        (None, {"thinkingLevel": "LOW"}),
        ("", {"thinkingLevel": "LOW"}),
        ("gemini-2.5-flash", {"thinkingBudget": 1024}),
    ],
)
def test_effort_is_that_of_the_connections_default_model_where_a_line_names_none(
    named: str | None, config: dict[str, Any]
) -> None:
    request = request_of(default_model="gemini-3-pro-preview", model=named, reasoning_effort="low")
    assert request["generationConfig"] == {"thinkingConfig": config}


def google(**fields: Any) -> dict[str, Any]:
    return {"extra_body": {"google": fields}}


def test_what_openai_has_no_parameter_for_is_taken_as_googles_own_endpoint_takes_it() -> None:
    safety = [
        {"category": "HARM_CATEGORY_HARASSMENT", "threshold": "OFF"},
        {"category": "HARM_CATEGORY_HATE_SPEECH", "threshold": "BLOCK_NONE", "method": "SEVERITY"},
    ]
    assert request_of(**google(safety_settings=safety)) == ASKED | {"safetySettings": safety}
    assert request_of(**google(safety_settings=[], thinking_config={})) == ASKED
    assert request_of(extra_body=None) == request_of(extra_body={"google": None}) == ASKED


@pytest.mark.parametrize(
    ("config", "more", "mapped"),
    [
        ({"include_thoughts": True}, {}, {"includeThoughts": True}),
        ({"include_thoughts": True}, {"reasoning_effort": "low"}, {"includeThoughts": True, "thinkingBudget": 1024}),
        ({"thinking_budget": -1}, {}, {"thinkingBudget": -1}),
        ({"thinking_level": "low"}, {}, {"thinkingLevel": "LOW"}),
    ],
)
def test_thinking_may_be_asked_for_in_googles_words(
    config: dict[str, Any], more: dict[str, Any], mapped: dict[str, Any]
) -> None:
    request = request_of(**google(thinking_config=config), **more)
    assert request["generationConfig"] == {"thinkingConfig": mapped}


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (
            google(thinking_config={"thinking_budget": 5}) | {"reasoning_effort": "low"},
            "has a reasoning_effort beside the budget or level in its thinking_config",
        ),
        (
            google(thinking_config={"thinking_budget": 5, "thinking_level": "low"}),
            "has a thinking_config with a budget and a level, and Gemini takes one of them",
        ),
        (
            google(thinking_config={"thinking_level": "ultra"}),
            'has the thinking_level "ultra"; it can be minimal, low, medium or high',
        ),
    ],
)
def test_thinking_is_not_asked_for_twice(body: dict[str, Any], why: str) -> None:
    assert refusal_of(**body) == (why, "extra_body")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (google(cached_content="x"), "extra_body"),
        (google(safety_settings=[{"category": "x", "threshold": "OFF"}]), "extra_body"),
        (google(safety_settings=[{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "ON"}]), "extra_body"),
    ],
)
def test_what_googles_endpoint_takes_but_a_batch_does_not_is_refused(body: dict[str, Any], param: str) -> None:
    assert refusal_of(**body)[1] == param


def test_metadata_and_user_become_labels_as_they_are() -> None:
    request = request_of(metadata={"team": "a-1", "empty": ""}, user="u_1")
    assert request["labels"] == {"llmbatch_id": "row-1", "team": "a-1", "empty": "", "user": "u_1"}


def test_more_than_64_labels_are_refused() -> None:
    pairs = {f"k{i}": "v" for i in range(64)}
    assert refusal_of(metadata=pairs) == (
        "needs 65 labels for its custom_id and metadata; 64 are possible",
        "metadata",
    )
