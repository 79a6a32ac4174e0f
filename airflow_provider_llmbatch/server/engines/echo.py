"""Deterministic answers for tests: the same request, the same answer. Tokens are words, counted."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import msgspec
from typing_extensions import override

from airflow_provider_llmbatch.server.engines.base import Answer, Engine, refusal

if TYPE_CHECKING:
    from airflow_provider_llmbatch.models import RequestLine

FINGERPRINT: Final = "echo"
"""The ``system_fingerprint`` of every answer, so that nobody takes one for a model's."""

_CREATED: Final = 1_700_000_000
_DIMENSIONS: Final = 8

_Json = dict[str, object]


class EchoEngine(Engine):
    """Answers with the last thing that was said to it, for any model."""

    @override
    async def answer(self, request: RequestLine) -> Answer:
        answerer = _ANSWERERS.get(request.url)
        if answerer is None:
            return refusal(400, "unsupported_endpoint", f"The engine echo does not answer {request.url}.")
        try:
            body = msgspec.json.decode(request.body, type=_Json)
        except msgspec.MsgspecError as error:
            return refusal(400, "invalid_request", f"The body is no JSON object: {error}")
        answer = answerer(body, hashlib.sha256(request.body).hexdigest()[:24])
        return answer if isinstance(answer, Answer) else Answer(200, msgspec.json.encode(answer))


def _chat(body: _Json, request_id: str) -> _Json | Answer:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        return refusal(400, "invalid_request", "Missing required parameter: 'messages'.", "messages")
    said = _text(messages[-1].get("content") if isinstance(messages[-1], dict) else messages[-1])
    return {
        "id": f"chatcmpl-{request_id}",
        "object": "chat.completion",
        "created": _CREATED,
        "model": body.get("model") or "echo",
        "system_fingerprint": FINGERPRINT,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": said, "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": _usage(sum(_words(_text(m)) for m in messages), _words(said)),
    }


def _completion(body: _Json, request_id: str) -> _Json:
    prompt = _text(body.get("prompt"))
    return {
        "id": f"cmpl-{request_id}",
        "object": "text_completion",
        "created": _CREATED,
        "model": body.get("model") or "echo",
        "system_fingerprint": FINGERPRINT,
        "choices": [{"index": 0, "text": prompt, "logprobs": None, "finish_reason": "stop"}],
        "usage": _usage(_words(prompt), _words(prompt)),
    }


def _embedding(body: _Json, _request_id: str) -> _Json:
    given = body.get("input")
    texts = given if isinstance(given, list) else [given]
    tokens = sum(_words(_text(text)) for text in texts)
    return {
        "object": "list",
        "model": body.get("model") or "echo",
        "data": [{"object": "embedding", "index": i, "embedding": _vector(_text(t))} for i, t in enumerate(texts)],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _response(body: _Json, request_id: str) -> _Json:
    said = _text(body.get("input"))
    count = _words(said)
    return {
        "id": f"resp_{request_id}",
        "object": "response",
        "created_at": _CREATED,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "model": body.get("model") or "echo",
        "output": [
            {
                "id": f"msg_{request_id}",
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": said, "annotations": []}],
            }
        ],
        "usage": {
            "input_tokens": count,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": count,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 2 * count,
        },
    }


_ANSWERERS: Final = {
    "/v1/chat/completions": _chat,
    "/v1/completions": _completion,
    "/v1/embeddings": _embedding,
    "/v1/responses": _response,
}


def _text(content: object) -> str:
    return content if isinstance(content, str) else msgspec.json.encode(content).decode()


def _words(text: str) -> int:
    return max(len(text.split()), 1)


def _usage(prompt: int, completion: int) -> _Json:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _vector(text: str) -> list[float]:
    return [round(byte / 255, 6) for byte in hashlib.sha256(text.encode()).digest()[:_DIMENSIONS]]
