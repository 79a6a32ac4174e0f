"""Messages of every role, and what they may hold, as Gemini's turns."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from support.chat_lines import refusal_of, request_of

PNG = base64.b64encode(b"\x89PNG\r\n").decode()
USER = {"role": "user", "content": "Weather?"}


def turns(*messages: dict[str, Any], drop: tuple[str, ...] = ()) -> Any:
    return request_of(messages=list(messages), drop=drop)["contents"]


def part(part: dict[str, Any]) -> Any:
    (turn,) = turns({"role": "user", "content": [part]})
    return turn["parts"][0]


def part_refused(part: dict[str, Any]) -> tuple[str, str | None]:
    return refusal_of(messages=[{"role": "user", "content": [part]}])


def image(url: str, **more: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def call(call_id: str = "call_1", name: str = "weather", arguments: str = '{"city":"Ulm"}', **more: Any) -> Any:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}, **more}


def result(content: Any, call_id: str = "call_1") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def test_neighbours_of_one_role_become_one_turn_and_instructions_are_joined() -> None:
    request = request_of(
        messages=[
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": "A"},
            {"role": "user", "content": [{"type": "text", "text": "B"}, {"type": "text", "text": "C"}]},
            {"role": "assistant", "content": "D"},
            {"role": "assistant", "content": [{"type": "text", "text": "E"}, {"type": "refusal", "refusal": "F"}]},
            {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
            {"role": "user", "content": "G"},
        ]
    )
    assert request == {
        "systemInstruction": {"parts": [{"text": "Be short."}, {"text": "Be kind."}]},
        "contents": [
            {"role": "user", "parts": [{"text": "A"}, {"text": "B"}, {"text": "C"}]},
            {"role": "model", "parts": [{"text": "D"}, {"text": "E"}, {"text": "F"}]},
            {"role": "user", "parts": [{"text": "G"}]},
        ],
        "labels": {"llmbatch_id": "row-1"},
    }


def test_calls_and_their_results_find_each_other_by_name() -> None:
    assert turns(
        USER,
        {"role": "assistant", "content": "", "tool_calls": [call(), call("call_2", "time", "")]},
        result("noon", "call_2"),
        result('{"sky": "blue",\n "at": [1.50, 12345678901234567890]}'),
        {"role": "user", "content": "And now?"},
    ) == [
        {"role": "user", "parts": [{"text": "Weather?"}]},
        {
            "role": "model",
            "parts": [
                {"functionCall": {"name": "weather", "args": {"city": "Ulm"}}},
                {"functionCall": {"name": "time", "args": {}}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"name": "time", "response": {"output": "noon"}}},
                {
                    "functionResponse": {
                        "name": "weather",
                        "response": {"sky": "blue", "at": [1.5, 12345678901234567890]},
                    }
                },
            ],
        },
        {"role": "user", "parts": [{"text": "And now?"}]},
    ]


@pytest.mark.parametrize("content", ["[1]", "7", "null", "{broken", '{"a": NaN}', '"{}"', ""])
def test_a_result_that_is_no_object_is_wrapped_in_one(content: str) -> None:
    contents = turns(USER, {"role": "assistant", "tool_calls": [call()]}, result(content))
    assert contents[2]["parts"] == [{"functionResponse": {"name": "weather", "response": {"output": content}}}]


def test_a_result_in_parts_is_joined() -> None:
    parts = [{"type": "text", "text": '{"a"'}, {"type": "text", "text": ": 1}"}]
    contents = turns(USER, {"role": "assistant", "tool_calls": [call()]}, result(parts))
    assert contents[2]["parts"] == [{"functionResponse": {"name": "weather", "response": {"a": 1}}}]


def test_an_answer_of_ours_can_be_sent_back_as_it_came() -> None:
    """With what its call needs on Gemini 3, and without thoughts and citations, which Gemini does not take back."""
    answer = {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "reasoning_content": "Hm.",
        "annotations": [],
        "audio": None,
        "function_call": None,
        "tool_calls": [call(extra_content={"google": {"thought_signature": "c2ln"}})],
    }
    assert turns(USER, answer, result("x"))[1] == {
        "role": "model",
        "parts": [{"functionCall": {"name": "weather", "args": {"city": "Ulm"}}, "thoughtSignature": "c2ln"}],
    }


@pytest.mark.parametrize(
    ("given", "mapped"),
    [
        (image(f"data:image/png;base64,{PNG}"), {"inlineData": {"mimeType": "image/png", "data": PNG}}),
        (image(f"DATA:Image/PNG;x=y;base64,{PNG}"), {"inlineData": {"mimeType": "image/png", "data": PNG}}),
        (image("data:text/plain,a%20b"), {"inlineData": {"mimeType": "text/plain", "data": "YSBi"}}),
        (image("data:image/png;base64,-_8"), {"inlineData": {"mimeType": "image/png", "data": "+/8="}}),
        (image("data:image/png;base64,YW\r\nJj"), {"inlineData": {"mimeType": "image/png", "data": "YWJj"}}),
        (image("gs://b/o.x/a b.JPG"), {"fileData": {"fileUri": "gs://b/o.x/a b.JPG", "mimeType": "image/jpeg"}}),
        (image("gs://b/what?.png"), {"fileData": {"fileUri": "gs://b/what?.png", "mimeType": "image/png"}}),
        (
            image("https://e.org/i.webp?v=1.2#x"),
            {"fileData": {"fileUri": "https://e.org/i.webp?v=1.2#x", "mimeType": "image/webp"}},
        ),
        (
            {"type": "input_audio", "input_audio": {"data": "YWJj", "format": "mp3"}},
            {"inlineData": {"mimeType": "audio/mp3", "data": "YWJj"}},
        ),
        (
            {"type": "file", "file": {"file_data": "data:application/pdf;base64,YWJj", "filename": "a.txt"}},
            {"inlineData": {"mimeType": "application/pdf", "data": "YWJj"}},
        ),
        (
            {"type": "file", "file": {"file_data": "YWJj", "filename": "a.pdf"}},
            {"inlineData": {"mimeType": "application/pdf", "data": "YWJj"}},
        ),
        (
            {"type": "file", "file": {"file_id": "gs://b/film.mp4"}},
            {"fileData": {"fileUri": "gs://b/film.mp4", "mimeType": "video/mp4"}},
        ),
        (
            {"type": "file", "file": {"file_id": "gs://b/film", "filename": "film.mov"}},
            {"fileData": {"fileUri": "gs://b/film", "mimeType": "video/mov"}},
        ),
    ],
)
def test_a_part_of_a_message_has_its_twin(given: dict[str, Any], mapped: dict[str, Any]) -> None:
    assert part(given) == mapped


@pytest.mark.parametrize(
    ("given", "why", "param"),
    [
        (
            image("http://e.org/i.png"),
            'has an image_url that begins with "http://e.org"; Gemini reads data: URIs, gs:// and https:// addresses',
            "image_url",
        ),
        (
            image("https://e.org/picture"),
            "has an image_url whose type cannot be told from the end of its address",
            "image_url",
        ),
        (image("data:image/png;base64"), "has an image_url that is half a data: URI, without a comma", "image_url"),
        (image("data:image/png;base64,a!b"), "has an image_url that is no base64: ", "image_url"),
        (image("data:image/png;base64,abcde"), "has an image_url that is no base64: ", "image_url"),
        (
            {"type": "input_audio", "input_audio": {"data": "YWJj", "format": "x/y"}},
            "has an input_audio whose format is none, such as wav or mp3",
            "input_audio",
        ),
        (
            {"type": "file", "file": {"file_id": "file-123"}},
            (
                'has the file_id "file-123", which Gemini cannot read; give the gs:// address of an object, or the '
                "file itself as file_data"
            ),
            "file.file_id",
        ),
        (
            {"type": "file", "file": {"file_data": "YWJj"}},
            "has a file.file_data whose type neither it nor the file's name tells",
            "file.file_data",
        ),
        (
            {"type": "video_url", "video_url": {"url": "gs://b/a.mp4"}},
            'has "messages.video_url", which Gemini cannot do',
            "messages.video_url",
        ),
        (
            {"type": "refusal", "refusal": "No."},
            'has a message of the role user with a part of the type "refusal" that Gemini cannot be told',
            "messages",
        ),
        (
            {"type": "text"},
            'has a message of the role user with a part of the type "text" that Gemini cannot be told',
            "messages",
        ),
        (
            {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}},
            'has "messages.cache_control", which Gemini cannot do',
            "messages.cache_control",
        ),
    ],
)
def test_a_part_that_gemini_cannot_be_told_is_refused(given: dict[str, Any], why: str, param: str) -> None:
    told, at = part_refused(given)
    assert (told[: len(why)], at) == (why, param)


def test_the_detail_of_images_becomes_one_resolution_for_all() -> None:
    def mapped(*details: str | None, drop: tuple[str, ...] = ()) -> Any:
        images = [image("gs://b/a.png", **({"detail": detail} if detail else {})) for detail in details]
        return request_of(messages=[{"role": "user", "content": images}], drop=drop).get("generationConfig")

    assert mapped("low", None, "auto", "low") == {"mediaResolution": "MEDIA_RESOLUTION_LOW"}
    assert mapped("high") == {"mediaResolution": "MEDIA_RESOLUTION_HIGH"}
    assert mapped("auto", None) is None
    assert mapped("low", "high", drop=("image_url.detail",)) is None
    assert refusal_of(
        messages=[{"role": "user", "content": [image("gs://b/a.png", detail=how) for how in ("low", "high")]}]
    ) == (
        (
            'has an image with "detail": "high", and Gemini takes one for all images: low, medium or high; list '
            '"image_url.detail" in the connection\'s drop_params to leave it out'
        ),
        "image_url.detail",
    )


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ([], "has no message that Gemini could answer"),
        ([{"role": "system", "content": "x"}], "has no message that Gemini could answer"),
        ([{"role": "user"}], "has a message of the role user without content"),
        ([{"role": "user", "content": []}], "has a message of the role user without content"),
        ([USER, {"role": "assistant"}], "has a message of the role assistant without content"),
        (
            [{"role": "function", "content": "x"}],
            'has a message of the role "function"; it can be system, developer, user, assistant or tool',
        ),
        (
            [USER, result("x", "call_9")],
            (
                "has a tool's result for the call \"call_9\", which no assistant's message before it made, so its "
                "function is unknown"
            ),
        ),
        (
            [USER, {"role": "assistant", "tool_calls": [call(arguments="[1]")]}],
            'has a call of "weather" whose arguments are no JSON object, as Gemini wants them',
        ),
        (
            [USER, {"role": "assistant", "tool_calls": [{"id": "c", "type": "custom"}]}],
            'has a tool call of the type "custom"; only functions can be called',
        ),
        ([USER | {"tool_calls": [call()]}], "has a message of the role user with a field of other roles"),
        (
            [USER, {"role": "assistant", "content": "x", "tool_call_id": "c"}],
            "has a message of the role assistant with a tool_call_id",
        ),
        (
            [USER, {"role": "assistant", "tool_calls": [call()]}, result("x") | {"refusal": "no"}],
            "has a message of the role tool with a field of other roles",
        ),
        (
            [{"role": "system", "content": [image("gs://b/a.png")]}, USER],
            'has a message of the role system with a part of the type "image_url" that Gemini cannot be told',
        ),
    ],
)
def test_a_conversation_that_gemini_cannot_be_told_is_refused(messages: list[dict[str, Any]], why: str) -> None:
    assert refusal_of(messages=messages) == (why, "messages")


@pytest.mark.parametrize("role", ["user", "system", "assistant"])
def test_the_name_of_a_sender_is_refused_or_given_up(role: str) -> None:
    messages = [USER, {"role": role, "content": "x", "name": "ann"}]
    told, param = refusal_of(messages=messages)
    assert (told.partition(";")[0], param) == (
        f"names the sender of a message of the role {role}, which Gemini cannot be told",
        "messages.name",
    )
    assert request_of(messages=messages, drop=["messages.name"]) == request_of(
        messages=[USER, {"role": role, "content": "x"}]
    )


def test_fields_inside_messages_can_be_given_up() -> None:
    marked = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}
    assert turns({"role": "user", "content": [marked]}, drop=("messages.cache_control",)) == [
        {"role": "user", "parts": [{"text": "x"}]}
    ]
