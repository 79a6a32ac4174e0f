"""From an engine's chat completion to Gemini's answer, and to the line that Vertex AI writes of both."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import msgspec

from airflow_provider_llmbatch.server.google_json import JsonFieldError, message, normalised
from airflow_provider_llmbatch.server.google_refusals import GoogleError

if TYPE_CHECKING:
    from airflow_provider_llmbatch.models import ResultResponse
    from airflow_provider_llmbatch.server.google_json import Json

_FINISHES: Final = {"stop": "STOP", "tool_calls": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY"}
_BLOCKED: Final = "content_filter"
_encode = msgspec.json.Encoder().encode


def prediction(request: bytes, answer: ResultResponse, *, at: float) -> tuple[bytes, bool]:
    """A row of an output, and whether it counts as a success, which a request that was blocked does.

    :param request: As its caller sent it.
    :param answer: The engine's, to the chat completion that was made of it.
    :param at: When it came, in seconds since 1970.
    """
    body: Any = msgspec.json.decode(answer.body)
    status_code = answer.status_code or 200
    status = ""
    response: Json = {}
    if status_code < 400:
        response = response_of(body)
    elif (error := _error(body)).get("code") == _BLOCKED:
        response = _blocked(error)
    else:
        google = GoogleError(status_code, str(error.get("message", "The engine failed.")))
        status = f"{_phrase(status_code)}: {json.dumps(google.body(), ensure_ascii=False)}"
    row = {"status": status, "processed_time": _time(at), "request": _echo(request), "response": response}
    return _encode(row), not status


def _phrase(status_code: int) -> str:
    try:
        return HTTPStatus(status_code).phrase
    except ValueError:
        return "Error"


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


def _echo(request: bytes) -> object:
    given = msgspec.json.decode(request)
    try:
        return normalised(message("GenerateContentRequest", given))
    except JsonFieldError:
        return given


def _error(body: object) -> Json:
    error = body.get("error") if isinstance(body, dict) else None
    return error if isinstance(error, dict) else {"message": str(body)}


def _blocked(error: Json) -> Json:
    """The prompt was not let through: no candidate, and only the prompt's tokens, which nobody counted here."""
    feedback = {"blockReason": "PROHIBITED_CONTENT", "blockReasonMessage": str(error.get("message", ""))}
    return {"promptFeedback": feedback, "usageMetadata": {}}


def response_of(completion: Json) -> Json:
    """A ``GenerateContentResponse``."""
    fingerprint, answer_id = completion.get("system_fingerprint"), str(completion.get("id", ""))
    response: Json = {
        "candidates": [_candidate(choice) for choice in completion.get("choices", ())],
        "modelVersion": str(completion.get("model", "")),
        # Of OpenAI's fields the fingerprint alone tells an engine for tests from a model, and Gemini has none.
        "responseId": "-".join(filter(None, (fingerprint, answer_id.removeprefix("chatcmpl-")))),
        "usageMetadata": _usage(completion.get("usage") or {}),
    }
    if created := completion.get("created"):
        response["createTime"] = datetime.fromtimestamp(created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return response


def _candidate(choice: Json) -> Json:
    said = choice.get("message") or {}
    parts: list[Json] = []
    if thought := said.get("reasoning_content") or said.get("reasoning"):
        parts.append({"text": thought, "thought": True})
    if text := said.get("content") or said.get("refusal"):
        parts.append({"text": text})
    parts += [{"functionCall": _call(call["function"])} for call in said.get("tool_calls") or ()]
    content: Json = {"role": "model"} | ({"parts": parts} if parts else {})
    candidate: Json = {"content": content, "finishReason": _FINISHES.get(choice.get("finish_reason") or "", "OTHER")}
    if index := choice.get("index"):
        candidate["index"] = index
    if logprobs := (choice.get("logprobs") or {}).get("content"):
        candidate |= _logprobs(logprobs)
    return candidate


def _call(function: Json) -> Json:
    """Without an id, as Vertex AI sends it; arguments that are no object go into one."""
    try:
        arguments = json.loads(function.get("arguments") or "{}")
    except ValueError:
        arguments = function["arguments"]
    return {"name": function["name"], "args": arguments if isinstance(arguments, dict) else {"arguments": arguments}}


def _logprobs(content: list[Json]) -> Json:
    chosen = [_token(each) for each in content]
    top = [{"candidates": [_token(each) for each in token.get("top_logprobs", ())]} for token in content]
    average = math.fsum(each["logProbability"] for each in chosen) / len(chosen)
    return {"avgLogprobs": average, "logprobsResult": {"chosenCandidates": chosen, "topCandidates": top}}


def _token(given: Json) -> Json:
    return {"token": given["token"], "logProbability": given["logprob"]}


def _usage(usage: Json) -> Json:
    """Gemini counts thoughts beside the tokens of the answer, OpenAI among them."""
    thoughts = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    prompt, answered = usage.get("prompt_tokens") or 0, (usage.get("completion_tokens") or 0) - thoughts
    counts = {
        "promptTokenCount": prompt,
        "candidatesTokenCount": answered,
        "thoughtsTokenCount": thoughts,
        "cachedContentTokenCount": cached,
        "totalTokenCount": prompt + answered + thoughts,
    }
    details: Json = {
        f"{kind}TokensDetails": [{"modality": "TEXT", "tokenCount": count}]
        for kind, count in (("prompt", prompt), ("candidates", answered), ("cache", cached))
        if count
    }
    return {name: count for name, count in counts.items() if count} | details
