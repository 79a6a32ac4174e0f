"""Tools, the choice among them, and the schema of an answer."""

from __future__ import annotations

from typing import Any

import pytest
from support.chat_lines import chat_line, refusal_of, request_of

from airflow_provider_llmbatch.adapters.vertex.requests import MappingSettings, RequestMapping

SCHEMA = {"type": "object", "properties": {"city": {"type": "string", "pattern": "^U"}}}


def tool(name: str = "weather", **function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **function}}


def schema_of(schema: Any, *, drop: tuple[str, ...] = (), **more: Any) -> Any:
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, **more}}
    config = request_of(response_format=wanted, drop=drop)["generationConfig"]
    assert config.keys() == {"responseMimeType", "responseJsonSchema"}
    assert config["responseMimeType"] == "application/json"
    return config["responseJsonSchema"]


def schema_refused(schema: Any) -> tuple[str, str | None]:
    return refusal_of(response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}})


def choice_of(choice: Any, *tools: dict[str, Any]) -> Any:
    return request_of(tools=list(tools or (tool(), tool("time"))), tool_choice=choice).get("toolConfig")


def test_functions_are_declared_together_with_their_schemas_as_they_are() -> None:
    request = request_of(
        tools=[tool(description="Tells it.", parameters=SCHEMA, strict=False), tool("time", parameters={})]
    )
    assert request["tools"] == [
        {
            "functionDeclarations": [
                {"name": "weather", "description": "Tells it.", "parametersJsonSchema": SCHEMA},
                {"name": "time"},
            ]
        }
    ]
    assert "toolConfig" not in request


@pytest.mark.parametrize(
    ("choice", "config"),
    [
        ("auto", {"mode": "AUTO"}),
        ("none", {"mode": "NONE"}),
        ("required", {"mode": "ANY"}),
        ({"type": "function", "function": {"name": "time"}}, {"mode": "ANY", "allowedFunctionNames": ["time"]}),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [tool("time")]}},
            {"mode": "VALIDATED", "allowedFunctionNames": ["time"]},
        ),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [tool("time")]}},
            {"mode": "ANY", "allowedFunctionNames": ["time"]},
        ),
    ],
)
def test_a_choice_has_its_mode(choice: Any, config: dict[str, Any]) -> None:
    assert choice_of(choice) == {"functionCallingConfig": config}


@pytest.mark.parametrize("choice", [None, "auto"])
def test_a_strict_function_is_called_as_its_schema_says_or_not_at_all(choice: str | None) -> None:
    strict = tool(strict=True, parameters={"type": "object"})
    assert choice_of(choice, strict, tool("time")) == {"functionCallingConfig": {"mode": "VALIDATED"}}


def test_a_strict_function_may_use_only_what_gemini_can_hold_a_call_to() -> None:
    strict = tool(strict=True, parameters=SCHEMA)
    told, param = refusal_of(tools=[strict])
    assert (told, param) == (
        (
            'has in its tools a schema with "pattern" at properties.city, to which Gemini holds no answer; list '
            '"tools.pattern" in the connection\'s drop_params to leave it out'
        ),
        "tools.pattern",
    )
    declared = request_of(tools=[strict], drop=["tools.pattern"])["tools"][0]["functionDeclarations"]
    assert declared[0]["parametersJsonSchema"] == {"type": "object", "properties": {"city": {"type": "string"}}}


@pytest.mark.parametrize(
    ("body", "why", "param"),
    [
        (
            {"tools": [{"type": "custom", "custom": {"name": "x"}}]},
            "has tools that OpenAI would not take either: ",
            "tools",
        ),
        (
            {"tools": [{"type": "web_search"}]},
            'has a tool of the type "web_search"; only functions can be tools',
            "tools",
        ),
        ({"tools": [tool(returns={})]}, "has tools that OpenAI would not take either: ", "tools"),
        ({"tool_choice": "required"}, 'has the tool_choice "required", but no tools', "tool_choice"),
        (
            {"tool_choice": "any"},
            'has the tool_choice "any"; it can be auto, none, required or a function',
            "tool_choice",
        ),
        (
            {"tools": [tool()], "tool_choice": {"type": "function", "function": {"name": "x"}}},
            'has the tool_choice "x", which none of its tools is',
            "tool_choice",
        ),
        (
            {"tools": [tool()], "tool_choice": {"type": "function"}},
            'has a tool_choice of the type "function"; only functions can be tools',
            "tool_choice",
        ),
        (
            {"tools": [tool()], "tool_choice": {"type": "allowed_tools"}},
            'has a tool_choice of the type "allowed_tools"; only functions can be tools',
            "tool_choice",
        ),
        ({"tool_choice": 7}, "has tool_choice that OpenAI would not take either: ", "tool_choice"),
    ],
)
def test_tools_that_gemini_does_not_have_are_refused(body: dict[str, Any], why: str, param: str) -> None:
    told, at = refusal_of(**body)
    assert (told[: len(why)], at) == (why, param)


