"""Output lines of Gemini's batches, and what becomes of them."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from airflow_provider_llmbatch.adapters.vertex.responses import result_line
from airflow_provider_llmbatch.core.results import result_of_line

USAGE = {"promptTokenCount": 10, "candidatesTokenCount": 4, "totalTokenCount": 14}
ECHO = {"contents": [{"role": "user", "parts": [{"text": "Who?"}]}], "labels": {"llmbatch_id": "row-1"}}


def output(response: Any = ..., status: Any = "", **more: Any) -> bytes:
    line = {"status": status, "processed_time": "2026-11-13T14:04:28.376+00:00", "request": ECHO, "response": response}
    return json.dumps({name: value for name, value in (line | more).items() if value is not ...}).encode()


def answer(*parts: dict[str, Any], **candidate: Any) -> dict[str, Any]:
    return {
        "candidates": [{"content": {"role": "model", "parts": list(parts)}, "finishReason": "STOP", **candidate}],
        "usageMetadata": USAGE,
        "modelVersion": "gemini-2.5-flash@default",
        "createTime": "2026-11-13T14:04:28.376123456Z",
        "responseId": "abc",
    }


def mapped(response: Any = ..., **more: Any) -> dict[str, Any]:
    line: dict[str, Any] = json.loads(result_line(output(response, **more)))
    return line


def landed(line: bytes) -> tuple[str, str | None, str | None, int | None]:
    """Outcome, error code, error message, and how many tokens the answer that is kept was billed for."""
    result = result_of_line(result_line(line))
    assert result.custom_id == "row-1"
    usage = msgspec.json.decode(result.response.body).get("usage") if result.response else None
    error = result.error
    return (
        result.outcome,
        error.code if error else None,
        error.message if error else None,
        usage and usage["total_tokens"],
    )
