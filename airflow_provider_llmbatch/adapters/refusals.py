"""What a provider's refusal means: from an HTTP answer to the error that tells its reader what to do next.

The status decides, unless the body says that money, storage or the queue is used up. Bodies have OpenAI's shape,
``{"error": {"message", "type", "param", "code"}}``, Azure's, with ``details`` and ``innererror`` instead, Google's,
with a number as ``code`` and its own word in ``status``, or none at all when a gateway answered.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

from airflow_provider_llmbatch.adapters.backpressure import QueueNumbers, queue_full, says_queue_is_full
from airflow_provider_llmbatch.errors import (
    AccessRefusedError,
    ConnectionSettingsError,
    LLMBatchError,
    LostAnswerError,
    NotFoundError,
    QuotaExceededError,
    RateLimitError,
    RequestRefusedError,
    UnavailableError,
    UnexpectedAnswerError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_OUT_OF_MONEY: Final = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
FILES_QUOTA: Final = "quotaExceeded"
"""Azure's code for a resource that may hold no more files (400)."""

_DETAILS_SHOWN: Final = 3
_LONGEST_QUOTE: Final = 500  # characters of a provider's words in a message of ours


@dataclass(frozen=True)
class Answer:
    """What came back, as far as an error needs it.

    :param retry_after: Seconds, if the provider named any.
    :param is_page: Whether the body is HTML, which no provider's API sends.
    :param location: Where a redirect points.
    :param queue: What the headers say about the queue.
    """

    status_code: int
    body: bytes
    request_id: str | None = None
    retry_after: float | None = None
    is_page: bool = False
    location: str | None = None
    queue: QueueNumbers = field(default_factory=QueueNumbers)


def error_of(
    answer: Answer, *, title: str, action: str, redacted: Callable[[str], str], remedy: str | None = None
) -> LLMBatchError:
    """The error for an answer that is no success.

    :param remedy: What to do about a refusal, where that is not the usual.
    """
    answer = replace(answer, request_id=redacted(answer.request_id) if answer.request_id else None)
    code, message = _reason(answer, redacted)
    status = answer.status_code
    words = dict.fromkeys(str(part) for part in (status, code) if part)  # some repeat the status as their code
    quoted = " ".join(words) + (f": {message.rstrip('.')}" if message else "")
    request_id = f", request id {answer.request_id}" if answer.request_id else ""
    asked = f"{title} was asked to {action} and answered {quoted}{request_id}."

    if answer.is_page or 300 <= status < 400:
        where = f" (a redirect to {redacted(answer.location)})" if answer.location else ""
        return UnexpectedAnswerError(
            f"{asked} That is a web page or a redirect{where}, so something else than the API answered: a proxy, a "
            "log-in page, a wrong base URL. A retry helps only if that is passing; else mend the connection's base "
            "URL.",
            status_code=status,
            code=code,
            request_id=answer.request_id,
            retry_after=answer.retry_after,
        )
    if status < 500 and says_queue_is_full(code, message, answer.body.decode("utf-8", "replace")):
        return queue_full(
            asked,
            message=message,
            numbers=answer.queue,
            status_code=status,
            request_id=answer.request_id,
            retry_after=answer.retry_after,
        )
    if code in _OUT_OF_MONEY or code == FILES_QUOTA or status == 402:
        return _used_up(answer, asked, code)
    if status == 429:
        return _too_many(answer, asked, code)
    if status >= 500 or status in (408, 425):
        return UnavailableError(
            f"{asked} That is an outage on its side. A retry may succeed.",
            status_code=status,
            code=code,
            request_id=answer.request_id,
            retry_after=answer.retry_after,
        )
    kind, advice = _REFUSALS.get(status, _OTHER_REFUSAL)
    advice = f"A retry would be refused again: {remedy}." if remedy else advice
    return kind(f"{asked} Nothing was billed. {advice}", status_code=status, code=code, request_id=answer.request_id)


def lost_answer(error: UnavailableError, what: str) -> LostAnswerError:
    """The error for a creation that the provider may have acted on.

    :param error: Why there is no answer.
    :param what: What was to be created, such as ``a batch from file-1``.
    """
    return LostAnswerError(
        f"{error} The answer to the creation of {what} was lost: the batch may exist and be billed. It was not created "
        "again; a retry looks for it first.",
        status_code=error.status_code,
        code=error.code,
        request_id=error.request_id,
    )


