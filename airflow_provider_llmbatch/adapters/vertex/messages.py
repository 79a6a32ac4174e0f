"""Messages of every role as Gemini's ``contents`` and ``systemInstruction``.

What Gemini has no place for is refused, but for what means nothing to a model: ``reasoning_content`` and
``annotations`` of an assistant, which answers bring along, since Gemini takes back neither thoughts nor citations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from airflow_provider_llmbatch.adapters.vertex.media import of_address, of_file, of_sound, type_of_name
from airflow_provider_llmbatch.adapters.vertex.refused import LineRefused, refuse_unless_dropped

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from airflow_provider_llmbatch.adapters.vertex.media import Part

_RESOLUTIONS: Final = {
    "low": "MEDIA_RESOLUTION_LOW",
    "medium": "MEDIA_RESOLUTION_MEDIUM",
    "high": "MEDIA_RESOLUTION_HIGH",
}
_DETAIL: Final = "image_url.detail"
_NAME: Final = "messages.name"


class ImageUrl(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    url: str
    detail: str | None = None


class InputAudio(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    data: str
    format: str


class FileContent(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    file_data: str | None = None
    file_id: str | None = None
    filename: str | None = None


class ContentPart(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: ImageUrl | None = None
    input_audio: InputAudio | None = None
    file: FileContent | None = None


class FunctionCall(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    name: str
    arguments: str = ""


class _Google(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    thought_signature: str | None = None


class ExtraContent(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """Where Google's own OpenAI-compatible endpoint puts what OpenAI has no field for."""

    google: _Google | None = None


