"""Lines of a file: one model, two formats, and all others told apart."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from support.chat_lines import MODEL, QUESTION, chat_line, refusal_of

from airflow_provider_llmbatch.adapters.vertex.requests import LineRefused, MappingSettings, RequestMapping

if TYPE_CHECKING:
    from collections.abc import Mapping


def mapping(**settings: Any) -> RequestMapping:
    return RequestMapping(MappingSettings(**settings))


def refused(line: bytes | Mapping[str, object], mapper: RequestMapping | None = None) -> tuple[str, str | None]:
    with pytest.raises(LineRefused) as caught:
        (mapper or mapping()).line(line if isinstance(line, bytes) else json.dumps(line).encode())
    return str(caught.value), caught.value.param


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
    mapper = mapping(default_model="gemini-2.5-pro")
    mapper.line(chat_line("a", model=...))
    assert mapper.model == "gemini-2.5-pro"


@pytest.mark.parametrize("model", ["claude-sonnet-4-5", "publishers/anthropic/models/claude-x", "gemini-embedding-001"])
def test_a_default_model_is_judged_as_one_in_a_line_is_and_only_where_it_counts(model: str) -> None:
    for line in (chat_line("a", model=...), native(labels={"llmbatch_id": "a"})):
        assert refused(line, mapping(default_model=model)) == (
            (
                f"names no model, and the connection's default one is \"{model}\", which is none of Gemini's for chat; "
                "others on Vertex AI come later"
            ),
            "model",
        )
    mapper = mapping(default_model=model)
    mapper.line(chat_line("a"))
    assert mapper.model == MODEL


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
