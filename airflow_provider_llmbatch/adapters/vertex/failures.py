"""Why one request has no answer, from the ``status`` of its output line: a text with an error inside, or an object."""

from __future__ import annotations

import json
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

_HTTP_OF: Final[Mapping[str, int]] = {
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DATA_LOSS": 500,
    "UNAUTHENTICATED": 401,
}
"""``google.rpc.Code`` without OK, in the order of its numbers, each with the HTTP status that the type documents."""

_NAMES: Final = tuple(_HTTP_OF)
_PHRASES: Final[Mapping[str, int]] = {status.phrase.lower(): status.value for status in HTTPStatus if status >= 400}
_leading_name = re.compile(r"([A-Z][A-Z_]+)\b").match
_leading_number = re.compile(r"(?:HTTP )?([45]\d\d)\b").match
_decode_prefix = json.JSONDecoder().raw_decode


class Failure(NamedTuple):
    """:param code: Google's own word, such as ``INVALID_ARGUMENT``, or ``vertex_error`` if it gave none."""

    code: str
    message: str
    status_code: int | None


def failure_of_status(raw: bytes) -> Failure | None:
    """``None`` if the status says that the request was answered.

    :param raw: The status as it stands in the line; empty if it is not there.
    """
    if raw in (b'""', b"", b"null"):
        return None
    status = msgspec.json.decode(raw)
    if isinstance(status, str):
        return _of_text(status)
    if isinstance(status, dict):
        return _of_object(status, "") if status.get("code") or status.get("message") or status.get("error") else None
    return _of_number(status, "") if status else None


def _of_text(status: str) -> Failure | None:
    text = status.strip()
    if text in ("", "OK"):
        return None
    if found := _object_within(text):
        return _of_object(found, text)
    if (match := _leading_name(text)) and match[1] in _HTTP_OF:
        return Failure(match[1], text, _HTTP_OF[match[1]])
    number = int(match[1]) if (match := _leading_number(text)) else _PHRASES.get(text.partition(":")[0].lower())
    return Failure(f"http_{number}" if number else "vertex_error", text, number)


def _object_within(text: str) -> dict[str, Any] | None:
    """The error's object, which stands behind words such as "Bad Request: "."""
    start = text.find("{")
    if start < 0:
        return None
    try:
        found, _ = _decode_prefix(text, start)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and found.keys() & {"error", "code", "message", "status"} else None


def _of_object(found: dict[str, Any], text: str) -> Failure:
    error = found.get("error", found)
    if not isinstance(error, dict):
        return Failure("vertex_error", str(error), None)
    failure = _of_number(error.get("code"), str(error.get("message") or text))
    name = error.get("status")
    if not isinstance(name, str) or not name:
        return failure
    return failure._replace(code=name, status_code=failure.status_code or _HTTP_OF.get(name))


def _of_number(code: Any, message: str) -> Failure:
    """One number may be of HTTP or of gRPC; they do not overlap."""
    message = message or "It gave no reason."
    if isinstance(code, str) and code in _HTTP_OF:
        return Failure(code, message, _HTTP_OF[code])
    number = int(code) if isinstance(code, int | float) or (isinstance(code, str) and code.isdecimal()) else 0
    if 0 < number <= len(_NAMES):
        name = _NAMES[number - 1]
        return Failure(name, message, _HTTP_OF[name])
    if 400 <= number < 600:
        return Failure(f"http_{number}", message, number)
    return Failure("vertex_error", message, None)
