"""One candidate of Gemini's as one choice of OpenAI's.

What OpenAI has no field for stands beside the rest, under names that others use for it: ``reasoning_content``
(thoughts), ``images`` and ``files`` (with data URIs), ``native_finish_reason``, and a call's
``extra_content.google.thought_signature``, which Gemini 3 wants back; and under Gemini's own, in snake case
(``citation_metadata``). Scores, safety ratings and the signatures of other parts are left out.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final
from uuid import NAMESPACE_OID, uuid5

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from airflow_provider_llmbatch.adapters.vertex.answers import (
        Blob,
        Candidate,
        FunctionCall,
        Logprobs,
        Part,
        Token,
    )

Json = dict[str, object]

BLOCKED: Final = "content_filter"
_FINISH: Final[Mapping[str, str]] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    **dict.fromkeys(
        (
            *("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "LANGUAGE", "IMAGE_SAFETY"),
            *("IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "MODEL_ARMOR", "JAILBREAK"),
        ),
        BLOCKED,
    ),
}
_REASONS: Final = (
    *("FINISH_REASON_UNSPECIFIED", "STOP", "MAX_TOKENS", "SAFETY", "RECITATION", "OTHER", "BLOCKLIST"),
    *("PROHIBITED_CONTENT", "SPII", "MALFORMED_FUNCTION_CALL", "MODEL_ARMOR"),
)
"""The numbers of ``aiplatform_v1``'s enum; protobuf's JSON writes a number for a word that it does not know."""

_ORDINARY: Final = frozenset({"STOP", "MAX_TOKENS"})
_UNSPECIFIED: Final = "FINISH_REASON_UNSPECIFIED"
_LEAST_LOGPROB: Final = -9999.0  # OpenAI's own word for "so unlikely that it has no number"
_METADATA: Final = ("citation_metadata", "grounding_metadata", "url_context_metadata")
_OTHER_PARTS: Final = ("executable_code", "code_execution_result", "file_data", "function_response")


def native_reason(candidate: Candidate) -> str:
    """Gemini's word for why it ended; the set is open."""
    reason = candidate.finish_reason
    if isinstance(reason, int):
        return _REASONS[reason] if 0 <= reason < len(_REASONS) else f"FINISH_REASON_{reason}"
    return reason or _UNSPECIFIED


def finish_reason(native: str) -> str:
    """OpenAI's word. One that is neither an end, a limit nor a block is ``stop``."""
    return _FINISH.get(native, "stop")


def is_ordinary(native: str) -> bool:
    """Whether it explains an empty answer as one that was meant to be empty, or was cut off by its limit."""
    return native in _ORDINARY or native == _UNSPECIFIED


def choice_of(candidate: Candidate, position: int, custom_id: str, created: int) -> tuple[Json, bool]:
    """A choice, and whether there is an answer in it; thoughts alone are none.

    :param custom_id: Makes the ids of calls, where Gemini sends none: the same each time that a file is read.
    :param created: When the answer was made, in seconds since 1970.
    """
    native = native_reason(candidate)
    reason = _FINISH.get(native, "stop")
    parts = candidate.content.parts if candidate.content else None
    if parts and len(parts) == 1 and (text := parts[0].text) is not None and not parts[0].thought:
        message: Json = {"role": "assistant", "content": text, "refusal": None}
    else:
        message = _Message(f"{custom_id}/{position}", created).of(parts or (), blocked=reason == BLOCKED)
        if reason == "stop" and "tool_calls" in message:
            reason = "tool_calls"
    index = candidate.index
    choice: Json = {
        "index": position if index is None else index,
        "message": message,
        "logprobs": _logprobs(candidate.logprobs_result) if candidate.logprobs_result else None,
        "finish_reason": reason,
    }
    if native not in _ORDINARY:
        choice["native_finish_reason"] = native
        if candidate.finish_message:
            choice["native_finish_message"] = candidate.finish_message
    for name in _METADATA:
        if raw := getattr(candidate, name):
            choice[name] = raw
    return choice, bool(message["content"]) or len(message) > (4 if "reasoning_content" in message else 3)


class _Message:
    def __init__(self, seed: str, created: int) -> None:
        self._seed = seed
        self._created = created
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._calls: list[Json] = []
        self._audio: Json | None = None
        self._more: dict[str, list[object]] = {}

    def of(self, parts: Iterable[Part], *, blocked: bool) -> Json:
        for part in parts:
            if part.text is not None:
                (self._thoughts if part.thought else self._texts).append(part.text)
            if part.function_call is not None:
                self._calls.append(self._call(part.function_call, part.thought_signature))
            if part.inline_data is not None:
                self._keep(part.inline_data)
            for name in _OTHER_PARTS:
                if raw := getattr(part, name):
                    self._more.setdefault("vertex_parts", []).append({name: raw})
        silent = self._calls or self._audio or self._more or blocked
        content = "".join(self._texts) if self._texts else None if silent else ""
        message: Json = {"role": "assistant", "content": content, "refusal": None}
        if self._thoughts:
            message["reasoning_content"] = "".join(self._thoughts)
        if self._calls:
            message["tool_calls"] = self._calls
        if self._audio:
            message["audio"] = self._audio
        return message | self._more

    def _call(self, call: FunctionCall, signature: str | None) -> Json:
        arguments = bytes(call.args).decode() if call.args else "{}"
        mapped: Json = {
            "id": call.id or f"call_{self._uuid(len(self._calls))}",
            "type": "function",
            "function": {"name": call.name or "", "arguments": "{}" if arguments == "null" else arguments},
        }
        if signature:
            mapped["extra_content"] = {"google": {"thought_signature": signature}}
        return mapped

    def _keep(self, blob: Blob) -> None:
        kind, data = blob.mime_type or "application/octet-stream", blob.data or ""
        uri = f"data:{kind};base64,{data}"
        if kind.startswith("image/"):
            self._more.setdefault("images", []).append({"type": "image_url", "image_url": {"url": uri}})
        elif kind.startswith("audio/") and self._audio is None:
            # It is all here, so it never expires, and there is no transcript of it.
            self._audio = {
                "id": f"audio_{self._uuid('audio')}",
                "data": data,
                "expires_at": self._created,
                "transcript": "",
            }
        else:
            self._more.setdefault("files", []).append({"type": "file", "file": {"file_data": uri}})

    def _uuid(self, what: object) -> str:
        return uuid5(NAMESPACE_OID, f"{self._seed}/{what}").hex


def _logprobs(found: Logprobs) -> Json:
    tops = found.top_candidates or []
    content = []
    for index, chosen in enumerate(found.chosen_candidates or ()):
        candidates = tops[index].candidates if index < len(tops) else None
        content.append(_token(chosen) | {"top_logprobs": [_token(each) for each in candidates or ()]})
    return {"content": content, "refusal": None}


def _token(token: Token) -> Json:
    """``bytes`` is null: Gemini sends text only, which a piece of a character may not even be."""
    logprob = token.log_probability
    if logprob is None:
        logprob = 0.0  # protobuf leaves zeros out
    elif not math.isfinite(logprob):
        logprob = _LEAST_LOGPROB
    return {"token": token.token or "", "logprob": logprob, "bytes": None}
