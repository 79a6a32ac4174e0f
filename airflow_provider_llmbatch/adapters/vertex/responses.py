"""From a line of Gemini's to a result line of OpenAI's: pure, and no answer that was paid for is lost.

One line makes one result: an answer (status code 200), a failure with Google's own code and words, or a block, which is
the error ``content_filter`` beside the answer that there is, since its tokens are billed. Fields that nobody knows yet
are skipped, and words of an open set (finish reasons) are kept as ``native_finish_reason``.

A hot path: one line takes some ten microseconds.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import NAMESPACE_OID, uuid5

import msgspec
from msgspec import Raw

from airflow_provider_llmbatch.adapters.vertex.answers import ABSENT, Answer, camel_case, decode_answer
from airflow_provider_llmbatch.adapters.vertex.choices import (
    BLOCKED,
    choice_of,
    finish_reason,
    is_ordinary,
    native_reason,
)
from airflow_provider_llmbatch.adapters.vertex.failures import Failure, failure_of_status
from airflow_provider_llmbatch.adapters.vertex.labels import id_of_labels

if TYPE_CHECKING:
    from airflow_provider_llmbatch.adapters.vertex.answers import ModalityTokens, PromptFeedback, Usage

Json = dict[str, object]


class _Request(msgspec.Struct, gc=False):
    labels: dict[str, str | None] | None = None


class _Line(msgspec.Struct, gc=False):
    request: _Request | str | None = None  # BigQuery writes it as a text
    status: Raw = ABSENT
    response: Raw = ABSENT
    processed_time: Any = None


class _IdOnly(msgspec.Struct, gc=False):
    request: _Request | str | None = None


_decode_line = msgspec.json.Decoder(_Line).decode
_decode_id = msgspec.json.Decoder(_IdOnly).decode
_decode_request = msgspec.json.Decoder(_Request).decode
_TOO_DEEP: Final = "it is nested too deeply to be read"
_IMAGE: Final = ("IMAGE", 2)
_AUDIO: Final = ("AUDIO", 4)
_NO_BLOCK: Final = (None, "", 0, "BLOCKED_REASON_UNSPECIFIED")  # writers of defaults send the last one
_has_snake_case = re.compile(
    rb'"(?:usage_metadata|prompt_feedback|model_version|response_id|create_time|logprobs_result|function_call)"\s*:'
).search
_encode = msgspec.json.Encoder().encode


def custom_id_of(line: bytes) -> str:
    """Whose line it is, of an input or an output file in Vertex's own format.

    :raises ValueError: It names no request, or is no JSON.
    """
    try:
        return _id_of(_decode_id(line).request)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None


def result_line(line: bytes, *, model: str = "") -> bytes:
    """OpenAI's result line, without a line end.

    :param model: What to call the model of an answer that does not name it.
    :raises ValueError: It names no request, or is no JSON.
    """
    try:
        try:
            return _result_line(line, model)
        except msgspec.ValidationError:
            raise
        except (msgspec.DecodeError, UnicodeDecodeError):
            return _result_line(_mended(line), model)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None


def _result_line(line: bytes, model: str) -> bytes:
    found = _decode_line(line)
    custom_id = _id_of(found.request)
    failure = failure_of_status(bytes(found.status))
    if failure:
        return _encode(_failed(custom_id, failure))
    try:
        answer = _answer_of(found.response)
    except msgspec.ValidationError as error:
        words = f"The answer, which is kept as it came, is not made as Gemini's should be: {error}"
        failed = _failed(custom_id, Failure("unreadable_result", words, None))
        return _encode(failed | {"response": {"status_code": None, "request_id": None, "body": found.response}})
    if answer is None:
        return _encode(_failed(custom_id, Failure("no_response", "The row has neither an answer nor an error.", None)))
    return _encode(_answered(custom_id, answer, model, found.processed_time))


def _id_of(request: _Request | str | None) -> str:
    if isinstance(request, str):
        request = _decode_request(request)
    return id_of_labels((request and request.labels) or {})


def _answer_of(raw: Raw) -> Answer | None:
    content = bytes(raw)
    if content in (b"", b"null", b"{}"):
        return None
    answer = decode_answer(content)
    if (answer.usage_metadata is None and _has_snake_case(content)) or b'"finish_reason"' in content:
        return decode_answer(_encode(camel_case(msgspec.json.decode(content))))
    return answer


def _answered(custom_id: str, answer: Answer, model: str, processed: Any) -> Json:
    created = _seconds(answer.create_time) or _seconds(processed)
    found = [choice_of(each, position, custom_id, created) for position, each in enumerate(answer.candidates or ())]
    choices = [choice for choice, _ in found]
    error = None if any(says_something for _, says_something in found) else _silence(answer)
    if not choices and error and error["code"] == BLOCKED:
        choices = [_blocked_choice()]
    body: Json = {
        "id": answer.response_id or f"chatcmpl-{uuid5(NAMESPACE_OID, custom_id).hex}",
        "object": "chat.completion",
        "created": created,
        "model": answer.model_version.partition("@")[0] if answer.model_version else model,
        "choices": choices,
    }
    if answer.usage_metadata is not None:
        body["usage"] = _usage(answer.usage_metadata)
    return {
        "id": f"batch_req_{answer.response_id}" if answer.response_id else _row_id(custom_id),
        "custom_id": custom_id,
        "response": {"status_code": 200, "request_id": answer.response_id or None, "body": body},
        "error": error,
    }


def _silence(answer: Answer) -> Json | None:
    """Why nothing was said; ``None`` if that is an answer too: an empty one, or one that its limit cut off."""
    feedback = answer.prompt_feedback
    if feedback is not None and feedback.block_reason not in _NO_BLOCK:
        return {"code": BLOCKED, "message": f"Gemini blocked the prompt: {_block(feedback)}"}
    reasons = [native_reason(each) for each in answer.candidates or ()]
    if any(map(is_ordinary, reasons)):
        return None
    if not reasons:
        return {"code": "no_candidates", "message": "Gemini sent neither an answer nor a reason."}
    blocking = [reason for reason in reasons if finish_reason(reason) == BLOCKED]
    words = next((each.finish_message for each in answer.candidates or () if each.finish_message), None)
    if blocking:
        return {"code": BLOCKED, "message": f"Gemini blocked its answer: {_told(blocking[0], words)}"}
    return {"code": reasons[0].lower(), "message": f"Gemini ended without an answer: {_told(reasons[0], words)}"}


def _block(feedback: PromptFeedback) -> str:
    return _told(str(feedback.block_reason), feedback.block_reason_message)


def _told(reason: str, words: str | None) -> str:
    return f"{reason} ({words})" if words else reason


def _blocked_choice() -> Json:
    return {
        "index": 0,
        "message": {"role": "assistant", "content": None, "refusal": None},
        "logprobs": None,
        "finish_reason": BLOCKED,
    }


def _usage(usage: Usage) -> Json:
    """The total is a sum of its parts: whether Google's own counts thoughts and tools differs among its versions."""
    thoughts = usage.thoughts_token_count or 0
    prompt = (usage.prompt_token_count or 0) + (usage.tool_use_prompt_token_count or 0)
    completion = (usage.candidates_token_count or 0) + thoughts
    of_prompt: Json = {"cached_tokens": usage.cached_content_token_count or 0}
    if usage.prompt_tokens_details and (audio := _tokens_of(_AUDIO, usage.prompt_tokens_details)):
        of_prompt["audio_tokens"] = audio
    of_completion: Json = {"reasoning_tokens": thoughts}
    for kind, modality in (("audio_tokens", _AUDIO), ("image_tokens", _IMAGE)):  # which have prices of their own
        if usage.candidates_tokens_details and (count := _tokens_of(modality, usage.candidates_tokens_details)):
            of_completion[kind] = count
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": of_prompt,
        "completion_tokens_details": of_completion,
    }


def _tokens_of(modality: tuple[str, int], details: list[ModalityTokens]) -> int:
    return sum(each.token_count or 0 for each in details if each.modality in modality)


def _seconds(moment: Any) -> int:
    """Since 1970; 0 if it is not known."""
    if not isinstance(moment, str):
        return 0
    try:
        parsed = datetime.fromisoformat(moment)
    except ValueError:
        return 0
    return int((parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp())


def _failed(custom_id: str, failure: Failure) -> Json:
    error = {"code": failure.code, "message": failure.message}
    body = {"error": {**error, "type": None, "param": None}}
    response = {"status_code": failure.status_code, "request_id": None, "body": body} if failure.status_code else None
    return {"id": _row_id(custom_id), "custom_id": custom_id, "response": response, "error": error}


def _row_id(custom_id: str) -> str:
    return f"batch_req_{uuid5(NAMESPACE_OID, custom_id).hex}"


def _mended(line: bytes) -> bytes:
    """JSON of what Python's own ``json`` writes, though JSON knows it not."""
    content = json.loads(line.decode("utf-8", "replace"), parse_constant=lambda _: None)
    return json.dumps(content, ensure_ascii=False).encode("utf-8", "replace")
