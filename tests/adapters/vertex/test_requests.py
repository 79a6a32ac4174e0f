"""A line of OpenAI's as one of Gemini's: each parameter, and each refusal."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from support.chat_lines import MODEL, QUESTION, chat_line, refusal_of, request_of

from airflow_provider_llmbatch.adapters.vertex.requests import LineRefused, MappingSettings, RequestMapping

if TYPE_CHECKING:
    from collections.abc import Mapping

ASKED = {"contents": [{"role": "user", "parts": [{"text": "Who?"}]}], "labels": {"llmbatch_id": "row-1"}}


def mapping(**settings: Any) -> RequestMapping:
    return RequestMapping(MappingSettings(**settings))


def refused(line: bytes | Mapping[str, object], mapper: RequestMapping | None = None) -> tuple[str, str | None]:
    with pytest.raises(LineRefused) as caught:
        (mapper or mapping()).line(line if isinstance(line, bytes) else json.dumps(line).encode())
    return str(caught.value), caught.value.param


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
    named = f'the model "{model}"' if model else "the connection's default model"
    assert (why.partition(" takes")[0], param) == (
        f'has a "reasoning_effort", and whether {named}',
        "reasoning_effort",
    )
    assert request_of(drop=["reasoning_effort"], model=model, reasoning_effort="low") == ASKED


def test_metadata_and_user_become_labels_as_they_are() -> None:
    request = request_of(metadata={"team": "a-1", "empty": ""}, user="u_1")
    assert request["labels"] == {"llmbatch_id": "row-1", "team": "a-1", "empty": "", "user": "u_1"}


def test_more_than_64_labels_are_refused() -> None:
    pairs = {f"k{i}": "v" for i in range(64)}
    assert refusal_of(metadata=pairs) == (
        "needs 65 labels for its custom_id and metadata; 64 are possible",
        "metadata",
    )


def test_all_lines_ask_for_one_model_which_is_told() -> None:
    mapper = mapping()
    assert mapper.model is None
    mapper.line(chat_line("a"))
    assert mapper.model == MODEL
    assert refused(chat_line("b", model="gemini-2.5-pro"), mapper) == (
        'asks for the model "gemini-2.5-pro", but the lines before it for "gemini-2.5-flash"; a batch has one',
        "model",
    )
    assert refused(chat_line("b", model=...), mapper)[1] == "model"


def test_lines_without_a_model_leave_it_to_the_connection() -> None:
    mapper = mapping()
    mapper.line(chat_line("a", model=...))
    mapper.line(chat_line("b", model=None))
    assert mapper.model is None


@pytest.mark.parametrize(
    "model",
    [
        *("gpt-4o-mini", "o3-mini", "claude-sonnet-4-5", "anthropic/claude-x", "publishers/anthropic/models/claude-x"),
        *("meta/llama-4", "publishers/openai/models/gpt-oss-120b-maas", "qwen3-235b", "text-embedding-005"),
        *("gemini-embedding-001", "publishers/google/models/gemini-embedding-001"),
    ],
)
def test_models_of_others_and_of_embeddings_come_later(model: str) -> None:
    assert refusal_of(model=model) == (
        f'asks for the model "{model}", which is none of Gemini\'s for chat; others on Vertex AI come later',
        "model",
    )


@pytest.mark.parametrize("model", ["smollm2-135m-instruct", "projects/p/locations/l/models/7", "gemini-9-ultra"])
def test_a_name_that_nobody_knows_is_left_to_vertex_ai(model: str) -> None:
    mapper = mapping()
    mapper.line(chat_line(model=model))
    assert mapper.model == model


def native(**request: Any) -> bytes:
    return json.dumps({"request": {"contents": [QUESTION], **request}}).encode()


def test_a_line_in_vertex_own_format_stays_as_it_is() -> None:
    mapper = mapping()
    line = b' {"key": 1, "request":{ "contents":[], "labels" : {"llmbatch_id":"a_1","team":"x"}}, "x": "\xc3\xa9"}\r'
    assert mapper.line(line) is line
    coded = native(labels={"llmbatch_id_0": "ie"})
    assert mapper.line(coded) is coded
    assert mapper.model is None


@pytest.mark.parametrize(
    "labels", [{}, {"llmbatch_id": "Not-Legal"}, {"llmbatch_id": "x" * 64}, {"llmbatch_id_1": "ie"}, {"team": "a"}]
)
def test_a_line_in_vertex_own_format_must_say_whose_answer_it_will_be(labels: dict[str, str]) -> None:
    for line in (native(labels=labels), native(), native(labels=None)):
        assert refused(line) == (
            (
                "is in Vertex AI's own format and does not say whose answer it will be; add "
                '"labels": {"llmbatch_id": "…"} to its request, an id of its own of at most 63 characters of a-z, 0-9, '
                "_ and -"
            ),
            "llmbatch_id",
        )


def test_an_id_in_vertex_own_format_is_used_once() -> None:
    mapper = mapping()
    mapper.line(native(labels={"llmbatch_id": "a"}))
    assert refused(native(labels={"llmbatch_id": "a"}), mapper) == (
        'has the label llmbatch_id "a", which a line before it has too',
        "llmbatch_id",
    )


CLAUDE = "is a request to Claude in Vertex AI's own format, which comes later"
EMBEDDINGS = "is a request for embeddings in Vertex AI's own format, which comes later"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ({"custom_id": "a", "request": {"anthropic_version": "vertex-2023-10-16", "messages": []}}, CLAUDE),
        ({"custom_id": "a", "request": {"messages": [], "max_tokens": 5}}, CLAUDE),
        ({"key": "a", "request": {"content": {"parts": [{"text": "x"}]}}}, EMBEDDINGS),
        ({"content": "x"}, EMBEDDINGS),
        ({"instance": {"content": "x"}}, EMBEDDINGS),
        ({}, "is neither OpenAI's format (custom_id, method, url, body) nor Vertex AI's ({\"request\": …})"),
        ({"request": []}, "is no batch request: Expected `object`, got `array`"),
        ({"custom_id": 7}, "is no batch request: Expected `str | null`, got `int` - at `$.custom_id`"),
        (b'{"custom_id"', "is not JSON: Input data was truncated"),
        (
            b'{"request":{"labels":{"llmbatch_id":"a"},"x":"\xff"}}',
            "is not JSON: 'utf-8' codec can't decode byte 0xff in position 46: invalid start byte",
        ),
        (b"", "is not JSON: Input data was truncated"),
        (b'{"body":' + b"[" * 5000 + b"]" * 5000 + b"}", "is nested too deeply to be read"),
    ],
)
def test_every_other_format_is_told_apart(line: bytes | dict[str, object], why: str) -> None:
    assert refused(line) == (why, None)


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("method", "GET", 'has the method "GET"; the only one is "POST"'),
        ("method", None, 'has the method "None"; the only one is "POST"'),
        (
            "url",
            "/v1/embeddings",
            'has the url "/v1/embeddings"; on Vertex AI only /v1/chat/completions is there, and others come later',
        ),
        ("custom_id", None, "has no custom_id"),
        ("custom_id", "", "has an empty custom_id"),
    ],
)
def test_the_fields_of_a_line_are_checked(field: str, value: object, why: str) -> None:
    assert refused(json.loads(chat_line()) | {field: value}) == (why, field)
