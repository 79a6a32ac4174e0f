"""What the body of an answer says: its text, why it ended, what it used, on every endpoint.

A body is decoded once, and only where something must look inside; texts, calls and vectors stay the bytes that came.
What the fields of a row cannot hold is kept whole as ``body``, since it was paid for.
"""

from __future__ import annotations

import base64
import sys
from array import array
from typing import Any, Final

import msgspec

from airflow_provider_llmbatch.core.costs.tokens import Tokens, UsageFound, tokens_of

_NULL: Final = b"null"
_TEXT: Final = ord('"')
_LIST: Final = ord("[")

_Raw = msgspec.Raw
ABSENT: Final = msgspec.Raw(b"null")
"""What stands for a field that a body lacks: known by identity, so that it need not be read."""


class _Message(msgspec.Struct, gc=False):
    content: _Raw = ABSENT
    refusal: _Raw = ABSENT
    tool_calls: _Raw = ABSENT
    # DeepSeek's name, which vLLM, LiteLLM and our adapter of Vertex AI use as well; newer servers say ``reasoning``.
    reasoning_content: _Raw = ABSENT
    reasoning: _Raw = ABSENT
    audio: _Raw = ABSENT
    annotations: list[_Raw] | None = None
    images: list[_Raw] | None = None
    files: list[_Raw] | None = None
    vertex_parts: list[_Raw] | None = None


class _Choice(msgspec.Struct, gc=False):
    message: _Message | None = None
    text: _Raw = ABSENT
    finish_reason: str | None = None
    logprobs: _Raw = ABSENT
    citation_metadata: dict[str, _Raw] | None = None
    grounding_metadata: dict[str, _Raw] | None = None
    url_context_metadata: dict[str, _Raw] | None = None


class _Part(msgspec.Struct, gc=False):
    type: str | None = None
    text: _Raw = ABSENT
    refusal: _Raw = ABSENT


class _Item(msgspec.Struct, gc=False):
    type: str | None = None
    content: list[_Part] | None = None


class _Incomplete(msgspec.Struct, gc=False):
    reason: str | None = None


class _Datum(msgspec.Struct, gc=False):
    embedding: _Raw = ABSENT


class _Body(msgspec.Struct, gc=False):
    model: str | None = None
    choices: list[_Choice] | None = None
    output: list[_Raw] | None = None
    status: str | None = None
    incomplete_details: _Incomplete | None = None
    data: list[_Datum] | None = None


class _BodyWithUsage(_Body, gc=False):
    usage: UsageFound | None = None


class _Bare(msgspec.Struct, gc=False):
    model: Any = None
    usage: _Raw = ABSENT


# Not strict, since some servers send numbers as texts.
_decode_whole = msgspec.json.Decoder(_BodyWithUsage, strict=False).decode
_decode_body = msgspec.json.Decoder(_Body, strict=False).decode
_decode_usage = msgspec.json.Decoder(UsageFound | None, strict=False).decode
_decode_bare = msgspec.json.Decoder(_Bare).decode
_decode_item = msgspec.json.Decoder(_Item).decode
_decode_parts = msgspec.json.Decoder(list[_Part]).decode
_decode_text = msgspec.json.Decoder(str).decode
_encode = msgspec.json.Encoder().encode


class Content(msgspec.Struct, gc=False):
    """Fields of a row, as JSON in bytes where they are not decoded; ``null`` or ``None`` where there is nothing.

    :param text: The first choice's, or all texts of a response joined, as OpenAI's client joins them.
    :param finish_reason: In the words of chat completions on every endpoint.
    :param embedding: A list of numbers, also where it came in base64.
    :param reasoning: What a model thought before it answered, where the server tells.
    :param body: The whole body, where the other fields cannot hold all that was asked for: several choices or vectors,
        log probabilities, audio, images, files, citations, and every endpoint that answers neither with texts nor with
        vectors.
    """

    text: bytes = _NULL
    finish_reason: str | None = None
    model: str | None = None
    tokens: Tokens | None = None
    refusal: bytes | None = None
    tool_calls: bytes | None = None
    reasoning: bytes | None = None
    embedding: bytes | None = None
    body: bytes | None = None


def content_of(body: bytes | msgspec.Raw) -> Content:
    """What a body says. One that is of no shape that is known here is kept whole; none raises."""
    try:
        try:
            parsed = _decode_whole(body)
        except msgspec.ValidationError:
            content = _content(_decode_body(body), body)  # an odd usage must not cost the answer
        else:
            content = _content(parsed, body)
            if parsed.usage is not None:
                content.tokens = tokens_of(parsed.usage)
    except (ValueError, RecursionError):  # msgspec's errors are ValueErrors, as are base64's
        return _kept_whole(body)
    return content