def test_a_schema_of_supported_keywords_stays_as_it_is() -> None:
    schema = {
        "$id": "x",
        "$defs": {"point": {"type": "array", "prefixItems": [{"type": "number"}], "minItems": 1, "maxItems": 2}},
        "type": "object",
        "title": "T",
        "description": "D",
        "properties": {
            "pattern": {"type": ["string", "null"], "format": "date", "enum": ["a", 1, 1.5]},
            "at": {"$ref": "#/$defs/point"},
            "many": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}},
            "either": {"anyOf": [{"type": "string"}, {"oneOf": [{"type": "null"}]}]},
        },
        "required": ["at"],
        "additionalProperties": False,
        "propertyOrdering": ["at", "many"],
    }
    assert schema_of(schema, description="not taken, since the schema has one") == schema


@pytest.mark.parametrize(
    ("given", "mapped"),
    [
        ({"$schema": "x", "default": 1, "examples": [1], "type": "integer"}, {"type": "integer"}),
        ({"const": "a"}, {"enum": ["a"]}),
        (
            {"type": ["string", "null"], "enum": ["a", None]},
            {"anyOf": [{"type": ["string"], "enum": ["a"]}, {"type": "null"}]},
        ),
        ({"enum": [1, None], "title": "T"}, {"anyOf": [{"enum": [1], "title": "T"}, {"type": "null"}]}),
        ({"type": "string", "enum": ["a", None]}, {"type": "string", "enum": ["a"]}),
        ({"properties": {"x": True}}, {"properties": {"x": {}}}),
        ({"$ref": "#/$defs/x", "$defs": {"x": {}}}, {"$ref": "#/$defs/x", "$defs": {"x": {}}}),
        (
            {"properties": {"x": {"$ref": "#/$defs/x", "description": "d"}}},
            {"properties": {"x": {"anyOf": [{"$ref": "#/$defs/x"}], "description": "d"}}},
        ),
    ],
)
def test_what_constrains_nothing_is_left_out_and_the_rest_means_the_same(given: Any, mapped: Any) -> None:
    assert schema_of(given) == mapped


def test_the_description_of_a_format_becomes_that_of_its_schema() -> None:
    assert schema_of({"type": "object"}, description="A verdict.", strict=True) == {
        "type": "object",
        "description": "A verdict.",
    }


@pytest.mark.parametrize(
    "keyword",
    [
        *("pattern", "minLength", "maxLength", "multipleOf", "exclusiveMinimum", "uniqueItems", "allOf", "not", "if"),
        *("patternProperties", "definitions", "nullable"),
    ],
)
def test_a_keyword_that_gemini_does_not_know_is_refused_or_given_up(keyword: str) -> None:
    schema = {"type": "array", "items": {"type": "string", keyword: 1}}
    assert schema_refused(schema) == (
        (
            f'has in its response_format a schema with "{keyword}" at items, to which Gemini holds no answer; list '
            f'"response_format.{keyword}" in the connection\'s drop_params to leave it out'
        ),
        f"response_format.{keyword}",
    )
    assert schema_of(schema, drop=(f"response_format.{keyword}",)) == {"type": "array", "items": {"type": "string"}}


@pytest.mark.parametrize(
    ("schema", "param"),
    [
        ({"const": True}, "response_format.const"),
        ({"enum": [None]}, "response_format.enum"),
        ({"enum": ["a", {}]}, "response_format.enum"),
        ({"enum": "a"}, "response_format.enum"),
        ({"items": 3}, "response_format"),
        ({"anyOf": {}}, "response_format"),
        ({"properties": []}, "response_format"),
        ({"$ref": "#", "anyOf": []}, "response_format"),
    ],
)
def test_a_schema_that_gemini_cannot_read_is_refused(schema: Any, param: str) -> None:
    assert schema_refused(schema)[1] == param


@pytest.mark.parametrize(
    "wanted", [{"type": "json_schema"}, {"type": "json_schema", "json_schema": {"name": "x"}}, {"type": "grammar"}]
)
def test_a_format_that_gemini_does_not_have_is_refused_or_given_up(wanted: dict[str, Any]) -> None:
    told, param = refusal_of(response_format=wanted)
    assert (told.partition(" that Gemini")[0], param) == (
        f'has a response_format of the type "{wanted["type"]}"',
        "response_format",
    )
    assert "generationConfig" not in request_of(response_format=wanted, drop=["response_format"])


def test_what_is_remembered_of_other_lines_never_leaks_into_one() -> None:
    """More different tools than are kept, twice, each line with its own."""
    mapper = RequestMapping(MappingSettings())
    for _ in range(2):
        for number in range(100):
            mapped = mapper.line(chat_line(tools=[tool(f"f{number}")], response_format={"type": "text"}))
            assert f'[{{"functionDeclarations":[{{"name":"f{number}"}}]}}]'.encode() in mapped
