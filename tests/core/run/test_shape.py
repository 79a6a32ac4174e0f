from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import BaseModel, Field, RootModel, field_validator

from airflow_provider_llmbatch.core.run.schema_types import decoder_of
from airflow_provider_llmbatch.core.run.shape import JSONSchemaShape, MisfitError, shape_of
from airflow_provider_llmbatch.errors import BatchInputError

if TYPE_CHECKING:
    from pydantic import JsonValue

REVIEW: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Review",
    "type": "object",
    "properties": {
        "label": {"enum": ["good", "bad"], "description": "What the reviewer thinks."},
        "score": {"type": "integer", "minimum": 0, "maximum": 10},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
        "quotes": {"type": "array", "items": {"$ref": "#/$defs/Quote"}},
    },
    "required": ["label"],
    "additionalProperties": False,
    "$defs": {"Quote": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}},
}


class Review(BaseModel):
    label: Literal["good", "bad"]
    score: int = Field(default=5, alias="points")
    quotes: list[str] = []

    @field_validator("quotes")
    @classmethod
    def _not_too_many(cls, quotes: list[str]) -> list[str]:
        if len(quotes) > 2:
            raise ValueError("too many quotes")
        return [quote if quote != "boom" else quotes[9] for quote in quotes]


def misfit(response_format: Any, text: str) -> tuple[str, str]:
    with pytest.raises(MisfitError) as raised:
        shape_of(response_format).fit(text)
    return raised.value.code, str(raised.value)


# JSON schemas.


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ('{"label":"good"}', b'{"label":"good"}'),
        (' {"label": "bad", "score": 10.0}\n', b'{"label": "bad", "score": 10.0}'),
        (
            '{\n  "label": "good",\n  "note": null,\n  "quotes": [{"text": "caf\u00e9\\n", "at": 7}]\n}',
            '{"label":"good","note":null,"quotes":[{"text":"caf\u00e9\\n","at":7}]}'.encode(),
        ),
    ],
)
def test_what_fits_a_schema_stays_as_it_came_on_one_line(text: str, parsed: bytes) -> None:
    assert shape_of(REVIEW).fit(text) == parsed


@pytest.mark.parametrize("response_format", [REVIEW, Review])
@pytest.mark.parametrize("fence", ["```json\n{}\n```", "\n```\r\n{}```\n", "```JSON \n{}\n\n``` "])
def test_json_in_a_fence_of_markdown_counts_as_if_it_stood_alone(response_format: Any, fence: str) -> None:
    text = '{"label":"good"}'
    assert shape_of(response_format).fit(fence.replace("{}", text)) == shape_of(response_format).fit(text)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Here it is:\n```json\n{}\n```", "not_json"),
        ("```json\n{}\n```\nAnything else?", "not_json"),
        ("```json\n{}", "not_json"),
        ("```json {}```", "not_json"),
        ('```json\n{"label":"fine"}\n```', "schema_mismatch"),
    ],
)
def test_what_stands_beside_a_fence_or_does_not_fit_within_is_refused(text: str, code: str) -> None:
    assert misfit(REVIEW, text.replace("{}", '{"label":"good"}'))[0] == code


@pytest.mark.parametrize(
    ("text", "code", "reason"),
    [
        ("", "not_json", "The text is not JSON: Input data was truncated"),
        ("Good!", "not_json", "The text is not JSON: JSON is malformed: invalid character (byte 0)"),
        (
            '{"label":"good"} indeed',
            "not_json",
            "The text is not JSON: JSON is malformed: trailing characters (byte 18)",
        ),
        ('{"label":NaN}', "not_json", "The text is not JSON: JSON is malformed: invalid character (byte 9)"),
        ("[" * 100_000, "not_json", "The text is nested too deeply to be read."),
        ("7", "schema_mismatch", "$: 7 is not of type 'object'"),
        ("{}", "schema_mismatch", "$: 'label' is a required property"),
        ('{"label":"so so"}', "schema_mismatch", "$.label: 'so so' is not one of ['good', 'bad']"),
        ('{"label":"bad","score":11}', "schema_mismatch", "$.score: 11 is greater than the maximum of 10"),
        ('{"label":"bad","score":true}', "schema_mismatch", "$.score: True is not of type 'integer'"),
        ('{"label":"bad","quotes":[{"text":"a"},{}]}', "schema_mismatch", "$.quotes[1]: 'text' is a required property"),
    ],
)
def test_what_does_not_fit_a_schema_says_where_and_why(text: str, code: str, reason: str) -> None:
    assert misfit(REVIEW, text) == (code, reason)