def _content(parsed: _Body, body: bytes | msgspec.Raw) -> Content:
    if parsed.choices:
        content = _of_choices(parsed.choices, body)
    elif parsed.output is not None:
        content = _of_response(parsed)
    else:
        content = _of_data(parsed.data, body)
    content.model = parsed.model
    return content


def decoded_text(text: bytes) -> str | None:
    """What the field ``text`` holds."""
    return None if text == _NULL else _decode_text(text)


def _of_choices(choices: list[_Choice], body: bytes | msgspec.Raw) -> Content:
    content = _of_choice(choices[0])
    if not _is_all_of(choices):
        content.body = bytes(body)
    return content


def _of_choice(choice: _Choice) -> Content:
    message = choice.message
    if message is None:
        return Content(_text(choice.text), choice.finish_reason)
    content = Content(_text(message.content), choice.finish_reason)
    content.refusal = unless_null(message.refusal)
    content.tool_calls = unless_empty(message.tool_calls)
    if message.reasoning_content is not ABSENT or message.reasoning is not ABSENT:
        content.reasoning = unless_null(message.reasoning_content) or unless_null(message.reasoning)
    return content


def _is_all_of(choices: list[_Choice]) -> bool:
    """Whether the fields of a row can hold all there is."""
    first = choices[0]
    if len(choices) > 1 or unless_null(first.logprobs) is not None:
        return False
    if first.citation_metadata or first.grounding_metadata or first.url_context_metadata:
        return False
    if (message := first.message) is None:
        return True
    if message.annotations or message.images or message.files or message.vertex_parts:
        return False
    return unless_null(message.audio) is None


def _text(raw: msgspec.Raw) -> bytes:
    """The JSON text, also from the list of parts that some servers send."""
    text = bytes(raw)
    if text[0] == _TEXT or text == _NULL:
        return text
    if text[0] != _LIST:
        raise ValueError("a content that is neither a text nor a list of parts")
    return _joined([bytes(part.text) for part in _decode_parts(text)])


def _joined(texts: list[bytes]) -> bytes:
    found = [text for text in texts if text[0] == _TEXT]
    if len(found) == 1:
        return found[0]
    return _encode("".join(map(_decode_text, found))) if found else _NULL


def _of_response(parsed: _Body) -> Content:
    texts, refusals, calls = [], [], []
    for raw in parsed.output or ():
        item = _decode_item(raw)
        if item.type == "message":
            texts += [bytes(part.text) for part in item.content or () if part.type == "output_text"]
            refusals += [bytes(part.refusal) for part in item.content or () if part.type == "refusal"]
        elif item.type is not None and item.type.endswith("_call"):
            calls.append(bytes(raw))
    reason = parsed.incomplete_details.reason if parsed.incomplete_details else None
    content = Content(_joined(texts), _REASON_OF_RESPONSE.get(reason or parsed.status or "", reason or parsed.status))
    if refusals:
        content.refusal = _joined(refusals)
    if calls:
        content.tool_calls = b"[" + b",".join(calls) + b"]"
        content.finish_reason = "tool_calls" if content.finish_reason == "stop" else content.finish_reason
    return content


_REASON_OF_RESPONSE: Final = {"completed": "stop", "max_output_tokens": "length"}


def _of_data(data: list[_Datum] | None, body: bytes | msgspec.Raw) -> Content:
    if data is None or len(data) != 1 or (vector := bytes(data[0].embedding)) == _NULL:
        return Content(body=bytes(body) if bytes(body) != _NULL else None)
    return Content(embedding=_numbers(vector))


def _numbers(vector: bytes) -> bytes:
    """OpenAI's client asks for base64 of little-endian 32-bit floats by itself, so inputs made with it do too."""
    if vector[0] == _LIST:
        return vector
    numbers = array("f", base64.b64decode(_decode_text(vector), validate=True))
    if sys.byteorder == "big":
        numbers.byteswap()
    return _encode(numbers.tolist())


def _kept_whole(body: bytes | msgspec.Raw) -> Content:
    content = Content(body=bytes(body))
    try:
        bare = _decode_bare(body)
        content.model = bare.model if isinstance(bare.model, str) else None
        usage = _decode_usage(bare.usage)
        content.tokens = tokens_of(usage) if usage is not None else None
    except (ValueError, RecursionError):
        pass
    return content


def unless_null(raw: msgspec.Raw) -> bytes | None:
    """What the field of a row holds, from that of a body."""
    if raw is ABSENT:
        return None
    value = bytes(raw)
    return None if value == _NULL else value


def unless_empty(raw: msgspec.Raw) -> bytes | None:
    """The same of a list."""
    if raw is ABSENT:
        return None
    value = bytes(raw)
    return None if value in (_NULL, b"[]") else value
