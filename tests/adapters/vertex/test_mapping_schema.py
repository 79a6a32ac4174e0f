"""The mapping against Google's own types and OpenAI's own client, over generated requests and answers.

What is sent must parse strictly as ``GenerateContentRequest``; what is read is any ``GenerateContentResponse`` in any
of the ways that protobuf writes it. The only module that imports Google's types, which takes seconds.
"""

from __future__ import annotations

import json
import math
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec
from google.cloud.aiplatform_v1.types import GenerateContentRequest, GenerateContentResponse
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import event, given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion
from support.chat_bodies import bodies

from airflow_provider_llmbatch.adapters.vertex.requests import LineRefused, MappingSettings, RequestMapping
from airflow_provider_llmbatch.adapters.vertex.responses import custom_id_of, result_line
from airflow_provider_llmbatch.core.results import result_of_line

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor
    from google.protobuf.message import Message

CUSTOM_IDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=64)
WAYS = st.fixed_dictionaries(
    {
        "preserving_proto_field_name": st.booleans(),
        "always_print_fields_with_no_presence": st.booleans(),
        "use_integers_for_enums": st.booleans(),
        "ensure_ascii": st.booleans(),
    }
)


@given(bodies(), CUSTOM_IDS, WAYS)
@settings(max_examples=150)
def test_a_line_is_one_that_google_parses_strictly_or_is_refused_by_parameter(
    body: dict[str, Any], custom_id: str, way: dict[str, bool]
) -> None:
    line = json.dumps({"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}).encode()
    mapped = mapped_or_refused(line)
    event("mapped" if isinstance(mapped, bytes) else f"refused: {mapped.param}")
    if isinstance(mapped, LineRefused):
        assert mapped.param
        return
    assert b"\n" not in mapped
    request = json.loads(mapped)
    assert request.keys() == {"request"}
    parsed = GenerateContentRequest.pb()()
    json_format.Parse(json.dumps(request["request"]), parsed, ignore_unknown_fields=False)
    check_nothing_vanished(request["request"], json_format.MessageToDict(parsed))

    # What the service gives back: normalised, in whichever of protobuf's ways.
    echo = json_format.MessageToJson(parsed, indent=None, **way)
    output = f'{{"status":"","processed_time":null,"request":{echo},"response":{{"candidates":[{{}}]}}}}'.encode()
    assert custom_id_of(mapped) == custom_id_of(output) == custom_id
    assert json.loads(result_line(output))["custom_id"] == custom_id


def mapped_or_refused(line: bytes) -> bytes | LineRefused:
    try:
        return RequestMapping(MappingSettings()).line(line)
    except LineRefused as refused:
        return refused


def check_nothing_vanished(sent: Any, parsed: Any) -> None:
    """Whatever was sent is there, but for what protobuf leaves out since it is the default."""
    for name, value in sent.items():
        if value not in ("", 0, False, [], {}):
            assert name in parsed, name


LIKELY = frozenset({"candidates", "content", "parts", "text", "usage_metadata", "function_call", "args"})
TEXTS = ("", "a", "é\u2028😀", '"\\\n', "finish_reason", "STOP")
FLOATS = (0.0, -0.25, 1e30, math.inf, -math.inf, math.nan)


class Anything:
    """Makes any message of a kind out of a seed, which is a hundred times faster than strategies made of strategies."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def of(self, descriptor: Descriptor, depth: int = 7) -> dict[str, Any]:
        """What the message's constructor takes."""
        if descriptor.full_name in ("google.protobuf.Timestamp", "google.protobuf.Duration"):
            return {"seconds": self._random.randrange(2**33), "nanos": self._random.randrange(10**9)}
        if descriptor.full_name == "google.protobuf.Struct":
            return {text: self._random.choice([None, True, 1, 1.5, *TEXTS]) for text in self._random.sample(TEXTS, 2)}
        found: dict[str, Any] = {}
        for field in self._random.sample(list(descriptor.fields), len(descriptor.fields)):
            oneof = field.containing_oneof
            taken = oneof is not None and any(other.name in found for other in oneof.fields)
            wanted = self._random.random() < (0.8 if field.name in LIKELY else 0.25)
            if wanted and not taken and (depth or not field.message_type):
                found[field.name] = self._value(field, depth)
        return found

    def _value(self, field: FieldDescriptor, depth: int) -> Any:
        if field.message_type and field.message_type.GetOptions().map_entry:
            return {}
        if not field.is_repeated:
            return self._one(field, depth)
        return [self._one(field, depth) for _ in range(self._random.randrange(field.name in LIKELY, 3))]

    def _one(self, field: FieldDescriptor, depth: int) -> Any:
        if field.message_type:
            return self.of(field.message_type, depth - 1)
        if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
            return self._random.choice([*(value.number for value in field.enum_type.values), UNKNOWN_ENUM])
        if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            text = self._random.choice(TEXTS)
            return text.encode() if field.type == FieldDescriptor.TYPE_BYTES else text
        if field.cpp_type in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
            return self._random.choice(FLOATS)
        if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            return self._random.random() < 0.5
        return self._random.choice([0, 1, 7, 2**31 - 1])


UNKNOWN_ENUM = 99
RESPONSE = GenerateContentResponse.pb()


def answer_of(seed: int) -> Message:
    return RESPONSE(**Anything(seed).of(RESPONSE.DESCRIPTOR))


@given(st.integers(0, 2**64).map(answer_of), WAYS)
@settings(max_examples=250)
def test_any_answer_of_google_is_a_chat_completion_of_openai(answer: Message, way: dict[str, bool]) -> None:
    content = json_format.MessageToJson(answer, indent=None, **way)
    line = f'{{"status": "", "request": {{"labels": {{"llmbatch_id": "a"}}}}, "response": {content}}}'.encode()
    mapped = result_line(line)
    assert b"\n" not in mapped
    result = result_of_line(mapped)
    assert result.custom_id == "a"
    event(f"{result.outcome} {result.error.code if result.error else ''}")
    if content == "{}":
        assert (result.outcome, result.response) == ("failed", None)
        return
    assert result.response is not None
    body = msgspec.json.decode(result.response.body)
    completion = ChatCompletion.model_validate(body)  # strict about shapes, unlike the client itself
    if answer.HasField("usage_metadata"):
        used, usage = answer.usage_metadata, completion.usage
        assert usage is not None
        assert usage.prompt_tokens == used.prompt_token_count
        assert usage.completion_tokens == used.candidates_token_count + used.thoughts_token_count
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    said = [part for candidate in answer.candidates for part in candidate.content.parts]
    texts = "".join(part.text for part in said if not part.thought)
    assert "".join(choice.message.content or "" for choice in completion.choices) == texts
    calls = [call for choice in completion.choices for call in choice.message.tool_calls or ()]
    assert [call.function.name for call in calls] == [
        part.function_call.name for part in said if part.HasField("function_call")
    ]
    assert len({call.id for call in calls}) == len(calls)
    assert result.outcome == "succeeded" or not (texts or calls)
