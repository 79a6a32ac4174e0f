"""From a Gemini request (``GenerateContent`` of Vertex AI's REST API v1) to OpenAI's chat completion, for engines.

The server's own mapping, which must not lean on that of the package's adapter: each proves the other.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import msgspec
from typing_extensions import override

from airflow_provider_llmbatch.server.engines.base import Answer, Engine, refusal
from airflow_provider_llmbatch.server.google_json import JsonFieldError, message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_provider_llmbatch.models import Batch, BatchError, RequestLine
    from airflow_provider_llmbatch.server.google_json import Json

_SAMPLING: Final = {
    "temperature": "temperature",
    "topP": "top_p",
    "topK": "top_k",  # not OpenAI's, but of most servers of open models
    "candidateCount": "n",
    "maxOutputTokens": "max_tokens",
    "stopSequences": "stop",
    "responseLogprobs": "logprobs",
    "logprobs": "top_logprobs",
    "presencePenalty": "presence_penalty",
    "frequencyPenalty": "frequency_penalty",
    "seed": "seed",
}
_MODES: Final = {"AUTO": "auto", "NONE": "none", "ANY": "required", "VALIDATED": "auto", "MODE_UNSPECIFIED": "auto"}
_DETAILS: Final = {"MEDIA_RESOLUTION_LOW": "low", "MEDIA_RESOLUTION_HIGH": "high"}
_BUDGETS: Final = ((0, "none"), (1_024, "low"), (8_192, "medium"))
_MOST_STOPS: Final = 5


class RequestRefusedError(ValueError):
    """Raised when a request is one that the service, or this server, does not answer; the message says why."""


class GeminiEngine(Engine):
    """An engine that is asked in Gemini's words, and answers in OpenAI's.

    :param engine: Answers chat completions.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.model = engine.model

    @override
    async def start(self) -> None:
        await self._engine.start()

    @override
    async def stop(self) -> None:
        await self._engine.stop()

    @override
    async def answer(self, request: RequestLine) -> Answer:
        asked = _asked(request)
        return asked if isinstance(asked, Answer) else await self._engine.answer(asked)

    @override
    async def answer_while(self, request: RequestLine, wanted: Callable[[], bool]) -> Answer | None:
        asked = _asked(request)
        return asked if isinstance(asked, Answer) else await self._engine.answer_while(asked, wanted)

    @override
    def objection(self, batch: Batch, model: str | None) -> BatchError | None:
        return self._engine.objection(batch, model)

    @override
    def ends_early(self, batch: Batch, answered: int) -> bool:
        return self._engine.ends_early(batch, answered)


def _asked(request: RequestLine) -> RequestLine | Answer:
    """The chat completion, or why there is none."""
    body = msgspec.json.decode(request.body, type=dict[str, Any])
    try:
        chat = chat_of(message("GenerateContentRequest", body["request"]), body["model"])
    except (JsonFieldError, RequestRefusedError) as error:
        return refusal(400, "invalid_request", str(error))
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # a value of another kind than its field's
        return refusal(400, "invalid_request", f"Invalid value in the request ({type(error).__name__}: {error}).")
    return msgspec.structs.replace(request, body=msgspec.Raw(msgspec.json.encode(chat)))


def chat_of(request: Json, model: str) -> Json:
    """The body of a chat completion.

    :param request: A ``GenerateContentRequest`` with camelCase names.
    :raises RequestRefusedError: It cannot be answered.
    """
    contents = request.get("contents", ())
    if not contents:
        raise RequestRefusedError("Unable to submit request because at least one contents field is required.")
    if request.get("cachedContent"):
        raise RequestRefusedError("Explicit caching is not supported in batch prediction.")
    config = request.get("generationConfig", {})
    messages = [*_system(request.get("systemInstruction")), *_Conversation(_detail(config)).messages(contents)]
    chat: Json = {"model": model, "messages": messages}
    chat |= {name: config[field] for field, name in _SAMPLING.items() if field in config}
    if len(config.get("stopSequences", ())) > _MOST_STOPS:
        raise RequestRefusedError(f"At most {_MOST_STOPS} stopSequences are allowed.")
    return chat | _format(config) | _effort(config.get("thinkingConfig", {})) | _tools(request)