class ToolCall(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    id: str
    function: FunctionCall | None = None
    type: str = "function"
    extra_content: ExtraContent | None = None


class Message(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    role: str
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    annotations: list[Any] | None = None


class Conversation:
    """The messages of one line.

    :raises LineRefused: From ``add`` and ``finished``: Gemini cannot be told that.
    """

    __slots__ = ("_drop_params", "_function_names", "_last_role", "contents", "resolution", "system")

    def __init__(self, drop_params: AbstractSet[str]) -> None:
        self.contents: list[dict[str, object]] = []
        self.system: list[Part] = []
        self.resolution: str | None = None
        self._drop_params = drop_params
        self._function_names: dict[str, str] | None = None
        self._last_role = ""

    def add(self, message: Message) -> None:
        """Neighbours of one role become one turn."""
        role = message.role
        if role == "user":
            self._check_only_content(message)
            self._turn("user", self._parts(message.content, role))
        elif role in ("system", "developer"):
            self._check_only_content(message)
            self.system += self._parts(message.content, role)
        elif role == "assistant":
            self._turn("model", self._said(message))
        elif role == "tool":
            # A turn of results must hold as many of them as the calls before it, so nothing else joins it.
            self._turn("tool", [self._result(message)])
        else:
            raise LineRefused(
                f'has a message of the role "{role}"; it can be system, developer, user, assistant or tool', "messages"
            )

    def finished(self) -> None:
        """Check what only the whole of it tells."""
        if not self.contents:
            raise LineRefused("has no message that Gemini could answer", "messages")

    def _turn(self, role: str, parts: list[Part]) -> None:
        if role == self._last_role:
            turn: Any = self.contents[-1]["parts"]
            turn += parts
        else:
            self.contents.append({"role": "user" if role == "tool" else role, "parts": parts})
            self._last_role = role

    def _check_only_content(self, message: Message) -> None:
        if message.name is not None:
            refuse_unless_dropped(
                _NAME,
                f"names the sender of a message of the role {message.role}, which Gemini cannot be told",
                self._drop_params,
            )
        if message.tool_calls or message.tool_call_id is not None or message.refusal is not None:
            raise LineRefused(f"has a message of the role {message.role} with a field of other roles", "messages")

    def _parts(self, content: str | list[ContentPart] | None, role: str) -> list[Part]:
        if isinstance(content, str):
            return [{"text": content}]
        if not content:
            raise LineRefused(f"has a message of the role {role} without content", "messages")
        return [self._part(part, role) for part in content]

    def _part(self, part: ContentPart, role: str) -> Part:
        kind = part.type
        if kind == "text" and part.text is not None:
            return {"text": part.text}
        if role == "user":
            if kind == "image_url" and part.image_url is not None:
                self._set_resolution(part.image_url.detail)
                return of_address(part.image_url.url, "image_url")
            if kind == "input_audio" and part.input_audio is not None:
                return of_sound(part.input_audio.format, part.input_audio.data, "input_audio")
            if kind == "file" and part.file is not None:
                return _of_file(part.file)
        elif role == "assistant" and kind == "refusal" and part.refusal is not None:
            return {"text": part.refusal}
        raise LineRefused(
            f'has a message of the role {role} with a part of the type "{kind}" that Gemini cannot be told', "messages"
        )

    def _set_resolution(self, detail: str | None) -> None:
        """Of all images at once: Gemini's is one of the request, so two that differ cannot both be had."""
        if detail is None or detail == "auto":
            return
        resolution = _RESOLUTIONS.get(detail)
        if resolution is None or self.resolution not in (None, resolution):
            refuse_unless_dropped(
                _DETAIL,
                f'has an image with "detail": "{detail}", and Gemini takes one for all images: low, medium or high',
                self._drop_params,
            )
        elif _DETAIL not in self._drop_params:
            self.resolution = resolution

    def _said(self, message: Message) -> list[Part]:
        if message.name is not None:
            refuse_unless_dropped(
                _NAME,
                "names the sender of a message of the role assistant, which Gemini cannot be told",
                self._drop_params,
            )
        if message.tool_call_id is not None:
            raise LineRefused("has a message of the role assistant with a tool_call_id", "messages")
        # An empty text beside calls is how many clients write that there was none.
        parts = self._parts(message.content, "assistant") if message.content else []
        if message.refusal:
            parts.append({"text": message.refusal})
        for call in message.tool_calls or ():
            parts.append(self._call(call))
        return parts or self._parts(message.content, "assistant")

    def _call(self, call: ToolCall) -> Part:
        if call.type != "function" or call.function is None:
            raise LineRefused(f'has a tool call of the type "{call.type}"; only functions can be called', "messages")
        if self._function_names is None:
            self._function_names = {}
        self._function_names[call.id] = call.function.name
        arguments = _object_in(call.function.arguments or "{}")
        if arguments is None:
            raise LineRefused(
                f'has a call of "{call.function.name}" whose arguments are no JSON object, as Gemini wants them',
                "messages",
            )
        part: Part = {"functionCall": {"name": call.function.name, "args": arguments}}
        if call.extra_content and call.extra_content.google and call.extra_content.google.thought_signature:
            part["thoughtSignature"] = call.extra_content.google.thought_signature
        return part

    def _result(self, message: Message) -> Part:
        """Its name is looked up, since OpenAI tells a result by the id of the call and Gemini by the function."""
        if message.tool_calls or message.refusal is not None:
            raise LineRefused("has a message of the role tool with a field of other roles", "messages")
        name = (self._function_names or {}).get(message.tool_call_id or "")
        if name is None:
            raise LineRefused(
                f"has a tool's result for the call \"{message.tool_call_id}\", which no assistant's message before it "
                "made, so its function is unknown",
                "messages",
            )
        content = message.content
        if not isinstance(content, str):
            content = "".join(str(part["text"]) for part in self._parts(content, "tool"))
        found = _object_in(content)
        return {"functionResponse": {"name": name, "response": {"output": content} if found is None else found}}


def _of_file(file: FileContent) -> Part:
    if file.file_data is not None:
        return of_file(file.file_data, file.filename, "file.file_data")
    if file.file_id is None or not file.file_id.startswith("gs://"):
        raise LineRefused(
            f'has the file_id "{file.file_id}", which Gemini cannot read; give the gs:// address of an object, or the '
            "file itself as file_data",
            "file.file_id",
        )
    kind = type_of_name(file.filename or "")
    if kind is None:
        return of_address(file.file_id, "file.file_id")
    return {"fileData": {"fileUri": file.file_id, "mimeType": kind}}


def _object_in(text: str) -> msgspec.Raw | None:
    """The JSON object that a text holds, on one line; ``None`` if it holds anything else."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        return msgspec.Raw(msgspec.json.encode(msgspec.json.decode(text)))
    except (ValueError, OverflowError, RecursionError):
        return None