def test_a_long_reason_is_cut() -> None:
    _, reason = misfit(REVIEW, json.dumps({"label": "x" * 10_000}))
    assert (len(reason), reason[:12], reason[-1]) == (500, "$.label: 'xx", "\u2026")


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"type": "objekt"}, "$.type: 'objekt' is not valid under any of the given schemas"),
        ({"properties": []}, "$.properties: [] is not of type 'object'"),
        ({"$ref": "#/$defs/Nobody"}, "$ref '#/$defs/Nobody' leads nowhere within the schema"),
        ({"items": {"$ref": "http://localhost:1/x"}}, "$ref 'http://localhost:1/x' leads nowhere within the schema"),
    ],
)
def test_a_schema_that_is_none_is_refused_before_anything_is_sent(
    schema: dict[str, Any], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "socket", None)  # jsonschema would fetch what it does not know
    with pytest.raises(BatchInputError) as refused:
        shape_of(schema)
    assert str(refused.value) == (
        f"response_format is no JSON schema that answers can be checked against ({problem}). Nothing was uploaded or "
        "billed. A retry would find the same: mend the schema."
    )


TREE = {"type": "object", "properties": {"child": {"$ref": "#"}}, "additionalProperties": False}


@pytest.mark.parametrize(
    "schema",
    [
        TREE,
        {"type": "string", "pattern": "^a"},
        {"allOf": [{"type": "string"}]},
        {"type": "object", "properties": {"a": {}}, "minProperties": 1},
        {"type": "object", "required": ["a"]},
        {"type": "object", "additionalProperties": {"type": "string"}},
        {"enum": [1, 2]},
        {"enum": ["a"], "const": "a"},
        {"enum": ["a"], "minLength": 3},
        {"type": "integer", "enum": ["a"]},
        {"type": ["string", "integer"]},
        {"type": "number", "maximum": 2**53},
        {"$ref": "#/$defs/A", "minLength": 3, "$defs": {"A": {"type": "string"}}},
        {"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}},
        {"anyOf": [{"type": "object", "properties": {"a": {}}}, {"type": "object", "properties": {"b": {}}}]},
        False,
        {"not": {}},
    ],
)
def test_what_is_not_fully_understood_is_left_to_jsonschema(schema: Any) -> None:
    assert (
        decoder_of({"type": "array", "items": schema, **({} if schema is False else {"$defs": schema.get("$defs")})})
        is None
    )


def test_a_schema_that_refers_to_itself_is_checked_all_the_way_down() -> None:
    assert shape_of(TREE).fit('{"child":{"child":{}}}') == b'{"child":{"child":{}}}'
    assert misfit(TREE, '{"child":{"child":{"x":1}}}')[1].startswith("$.child.child: Additional properties")


def test_the_common_schemas_take_the_fast_way() -> None:
    for schema in (REVIEW, Review.model_json_schema()):
        decoder = decoder_of(schema)
        assert decoder is not None
        decoder.decode('{"label":"good"}')


# Property: whatever the fast way accepts, jsonschema accepts too; and nothing else is decided by it.

NAMES = st.sampled_from(["a", "b", "a b", "\u00e9", ""])
NUMBERS = st.integers(-3, 3) | st.sampled_from([0.5, -0.0, 2.0, 2**53 - 1])
WORDS = st.sampled_from(["", "x", "xy", "\u00e9\U0001f642", "2"])
LEAVES = st.one_of(
    st.builds(
        lambda low, high: {"type": "string", "minLength": low, "maxLength": high}, st.integers(0, 2), st.integers(0, 3)
    ),
    st.builds(lambda words: {"type": "string", "enum": words}, st.lists(WORDS, min_size=1, max_size=3, unique=True)),
    st.builds(
        lambda words: {"type": ["string", "null"], "enum": [*words, None]}, st.lists(WORDS, max_size=2, unique=True)
    ),
    st.builds(lambda word: {"const": word}, WORDS),
    st.builds(lambda kind, low: {"type": kind, "minimum": low}, st.sampled_from(["integer", "number"]), NUMBERS),
    st.builds(lambda kind, high: {"type": kind, "maximum": high}, st.sampled_from(["integer", "number"]), NUMBERS),
    st.builds(
        lambda kind: {"type": kind}, st.sampled_from(["boolean", "null", "integer", "number", "object", "array"])
    ),
    st.builds(lambda kind: {"type": [kind, "null"]}, st.sampled_from(["boolean", "integer", "object", "array"])),
    st.sampled_from([{}, True, {"description": "anything"}]),
)


def _object(properties: dict[str, Any], required: list[str], more: bool | None) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": [name for name in required if name in properties]}
    return schema if more is None else {**schema, "additionalProperties": more}


SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(
            _object,
            st.dictionaries(NAMES, inner, max_size=3),
            st.lists(NAMES, max_size=2, unique=True),
            st.sampled_from([None, True, False]),
        ),
        st.builds(lambda items, low: {"type": "array", "items": items, "minItems": low}, inner, st.integers(0, 2)),
        st.builds(lambda one: {"anyOf": [one, {"type": "null"}]}, inner),
    ),
    max_leaves=5,
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)


