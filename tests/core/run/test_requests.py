"""Requests out of records: placeholders filled once, ready lines as they are, errors with the record's place."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_llmbatch.core.run.requests import RequestTemplate, Row
from airflow_provider_llmbatch.core.run.sources import Origin, Record, given_records
from airflow_provider_llmbatch.errors import BatchInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

CHAT = "/v1/chat/completions"
ORIGIN = Origin("in.jsonl", "Line")
SAME_AGAIN = "Nothing was uploaded or billed. A retry would find the same: mend the input."


def row(template: RequestTemplate, record: object) -> Row:
    """:param record: A mapping, or a line as it stands in a file."""
    if isinstance(record, str):
        [made] = template.rows([Record(record.encode(), ORIGIN, 7)])
    else:
        [made] = template.rows(given_records([record], name="ask"))
    return made


def body(template: RequestTemplate, record: object) -> Any:
    return json.loads(row(template, record).body)


def refusal(template: RequestTemplate, record: object) -> str:
    with pytest.raises(BatchInputError) as refused:
        row(template, record)
    return str(refused.value)


def asked(prompt: str, record: object) -> str:
    text: str = body(RequestTemplate(prompt), record)["messages"][0]["content"]
    return text


def test_a_prompt_and_a_record_make_a_chat_request() -> None:
    template = RequestTemplate(
        "Classify: {text}",
        system="You know {language}.",
        model="gpt-5-mini",
        parameters={"temperature": 0, "metadata": {"team": "search"}},
        key="id",
    )
    line = '{"id": 17, "text": "Battery \\"died\\"\\u00e4.", "language": "English"}'
    assert row(template, line) == Row(
        url=CHAT,
        model="gpt-5-mini",
        body=(
            b'{"model":"gpt-5-mini","messages":[{"role":"system","content":"You know English."},'
            b'{"role":"user","content":"Classify: Battery \\"died\\"\\u00e4."}],"temperature":0,'
            b'"metadata":{"team":"search"}}'
        ),
        source=line.encode(),
        origin=ORIGIN,
        number=7,
        key=b"17",
        columns=line.encode(),
        is_text=True,
    )


@pytest.mark.parametrize(
    ("endpoint", "system", "expected"),
    [
        ("/v1/responses", "Be brief.", {"instructions": "Be brief.", "input": "Say hi"}),
        ("/v1/responses", None, {"input": "Say hi"}),
        ("/responses", None, {"input": "Say hi"}),
        ("/v1/completions", None, {"prompt": "Say hi"}),
        ("/v1/embeddings", None, {"input": "Say hi"}),
        ("/v1/moderations", None, {"input": "Say hi"}),
        ("/v1/images/generations", None, {"prompt": "Say hi"}),
        ("/chat/completions", None, {"messages": [{"role": "user", "content": "Say hi"}]}),
    ],
)
def test_the_prompt_stands_where_the_endpoint_wants_it(
    endpoint: str, system: str | None, expected: dict[str, object]
) -> None:
    template = RequestTemplate("Say {a}", system=system, model="m", endpoint=endpoint)
    assert body(template, {"a": "hi"}) == {"model": "m", **expected}
    assert row(template, {"a": "hi"}).url == endpoint


@pytest.mark.parametrize(
    ("prompt", "record", "text"),
    [
        ("{a}", {"a": "b"}, "b"),
        ("{a} {b} {a}", {"a": "{b}", "b": "{{a}}"}, "{b} {{a}} {b}"),
        ('Answer as {{"label": "{a}"}}', {"a": "x"}, 'Answer as {"label": "x"}'),
        ("{{{a}}}", {"a": "x"}, "{x}"),
        ('"{ review text }"\n', {"review text": "x"}, '"x"\n'),
        ("{a}", {"a": 12.5}, "12.5"),
        ("{a}", {"a": True}, "true"),
        ("{a}", {"a": ["x", {"y": 'say "hi"'}]}, '["x",{"y":"say \\"hi\\""}]'),
        ("{a}", '{"a": 12345678901234567890123}', "12345678901234567890123"),
        ("{a}", '{"a": 1.50}', "1.50"),
        ("{a}", '{"a": ""}', ""),
        ("nothing", {}, "nothing"),
        ("Frage: {ü}", {"ü": "für\u2028🙂"}, "Frage: für\u2028🙂"),
    ],
)
def test_placeholders_are_filled_once_and_exactly(prompt: str, record: object, text: str) -> None:
    assert asked(prompt, record) == text


@settings(max_examples=50)
@given(st.text(max_size=30), st.text(max_size=30), st.booleans())
def test_any_text_arrives_as_it_is(before: str, text: str, ascii_only: bool) -> None:
    before, text = (word.encode("utf-8", "ignore").decode() for word in (before, text))
    prompt = before.replace("{", "{{").replace("}", "}}") + "{a}"
    assert asked(prompt, json.dumps({"a": text}, ensure_ascii=ascii_only)) == before + text


def test_columns_that_are_kept_and_the_key_are_exact() -> None:
    template = RequestTemplate("{a}", key=("k", "l"), columns=("b", "k"))
    made = row(template, '{"a": "x", "b": 1.50, "k": 12345678901234567890123, "l": "ä", "unused": 1}')
    assert (made.key, made.columns) == (
        '{"k":12345678901234567890123,"l":"ä"}'.encode(),
        b'{"b":1.50,"k":12345678901234567890123}',
    )


def test_only_what_counts_decides_about_the_fingerprint_of_a_row() -> None:
    def source(template: RequestTemplate, record: Mapping[str, object]) -> bytes:
        return row(template, record).source

    some = RequestTemplate("{a}", system="{s}", key="k", columns=("b",))
    same = {"a": 1, "s": 2, "k": 3, "b": 4}
    assert (
        source(some, {**same, "loaded_at": 1}) == source(some, {**same, "loaded_at": 2}) == b'{"k":3,"s":2,"a":1,"b":4}'
    )
    assert len({source(some, {**same, name: 9}) for name in same} | {source(some, same)}) == 5
    assert source(RequestTemplate("{a}"), {"a": 1, "b": 1}) != source(RequestTemplate("{a}"), {"a": 1, "b": 2})
    assert (some.columns_needed, RequestTemplate("{a}").columns_needed) == (("k", "s", "a", "b"), None)


def test_no_columns_are_kept_if_none_are_wanted() -> None:
    assert row(RequestTemplate("{a}", columns=()), {"a": "x"}).columns is None


def test_a_ready_line_goes_through_as_it_is() -> None:
    line = '{"custom_id": "r-1", "method": "POST", "url": "/v1/embeddings", "body": {"model":"e",  "input":"ä"}}'
    assert row(RequestTemplate(), line) == Row(
        url="/v1/embeddings",
        model="e",
        body='{"model":"e",  "input":"ä"}'.encode(),
        source=line.encode(),
        origin=ORIGIN,
        number=7,
        key=b'"r-1"',
        columns=None,
    )


def test_a_ready_line_needs_no_id_nor_model() -> None:
    made = row(RequestTemplate(), {"url": CHAT, "body": {"messages": []}})
    assert (made.key, made.model, made.body) == (None, None, b'{"messages":[]}')


def test_a_text_is_a_prompt_by_itself_and_a_column_for_a_template() -> None:
    records = list(given_records(["Say {hi}"], name="ask"))
    [alone] = RequestTemplate(model="m", system="Be brief.").rows(records)
    [filled] = RequestTemplate("Translate: {prompt}").rows(records)
    assert [message["content"] for message in json.loads(alone.body)["messages"]] == ["Be brief.", "Say {hi}"]
    assert [message["content"] for message in json.loads(filled.body)["messages"]] == ["Translate: Say {hi}"]


@pytest.mark.parametrize(
    ("template", "line", "problem"),
    [
        (
            RequestTemplate("{b}"),
            '{"a": 1, "c": "secret"}',
            (
                'has no column "b", which the prompt names; it has "a", "c". Write {{ and }} for braces that belong to '
                "the text"
            ),
        ),
        (RequestTemplate("{a}"), '{"a": null}', 'has no value (null) in the column "a", which the prompt names'),
        (
            RequestTemplate("x", system="{a}"),
            '{"a": null}',
            'has no value (null) in the column "a", which the system text names',
        ),
        (RequestTemplate("x", key="k"), '{"a": 1}', 'has "a", but not the column "k" of its key'),
        (RequestTemplate("x", key="k"), '{"k": null}', 'has no value (null) in the column "k" of its key'),
        (RequestTemplate("x", columns=("b",)), '{"a": 1}', 'has no column "b", which is to be kept; it has "a"'),
        (RequestTemplate("{a}"), '{"a": "half', "is not JSON: Input data was truncated"),
        (RequestTemplate("{a}"), '{"a": NaN}', "is not JSON: JSON is malformed: invalid character (byte 6)"),
        (RequestTemplate("{a}"), '{"a": "x"} {', "is not JSON: JSON is malformed: trailing characters (byte 12)"),
        (RequestTemplate("{a}"), '["a"]', "is no record: Expected `object`, got `array`"),
        (RequestTemplate("{a}"), '{"a":' + "[" * 100_000 + "]" * 100_000 + "}", "is nested too deeply to be read"),
        (
            RequestTemplate(),
            '{"a": 1}',
            (
                "is no ready request, which it must be without a prompt= for its columns: Object missing required "
                "field `url`"
            ),
        ),
        (
            RequestTemplate(),
            f'{{"url":"{CHAT}","method":"GET","body":{{}}}}',
            'has the method "GET"; the only one is "POST"',
        ),
        (
            RequestTemplate(),
            f'{{"url":"{CHAT}","body":{{"stream":true}}}}',
            'has "stream": true, which a batch cannot do',
        ),
        (
            RequestTemplate(),
            f'{{"url":"{CHAT}"}}',
            "is no ready request, which it must be without a prompt= for its columns: Expected `object`, got `null`",
        ),
        *(
            (
                RequestTemplate(**given),
                f'{{"url":"{CHAT}","body":{{}}}}',
                f"is a ready request, in which {name}= has no place",
            )
            for name, given in {
                "parameters": {"parameters": {"temperature": 0}},
                "system": {"system": "Be brief."},
                "key": {"key": "id"},
                "columns": {"columns": ["a"]},
            }.items()
        ),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else "",
)
def test_a_record_that_makes_no_request_is_named_without_its_values(
    template: RequestTemplate, line: str, problem: str
) -> None:
    assert refusal(template, line) == f"Line 7 of in.jsonl {problem}. {SAME_AGAIN}"
    assert "secret" not in problem


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"prompt": "x", "parameters": {"model": "m"}}, "parameters may not hold 'model', which the operator's own "),
        ({"prompt": "x", "parameters": {"messages": []}}, "parameters may not hold 'messages', which the operator's "),
        ({"prompt": "x", "parameters": {"a": object()}}, "parameters cannot be written as JSON (Encoding objects of "),
        ({"prompt": "x", "endpoint": "/v1/videos"}, "prompts make requests for /v1/chat/completions, /v1/responses, "),
        ({"prompt": "x", "endpoint": "/v1/embeddings", "system": "s"}, "system= has no place in a request for "),
        ({"prompt": "x", "endpoint": "/v1/embeddings", "response_schema": {}}, "response_format= has no place in a "),
        (
            {"prompt": "x", "parameters": {"response_format": {}}, "response_schema": {"type": "object"}},
            "parameters may not hold 'response_format' beside response_format=",
        ),
    ],
)
def test_what_cannot_work_together_is_told_when_the_template_is_made(arguments: Any, problem: str) -> None:
    with pytest.raises(BatchInputError) as refused:
        RequestTemplate(**arguments)
    assert str(refused.value).startswith(f"The requests cannot be made: {problem}")
    assert str(refused.value).endswith("Nothing was uploaded or billed.")


@pytest.mark.parametrize(
    ("prompt", "place"), [("a {", "'{' at character 3"), ("}a", "'}' at character 1"), ("{ }", "'{ }' at character 1")]
)
def test_a_brace_alone_is_refused(prompt: str, place: str) -> None:
    with pytest.raises(BatchInputError) as refused:
        RequestTemplate(prompt)
    assert str(refused.value) == (
        f"The prompt has a {place} that encloses no column. Nothing was uploaded or billed. Write {{{{ and }}}} for "
        "braces that belong to the text."
    )


def test_the_fingerprint_of_parameters_covers_all_but_rows_and_model() -> None:
    base: dict[str, Any] = {
        "prompt": "{a}",
        "system": "s",
        "parameters": {"temperature": 0, "top_p": 1},
        "response_schema": {"type": "object"},
        "schema_name": "n",
        "key": "k",
        "columns": ("a",),
        "endpoint": CHAT,
    }
    others: dict[str, Any] = {
        "prompt": "{a}!",
        "system": None,
        "parameters": {"temperature": 1, "top_p": 1},
        "response_schema": None,
        "schema_name": "o",
        "key": (),
        "columns": None,
        "endpoint": "/v1/responses",
    }
    told = {RequestTemplate(**{**base, name: value}).parameters_sha256 for name, value in others.items()}
    same = {
        RequestTemplate(**base, model="m").parameters_sha256,
        RequestTemplate(**{**base, "parameters": {"top_p": 1, "temperature": 0}}, model="n").parameters_sha256,
    }
    assert (len(told), len(same), told & same) == (8, 1, set())


def test_the_schema_stands_where_the_endpoint_wants_it() -> None:
    schema = {"type": "object", "properties": {"label": {"type": "string"}}}
    strict = {**schema, "additionalProperties": False, "required": ["label"]}
    wanted = {"name": "answer", "schema": strict, "strict": True}
    chat = RequestTemplate("x", response_schema=schema)
    responses = RequestTemplate(
        "x", response_schema=schema, parameters={"text": {"verbosity": "low"}}, endpoint="/v1/responses"
    )
    assert body(chat, {})["response_format"] == {"type": "json_schema", "json_schema": wanted}
    assert body(responses, {})["text"] == {"verbosity": "low", "format": {"type": "json_schema", **wanted}}
