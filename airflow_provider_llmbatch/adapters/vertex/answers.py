"""Gemini's answer as it comes, as far as it is read; anything else in it is skipped.

Everything may be absent or ``null``. Names are of REST; ``camel_case`` makes them of the snake case that some of
Google's own writers use (``google-genai``, BigQuery).
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec
from msgspec import Raw

ABSENT: Final = Raw(b"")


class _Wire(msgspec.Struct, gc=False, rename="camel"):
    pass


class Blob(_Wire, gc=False):
    mime_type: str | None = None
    data: str | None = None


class FunctionCall(_Wire, gc=False):
    name: str | None = None
    id: str | None = None
    args: Raw = ABSENT


class Part(_Wire, gc=False):
    text: str | None = None
    thought: bool | None = None
    function_call: FunctionCall | None = None
    inline_data: Blob | None = None
    thought_signature: str | None = None
    executable_code: Raw = ABSENT
    code_execution_result: Raw = ABSENT
    file_data: Raw = ABSENT
    function_response: Raw = ABSENT


class Content(_Wire, gc=False):
    parts: list[Part] | None = None


class Token(_Wire, gc=False):
    token: str | None = None
    log_probability: float | None = None


class TopTokens(_Wire, gc=False):
    candidates: list[Token] | None = None


class Logprobs(_Wire, gc=False):
    chosen_candidates: list[Token] | None = None
    top_candidates: list[TopTokens] | None = None


class Candidate(_Wire, gc=False):
    index: int | None = None
    content: Content | None = None
    finish_reason: str | int | None = None
    finish_message: str | None = None
    logprobs_result: Logprobs | None = None
    citation_metadata: Raw = ABSENT
    grounding_metadata: Raw = ABSENT
    url_context_metadata: Raw = ABSENT


class PromptFeedback(_Wire, gc=False):
    block_reason: str | int | None = None
    block_reason_message: str | None = None


class ModalityTokens(_Wire, gc=False):
    modality: str | int | None = None
    token_count: int | None = None


class Usage(_Wire, gc=False):
    prompt_token_count: int | None = None
    tool_use_prompt_token_count: int | None = None
    candidates_token_count: int | None = None
    thoughts_token_count: int | None = None
    cached_content_token_count: int | None = None
    prompt_tokens_details: list[ModalityTokens] | None = None
    candidates_tokens_details: list[ModalityTokens] | None = None


class Answer(_Wire, gc=False):
    candidates: list[Candidate] | None = None
    prompt_feedback: PromptFeedback | None = None
    usage_metadata: Usage | None = None
    model_version: str | None = None
    response_id: str | None = None
    create_time: str | None = None


# Not strict: protobuf writes large numbers as texts.
decode_answer = msgspec.json.Decoder(Answer, strict=False).decode

_word: Final = re.compile(r"_([a-z])")
_OWN_KEYS: Final = frozenset({"args"})  # the model's words, not Google's


def camel_case(value: Any) -> Any:
    """A whole answer with the keys of REST."""
    if isinstance(value, list):
        return [camel_case(each) for each in value]
    if isinstance(value, dict):
        return {
            _word.sub(lambda match: match[1].upper(), key): each if key in _OWN_KEYS else camel_case(each)
            for key, each in value.items()
        }
    return value
