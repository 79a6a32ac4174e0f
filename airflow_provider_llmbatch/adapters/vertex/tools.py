"""Tools, the choice among them, and the shape of an answer.

Both are mostly the same on every line of a file, so they are mapped once for each different text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from airflow_provider_llmbatch.adapters.vertex.refused import LineRefused, refuse_unless_dropped
from airflow_provider_llmbatch.adapters.vertex.schemas import supported_schema

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

_MOST_KEPT: Final = 64  # different tools, and different response formats, of one file
_MODES: Final = {"auto": "AUTO", "none": "NONE", "required": "ANY"}
_ADVICE: Final = "; only functions can be tools"


class _Function(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _Tool(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    type: str
    function: _Function | None = None


class _Named(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    name: str


class _NamedTool(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    function: _Named
    type: str = "function"


class _Allowed(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    mode: str
    tools: list[_NamedTool]


class _ToolChoice(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    type: str
    function: _Named | None = None
    allowed_tools: _Allowed | None = None


class _JsonSchema(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    name: str | None = None
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class _ResponseFormat(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    type: str
    json_schema: _JsonSchema | None = None


class Tools(msgspec.Struct, gc=False):
    """:param declared: One entry of Gemini's ``tools``.
    :param names: Of its functions.
    :param validated: Whether a function asked to be called as its schema says.
    """

    declared: msgspec.Raw
    names: frozenset[str]
    validated: bool


_decode_tools = msgspec.json.Decoder(list[_Tool]).decode
_decode_choice = msgspec.json.Decoder(str | _ToolChoice).decode
_decode_format = msgspec.json.Decoder(_ResponseFormat).decode


class ToolMapping:
    """Remembers what it mapped: of one file."""

    def __init__(self, drop_params: AbstractSet[str]) -> None:
        self._drop_params = drop_params
        self._tools: dict[bytes, Tools | None] = {}
        self._formats: dict[bytes, dict[str, object]] = {}

    def tools(self, raw: bytes) -> Tools | None:
        """:raises LineRefused: One of them is no function, or a strict one has a schema that Gemini cannot hold."""
        if raw not in self._tools:
            mapped = self._mapped_tools(raw)
            if len(self._tools) >= _MOST_KEPT:
                self._tools.clear()
            self._tools[raw] = mapped
        return self._tools[raw]

    def response_format(self, raw: bytes) -> dict[str, object]:
        """What it adds to ``generationConfig``.

        :raises LineRefused: It is of an unknown type, or its schema uses what Gemini cannot hold an answer to.
        """
        if raw not in self._formats:
            mapped = self._mapped_format(raw)
            if len(self._formats) >= _MOST_KEPT:
                self._formats.clear()
            self._formats[raw] = mapped
        return self._formats[raw]

    def config(self, choice: bytes, tools: Tools | None) -> dict[str, object] | None:
        """``toolConfig``. A strict function makes ``auto`` into ``VALIDATED``: text, or a call as its schema says.

        :raises LineRefused: The choice is none of OpenAI's, or names no function of the line.
        """
        if not choice or choice == b"null":
            return {"functionCallingConfig": {"mode": "VALIDATED"}} if tools and tools.validated else None
        wanted = _decoded(_decode_choice, choice, "tool_choice")
        if isinstance(wanted, str):
            if wanted not in _MODES:
                raise LineRefused(
                    f'has the tool_choice "{wanted}"; it can be auto, none, required or a function', "tool_choice"
                )
            if wanted == "required" and tools is None:
                raise LineRefused('has the tool_choice "required", but no tools', "tool_choice")
            mode = "VALIDATED" if wanted == "auto" and tools and tools.validated else _MODES[wanted]
            return {"functionCallingConfig": {"mode": mode}}
        if wanted.type == "function" and wanted.function is not None:
            mode, names = "ANY", [wanted.function.name]
        elif wanted.type == "allowed_tools" and wanted.allowed_tools is not None:
            # VALIDATED: text or a call of one of these, which AUTO cannot be held to.
            mode = "ANY" if wanted.allowed_tools.mode == "required" else "VALIDATED"
            names = [tool.function.name for tool in wanted.allowed_tools.tools]
        else:
            raise LineRefused(f'has a tool_choice of the type "{wanted.type}"{_ADVICE}', "tool_choice")
        for name in names:
            if tools is None or name not in tools.names:
                raise LineRefused(f'has the tool_choice "{name}", which none of its tools is', "tool_choice")
        return {"functionCallingConfig": {"mode": mode, "allowedFunctionNames": names}}

    def _mapped_tools(self, raw: bytes) -> Tools | None:
        functions: list[_Function] = []
        for tool in _decoded(_decode_tools, raw, "tools"):
            if tool.type != "function" or tool.function is None:
                raise LineRefused(f'has a tool of the type "{tool.type}"{_ADVICE}', "tools")
            functions.append(tool.function)
        if not functions:
            return None
        declared = [self._declared(function) for function in functions]
        return Tools(
            msgspec.Raw(msgspec.json.encode([{"functionDeclarations": declared}])),
            frozenset(function.name for function in functions),
            any(function.strict for function in functions),
        )

    def _declared(self, function: _Function) -> dict[str, object]:
        """A schema that is not strict only describes, so it goes as it is."""
        declared: dict[str, object] = {"name": function.name}
        if function.description:
            declared["description"] = function.description
        if function.parameters:
            declared["parametersJsonSchema"] = (
                supported_schema(function.parameters, "tools", self._drop_params)
                if function.strict
                else function.parameters
            )
        return declared

    def _mapped_format(self, raw: bytes) -> dict[str, object]:
        wanted = _decoded(_decode_format, raw, "response_format")
        if wanted.type == "text":
            return {}
        if wanted.type == "json_object":
            return {"responseMimeType": "application/json"}
        if wanted.type != "json_schema" or wanted.json_schema is None or wanted.json_schema.schema is None:
            refuse_unless_dropped(
                "response_format",
                f'has a response_format of the type "{wanted.type}" that Gemini cannot do; it can be text, '
                "json_object, or json_schema with a schema",
                self._drop_params,
            )
            return {}
        # Its name is a mere label, and Gemini is always strict.
        schema = supported_schema(wanted.json_schema.schema, "response_format", self._drop_params)
        if wanted.json_schema.description and "$ref" not in schema:
            schema.setdefault("description", wanted.json_schema.description)
        return {
            "responseMimeType": "application/json",
            "responseJsonSchema": msgspec.Raw(msgspec.json.encode(schema)),
        }


def _decoded(decode: Any, raw: bytes, param: str) -> Any:
    try:
        return decode(raw)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise LineRefused(f"has {param} that OpenAI would not take either: {error}", param) from None