def unbilled(error: UnavailableError) -> UnavailableError:
    """The same error, of a call that costs nothing whether it was acted on or not; says so where it did not yet."""
    if "billed" in str(error):
        return error
    return type(error)(
        f"{error} Nothing was billed.",
        status_code=error.status_code,
        code=error.code,
        request_id=error.request_id,
        retry_after=error.retry_after,
        reached=error.reached,
    )


def _used_up(answer: Answer, asked: str, code: str | None) -> LLMBatchError:
    what = "The account is out of money or over its budget"
    advice = "mend the provider's billing"
    if code == FILES_QUOTA:
        what, advice = "The resource may hold no more of these", "delete some"
    return QuotaExceededError(
        f"{asked} {what}. Nothing was billed. A retry would be refused again: {advice}.",
        status_code=answer.status_code,
        code=code,
        request_id=answer.request_id,
    )


def _too_many(answer: Answer, asked: str, code: str | None) -> LLMBatchError:
    wait = f" for {answer.retry_after:g} s" if answer.retry_after is not None else ""
    return RateLimitError(
        f"{asked} It asks to wait{wait}. Nothing was billed. A retry after that may succeed.",
        status_code=answer.status_code,
        code=code,
        request_id=answer.request_id,
        retry_after=answer.retry_after,
        reached=False,
    )


_OTHER_REFUSAL: Final[tuple[type[LLMBatchError], str]] = (
    RequestRefusedError,
    "A retry would be refused again: mend what was asked for.",
)
_REFUSALS: Final[dict[int, tuple[type[LLMBatchError], str]]] = {
    401: (AccessRefusedError, "A retry would be refused again: mend the key in the connection."),
    403: (
        AccessRefusedError,
        "A retry would be refused again: the key or identity lacks the right, or the network is not allowed.",
    ),
    404: (
        NotFoundError,
        "A retry would not find it either: it was deleted, has expired, or belongs to another account.",
    ),
    407: (ConnectionSettingsError, "A retry would be refused again: mend user and password of the connection's proxy."),
    413: (RequestRefusedError, "A retry would be refused again: split the input."),
    431: (
        ConnectionSettingsError,
        "A retry would be refused again: the connection's own headers are too many or large.",
    ),
}


def _reason(answer: Answer, redacted: Callable[[str], str]) -> tuple[str | None, str | None]:
    """Code and message of an answer's body, whatever it is made of; redacted before they are cut, which could halve a
    secret."""

    def quoted(words: object) -> str:
        return redacted(str(words))[:_LONGEST_QUOTE]

    try:
        body = json.loads(answer.body.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        text = "" if answer.is_page else " ".join(answer.body.decode("utf-8", "replace").split())
        return None, quoted(text) or None
    error = (body.get("error") or body) if isinstance(body, dict) else body
    if not isinstance(error, dict):
        return None, quoted(error) if error else None
    code = error.get("code") or error.get("type")
    if isinstance(code, int):  # Google repeats the HTTP status there, and its own word stands in another place
        code = error.get("status") or code
    message = " ".join(_words(error))
    return (quoted(code) if code else None), (quoted(message) if message else None)


def _words(error: dict[str, object]) -> Iterator[str]:
    """The message, and behind it those of Azure's ``details``, which alone may tell what is wrong."""
    details = error.get("details")
    inner = [each.get("message") for each in details if isinstance(each, dict)] if isinstance(details, list) else []
    for message in (error.get("message") or error.get("detail"), *inner[:_DETAILS_SHOWN]):
        if message:
            yield str(message)


def retry_after_of(headers: Mapping[str, str]) -> float | None:
    """Seconds a provider asks to wait: ``retry-after-ms``, else ``retry-after`` in seconds or as an HTTP date."""
    for name, scale in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) / scale
        except (KeyError, ValueError):
            continue
        if math.isfinite(seconds):
            return max(seconds, 0.0)
    try:
        return max(parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time(), 0.0)
    except (KeyError, TypeError, ValueError):
        return None
