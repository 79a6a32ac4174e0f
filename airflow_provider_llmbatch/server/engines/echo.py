"""Deterministic answers for tests: the same request, the same answer. Tokens are words, counted."""

from __future__ import annotations

import base64
import hashlib
import struct
import zlib
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
_CATEGORIES: Final = (
    *("harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm"),
    *("self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors", "violence", "violence/graphic"),
)

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


def _embedding(body: _Json, _request_id: str) -> _Json | Answer:
    texts = _inputs(body)
    if not texts:
        return refusal(400, "invalid_request", "Missing required parameter: 'input'.", "input")
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


def _moderation(body: _Json, request_id: str) -> _Json | Answer:
    """Flags what says that it wants to be flagged."""
    texts = _inputs(body)
    if not texts:
        return refusal(400, "invalid_request", "Missing required parameter: 'input'.", "input")
    return {
        "id": f"modr-{request_id}",
        "model": body.get("model") or "echo",
        "results": [_verdict(flagged="flag me" in _text(text)) for text in texts],
    }


def _verdict(*, flagged: bool) -> _Json:
    return {
        "flagged": flagged,
        "categories": {category: flagged and category == "harassment" for category in _CATEGORIES},
        "category_scores": {category: float(flagged and category == "harassment") for category in _CATEGORIES},
        "category_applied_input_types": {category: ["text"] for category in _CATEGORIES},
    }


def _image(body: _Json, _request_id: str) -> _Json | Answer:
    """As many single dots as were asked for, in a colour made of the prompt."""
    prompt = body.get("prompt")
    if not isinstance(prompt, str) or not prompt:
        return refusal(400, "invalid_request", "Missing required parameter: 'prompt'.", "prompt")
    count = body.get("n") or 1
    if not isinstance(count, int) or not 1 <= count <= 10:
        return refusal(400, "invalid_request", "Invalid 'n': from 1 to 10.", "n")
    dot = base64.b64encode(_png(hashlib.sha256(prompt.encode()).digest()[:3])).decode()
    tokens = _words(prompt)
    return {
        "created": _CREATED,
        "data": [{"b64_json": dot}] * count,
        "output_format": "png",
        "usage": {
            "input_tokens": tokens,
            "input_tokens_details": {"text_tokens": tokens, "image_tokens": 0},
            "output_tokens": count,
            "total_tokens": tokens + count,
        },
    }


def _png(colour: bytes) -> bytes:
    """A picture of one pixel in RGB (PNG specification, sections 5 and 11)."""
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0" + colour)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


_ANSWERERS: Final = {
    "/v1/chat/completions": _chat,
    "/v1/completions": _completion,
    "/v1/embeddings": _embedding,
    "/v1/images/generations": _image,
    "/v1/moderations": _moderation,
    "/v1/responses": _response,
}


def _text(content: object) -> str:
    return content if isinstance(content, str) else msgspec.json.encode(content).decode()


def _inputs(body: _Json) -> list[object]:
    """What ``input`` holds: one text, one list of tokens, or a list of either."""
    given = body.get("input")
    if given is None:
        return []
    return given if isinstance(given, list) and not any(isinstance(each, int) for each in given) else [given]


def _words(text: str) -> int:
    return max(len(text.split()), 1)


def _usage(prompt: int, completion: int) -> _Json:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _vector(text: str) -> list[float]:
    return [round(byte / 255, 6) for byte in hashlib.sha256(text.encode()).digest()[:_DIMENSIONS]]
