"""JSON as Google's services read it: names in camelCase or snake_case, ``null`` for what is not there, and nothing that
they do not know.

The tables are of ``google.cloud.aiplatform.v1`` (its discovery document of 2026-11-06), as far as the server looks into
a message; deeper messages, and those with keys of the caller's own, are taken as they are.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

Json = dict[str, Any]


class JsonFieldError(ValueError):
    """Raised when a message has what Google's service would not take; the message says what, in its words."""


_OPAQUE: Final = ""


def _fields(scalars: str, **messages: str) -> dict[str, str]:
    """The fields of a message, and the message in each; with ``*`` if it is a list of them."""
    return dict.fromkeys(scalars.split(), _OPAQUE) | messages


_SHAPES: Final[Mapping[str, Mapping[str, str]]] = {
    "GenerateContentRequest": _fields(
        "model cachedContent labels safetySettings modelArmorConfig",
        contents="Content*",
        systemInstruction="Content",
        tools="Tool*",
        toolConfig="ToolConfig",
        generationConfig="GenerationConfig",
    ),
    "Content": _fields("role", parts="Part*"),
    "Part": _fields(
        "text thought thoughtSignature executableCode codeExecutionResult videoMetadata",
        inlineData="Blob",
        fileData="FileData",
        functionCall="FunctionCall",
        functionResponse="FunctionResponse",
        mediaResolution="MediaResolution",
    ),
    "Blob": _fields("mimeType data displayName"),
    "FileData": _fields("mimeType fileUri displayName"),
    "FunctionCall": _fields("id name args partialArgs willContinue"),
    "FunctionResponse": _fields("id name response parts willContinue scheduling"),
    "MediaResolution": _fields("level numTokens"),
    "Tool": _fields(
        "retrieval googleSearch googleSearchRetrieval googleMaps enterpriseWebSearch parallelAiSearch exaAiSearch "
        "codeExecution urlContext computerUse",
        functionDeclarations="FunctionDeclaration*",
    ),
    "FunctionDeclaration": _fields("name description parameters parametersJsonSchema response responseJsonSchema"),
    "ToolConfig": _fields("retrievalConfig", functionCallingConfig="FunctionCallingConfig"),
    "FunctionCallingConfig": _fields("mode allowedFunctionNames streamFunctionCallArguments"),
    "GenerationConfig": _fields(
        "temperature topP topK candidateCount maxOutputTokens stopSequences responseLogprobs logprobs presencePenalty "
        "frequencyPenalty seed responseMimeType responseSchema responseJsonSchema routingConfig audioTimestamp "
        "responseModalities mediaResolution speechConfig imageConfig enableAffectiveDialog modelConfig",
        thinkingConfig="ThinkingConfig",
    ),
    "ThinkingConfig": _fields("includeThoughts thinkingBudget thinkingLevel"),
    "BatchPredictionJob": _fields(
        "name displayName model modelVersionId instanceConfig modelParameters serviceAccount dedicatedResources "
        "manualBatchTuningParameters generateExplanation explanationSpec outputInfo state error partialFailures "
        "resourcesConsumed completionStats createTime startTime endTime updateTime labels encryptionSpec "
        "modelMonitoringConfig modelMonitoringStatsAnomalies modelMonitoringStatus disableContainerLogging "
        "satisfiesPzs satisfiesPzi unmanagedContainerModel",
        inputConfig="InputConfig",
        outputConfig="OutputConfig",
    ),
    "InputConfig": _fields("instancesFormat bigquerySource vertexMultimodalDatasetSource", gcsSource="GcsSource"),
    "GcsSource": _fields("uris"),
    "OutputConfig": _fields(
        "predictionsFormat bigqueryDestination vertexMultimodalDatasetDestination", gcsDestination="GcsDestination"
    ),
    "GcsDestination": _fields("outputUriPrefix"),
}
_UNDERSCORE: Final = re.compile("_([a-z0-9])")


def camel_case(name: str) -> str:
    return _UNDERSCORE.sub(lambda found: found[1].upper(), name)


def message(name: str, given: object, path: str = "") -> Json:
    """A message with its fields in camelCase, and without those that are ``null``.

    :param name: Of the message, such as ``GenerateContentRequest``.
    :raises JsonFieldError: It is no object, has a field that is unknown or there twice, or one of another kind.
    """
    shape = _SHAPES[name]
    where = f" at '{path}'" if path else ""
    if not isinstance(given, dict):
        raise JsonFieldError(f"Invalid value{where}: an object was expected.")
    read: Json = {}
    for spelled, value in given.items():
        field = camel_case(spelled)
        if field not in shape:
            raise JsonFieldError(f'Invalid JSON payload received. Unknown name "{spelled}"{where}: Cannot find field.')
        if field in read:
            raise JsonFieldError(f'Invalid JSON payload received. The field "{field}"{where} is there twice.')
        if value is not None:
            read[field] = _value(shape[field], value, f"{path}.{spelled}".lstrip("."))
    return read


def _value(kind: str, value: object, path: str) -> object:
    if kind == _OPAQUE:
        return value
    if not kind.endswith("*"):
        return message(kind, value, path)
    # One message in the place of a list of them: Google's parsers take that, and its own samples do it.
    given = value if isinstance(value, list) else [value]
    return [message(kind[:-1], each, f"{path}[{index}]") for index, each in enumerate(given)]


_PART_KINDS: Final = ("text", "inlineData", "fileData", "functionCall", "functionResponse")


def normalised(request: Json) -> Json:
    """A ``GenerateContentRequest`` as the service echoes it: with nulls, and with defaults (seen in its outputs)."""
    contents = [
        {"parts": [_with_nulls(part) for part in content.get("parts", ())], "role": content.get("role", "user")}
        for content in request.get("contents", ())
    ]
    config = request.get("generationConfig", {})
    return {**request, "contents": contents, "generationConfig": {"candidateCount": 1, **config}}


def _with_nulls(part: Json) -> Json:
    return {kind: part.get(kind) for kind in _PART_KINDS} | part