def _detail(config: Json) -> str | None:
    return _DETAILS.get(config.get("mediaResolution", ""))


def _system(instruction: Json | None) -> Iterator[Json]:
    if instruction is not None:
        yield {"role": "system", "content": "\n".join(part.get("text", "") for part in instruction.get("parts", ()))}


class _Conversation:
    """Turns contents into messages. Calls of functions get ids, by which their results name them."""

    def __init__(self, detail: str | None) -> None:
        self._detail = detail
        self._open: list[tuple[str, str]] = []  # name and id of calls without a result so far
        self._calls = 0

    def messages(self, contents: list[Json]) -> Iterator[Json]:
        for content in contents:
            role, parts = content.get("role", "user"), content.get("parts", ())
            if not parts or not all(_is_filled(part) for part in parts):
                raise RequestRefusedError(
                    "Unable to submit request because it must have a text parameter, or another one that is not empty."
                )
            if role == "model":
                yield self._assistant(parts)
            elif role in ("user", "function", "tool"):
                yield from self._user(parts)
            else:
                raise RequestRefusedError("Please use a valid role: user, model.")

    def _assistant(self, parts: list[Json]) -> Json:
        said = "".join(part["text"] for part in parts if "text" in part and not part.get("thought"))
        calls = [self._call(part["functionCall"]) for part in parts if "functionCall" in part]
        return {"role": "assistant", "content": said or None} | ({"tool_calls": calls} if calls else {})

    def _call(self, call: Json) -> Json:
        self._calls += 1
        call_id = call.get("id") or f"call_{self._calls}"
        self._open.append((call["name"], call_id))
        return {
            "id": call_id,
            "type": "function",
            "function": {"name": call["name"], "arguments": json.dumps(call.get("args", {}), ensure_ascii=False)},
        }

    def _user(self, parts: list[Json]) -> Iterator[Json]:
        results = [part["functionResponse"] for part in parts if "functionResponse" in part]
        for result in results:
            text = json.dumps(result.get("response", {}), ensure_ascii=False)
            yield {"role": "tool", "tool_call_id": self._answered(result), "content": text}
        said = [self._part(part) for part in parts if "functionResponse" not in part]
        if len(said) == 1 and said[0]["type"] == "text":
            yield {"role": "user", "content": said[0]["text"]}
        elif said:
            yield {"role": "user", "content": said}

    def _answered(self, result: Json) -> str:
        for place, (name, call_id) in enumerate(self._open):
            if result.get("id", call_id) == call_id and result.get("name") == name:
                del self._open[place]
                return call_id
        raise RequestRefusedError(
            "Please ensure that function response turn comes immediately after a function call turn."
        )

    def _part(self, part: Json) -> Json:
        if "text" in part:
            return {"type": "text", "text": part["text"]}
        if "inlineData" in part:
            return self._media(f"data:{_kind(part['inlineData'])};base64,{part['inlineData'].get('data', '')}")
        if "fileData" in part:
            _kind(part["fileData"])
            return self._media(part["fileData"].get("fileUri", ""))
        raise RequestRefusedError(f"This server cannot ask its engine with a part of the kind {', '.join(part)}.")

    def _media(self, url: str) -> Json:
        if url.startswith("data:audio/"):
            kind, _, data = url.removeprefix("data:audio/").partition(";base64,")
            return {"type": "input_audio", "input_audio": {"data": data, "format": kind}}
        if url.startswith("data:application/"):
            return {"type": "file", "file": {"file_data": url}}
        return {"type": "image_url", "image_url": {"url": url} | ({"detail": self._detail} if self._detail else {})}


def _is_filled(part: Json) -> bool:
    return any(part.get(kind) for kind in ("text", "inlineData", "fileData", "functionCall", "functionResponse"))