def _like(schema: Any) -> st.SearchStrategy[Any]:
    """Values that are near to fitting, which values out of nowhere seldom are."""
    if not isinstance(schema, dict):
        return VALUES
    if "anyOf" in schema:
        return st.none() | _like(schema["anyOf"][0])
    if schema.get("properties"):
        fields = {name: _like(child) for name, child in schema["properties"].items()}
        needed = {name: fields.pop(name) for name in schema["required"]}
        return st.fixed_dictionaries(needed, optional=fields)
    if "items" in schema:
        return st.lists(_like(schema["items"]), max_size=3)
    return st.sampled_from(schema["enum"]) | VALUES if "enum" in schema else VALUES


@settings(max_examples=200)
@given(st.data())
def test_nothing_passes_the_fast_way_that_jsonschema_refuses(data: st.DataObject) -> None:
    schema = data.draw(SCHEMAS)
    value = data.draw(_like(schema) | VALUES)
    decoder = decoder_of({"$defs": {"Inner": schema}, "$ref": "#/$defs/Inner"})
    text = json.dumps(value, ensure_ascii=data.draw(st.booleans()))
    if decoder is None:
        return
    try:
        decoder.decode(text)
    except msgspec.MsgspecError:
        return
    assert Draft202012Validator(schema).is_valid(value)


@given(SCHEMAS.filter(lambda schema: isinstance(schema, dict)), VALUES)
def test_the_verdict_is_that_of_jsonschema(schema: dict[str, Any], value: JsonValue) -> None:
    try:
        JSONSchemaShape(schema).fit(json.dumps(value))
        fits = True
    except MisfitError:
        fits = False
    assert fits == Draft202012Validator(schema).is_valid(value)


# Pydantic.


def test_a_models_defaults_and_conversions_are_in_what_is_parsed() -> None:
    assert shape_of(Review).fit('{"label": "good",\n "points": "7"}') == b'{"label":"good","points":7,"quotes":[]}'


@pytest.mark.parametrize(
    ("text", "code", "reason"),
    [
        ("Good!", "not_json", "$: Invalid JSON: expected value at line 1 column 1"),
        ('{"label":"so so"}', "schema_mismatch", "$.label: Input should be 'good' or 'bad'"),
        (
            '{"points":"x","quotes":["a","b","c"]}',
            "schema_mismatch",
            (
                "$.label: Field required; $.points: Input should be a valid integer, unable to parse string as an "
                "integer; $.quotes: Value error, too many quotes"
            ),
        ),
        ('{"label":"bad","quotes":["boom"]}', "validator_failed", "IndexError: list index out of range"),
    ],
)
def test_what_does_not_fit_a_model_says_where_and_why(text: str, code: str, reason: str) -> None:
    assert misfit(Review, text) == (code, reason)


def test_many_reasons_are_counted() -> None:
    assert misfit(RootModel[list[int]], '["a","b","c","d","e"]')[1].endswith("; and 2 more")
