"""Which failures of a single request are worth asking again: those that say nothing against the request itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from airflow_provider_llmbatch.models import ResultError

_STATUSES: Final = frozenset({408, 409, 425, 429})

# In the words of OpenAI, Azure, vLLM and LiteLLM, and of google.rpc.Code, in lower case.
_PASSING: Final = frozenset(
    {
        "aborted",
        "api_connection_error",
        "apitimeouterror",
        "conflict",
        "deadline_exceeded",
        "engine_overloaded",
        "internal",
        "internal_error",
        "internal_server_error",
        "internalservererror",
        "model_overloaded",
        "no_response",
        "overloaded",
        "overloaded_error",
        "rate_limit",
        "rate_limit_error",
        "rate_limit_exceeded",
        "ratelimitreached",
        "request_timeout",
        "resource_exhausted",
        "server_error",
        "service_unavailable",
        "serviceunavailable",
        "timeout",
        "too_many_requests",
        "toomanyrequests",
        "unavailable",
    }
)
# These come with statuses that would pass: 429 for want of money, 500 for a prompt that a filter choked on.
_LASTING: Final = frozenset(
    {
        "billing_hard_limit_reached",
        "content_filter",
        "content_policy_violation",
        "context_length_exceeded",
        "insufficient_quota",
        "invalid_api_key",
        "invalid_prompt",
        "invalid_request_error",
        "model_not_found",
        "permission_denied",
        "responsibleaipolicyviolation",
        "string_above_max_length",
        "unsupported_value",
    }
)


def is_retriable(error: ResultError | None, status: int | None) -> bool:
    """Whether the same request may be answered when it is sent again, in a later batch.

    Unknown words do not count, nor does a refusal of the request: asking again would be billed, or refused, again.

    :param error: Why the request has no answer.
    :param status: HTTP status of its answer, where it had one.
    """
    code = (error.code or "").lower() if error is not None else ""
    if code in _LASTING:
        return False
    if code in _PASSING:
        return True
    number = code.removeprefix("http_")[:4]  # enough to tell; and Python reads no endless ones
    return _is_passing(int(number)) if number.isdecimal() else status is not None and _is_passing(status)


def _is_passing(status: int) -> bool:
    return status in _STATUSES or 500 <= status < 600