def _kind(data: Json) -> str:
    kind: str = data.get("mimeType", "")
    if not kind:
        raise RequestRefusedError("Unable to submit request because it has a mimeType parameter with an empty value.")
    return kind


def _format(config: Json) -> Json:
    if unknown := [name for name in config.get("responseModalities", ()) if name != "TEXT"]:
        raise RequestRefusedError(f"This server's engine does not answer in the modality {unknown[0]}.")
    schemas = [name for name in ("responseJsonSchema", "responseSchema") if name in config]
    if len(schemas) > 1:
        raise RequestRefusedError("Only one of responseSchema and responseJsonSchema may be set.")
    if config.get("responseMimeType", "text/plain") != "application/json":
        if schemas:
            raise RequestRefusedError(f"{schemas[0]} needs the responseMimeType application/json.")
        return {}
    if not schemas:
        return {"response_format": {"type": "json_object"}}
    schema = config[schemas[0]]
    wanted = {"name": "response", "schema": schema if schemas[0] == "responseJsonSchema" else json_schema(schema)}
    return {"response_format": {"type": "json_schema", "json_schema": {**wanted, "strict": True}}}


def json_schema(schema: object) -> object:
    """Vertex AI's subset of OpenAPI's schema objects, as JSON Schema: its types are written in capitals."""
    if isinstance(schema, list):
        return [json_schema(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    read: Json = {}
    for name, value in schema.items():
        if name in ("properties", "defs"):
            read[name] = {key: json_schema(each) for key, each in value.items()}
        elif name == "type" and isinstance(value, str):
            read[name] = value.lower()
        elif name in ("items", "anyOf"):
            read[name] = json_schema(value)
        elif name not in ("propertyOrdering", "nullable", "example"):
            read[name] = value
    if schema.get("nullable") and "type" in read:
        read["type"] = [read["type"], "null"]
    return read


def _effort(thinking: Json) -> Json:
    if "thinkingLevel" in thinking and "thinkingBudget" in thinking:
        raise RequestRefusedError("You can only set only one of thinking budget and thinking level.")
    if level := thinking.get("thinkingLevel"):
        return {"reasoning_effort": str(level).lower()}
    budget = thinking.get("thinkingBudget", -1)
    if budget < 0:
        return {}
    return {"reasoning_effort": next((word for most, word in _BUDGETS if budget <= most), "high")}


def _tools(request: Json) -> Json:
    declared: list[Json] = []
    for tool in request.get("tools", ()):
        if foreign := [kind for kind in tool if kind != "functionDeclarations"]:
            raise RequestRefusedError(f"This server's engine has no tool {foreign[0]}.")
        declared += tool.get("functionDeclarations", ())
    config = request.get("toolConfig", {}).get("functionCallingConfig", {})
    allowed = config.get("allowedFunctionNames", [])
    mode = config.get("mode", "AUTO")
    if mode not in _MODES or (allowed and mode not in ("ANY", "VALIDATED")):
        raise RequestRefusedError(f"allowedFunctionNames and the mode {mode} do not go together.")
    if not declared:
        return {}
    tools = [_tool(each) for each in declared if not allowed or each["name"] in allowed]
    choice: object = _MODES[mode]
    if mode == "ANY" and len(allowed) == 1:
        choice = {"type": "function", "function": {"name": allowed[0]}}
    return {"tools": tools, "tool_choice": choice}


def _tool(declared: Json) -> Json:
    if "parameters" in declared and "parametersJsonSchema" in declared:
        raise RequestRefusedError("Only one of parameters and parametersJsonSchema may be set.")
    function: Json = {name: declared[name] for name in ("name", "description") if name in declared}
    if "parametersJsonSchema" in declared:
        function["parameters"] = declared["parametersJsonSchema"]
    elif "parameters" in declared:
        function["parameters"] = json_schema(declared["parameters"])
    return {"type": "function", "function": function}
