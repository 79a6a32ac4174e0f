"""A queue that is full: how OpenAI and Azure say that more tokens are queued for a model than the account may queue.

Both say it in two ways: they refuse the call that creates a batch, or they create it and end it as ``failed`` minutes
later, with the code ``token_limit_exceeded``. OpenAI's words are "Enqueued token limit reached for gpt-4o-mini in
organization org-1. Limit: 2,000,000 enqueued tokens."; Azure's "The number of enqueued tokens has surpassed the
configured limit of 1000 for the deployment 'name'." Either way nothing runs, nothing is billed, and waiting helps.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from airflow_provider_llmbatch.errors import EnqueuedTokenLimitError

if TYPE_CHECKING:
    from collections.abc import Mapping

QUEUE_FULL: Final = "token_limit_exceeded"
"""The code in a refusal, and in the errors of a batch."""

_WORDS: Final = re.compile(
    rf"{QUEUE_FULL}|enqueued token limit|enqueued tokens has (surpassed|exceeded)", re.IGNORECASE
)
_LIMIT: Final = re.compile(r"limit(?: of|:)?\s*(\d[\d,]*)", re.IGNORECASE)
_MODEL: Final = re.compile(r"(?:reached for|for the deployment)\s+['\"]?([\w.:-]+)")
# Azure sends both with the answer to a creation and to a listing (preview versions since 2024-10-01).
_LIMIT_HEADER: Final = "deployment-maximum-enqueued-tokens"
_ENQUEUED_HEADER: Final = "deployment-enqueued-tokens"


@dataclass(frozen=True)
class QueueNumbers:
    """Tokens that may be queued, and that are, as far as a provider says."""

    limit: int | None = None
    enqueued: int | None = None


def numbers_of(headers: Mapping[str, str]) -> QueueNumbers:
    return QueueNumbers(_number(headers.get(_LIMIT_HEADER)), _number(headers.get(_ENQUEUED_HEADER)))


def says_queue_is_full(*words: str | None) -> bool:
    """Whether one of a refusal's codes or texts is about enqueued tokens."""
    return any(word and _WORDS.search(word) for word in words)


def queue_full(
    told: str,
    *,
    message: str | None,
    numbers: QueueNumbers | None = None,
    status_code: int | None = None,
    request_id: str | None = None,
    retry_after: float | None = None,
) -> EnqueuedTokenLimitError:
    """The error that says to wait.

    :param told: What happened, as a whole sentence.
    :param message: The provider's own words, where a model and a limit may stand.
    """
    numbers = numbers or QueueNumbers()
    limit = numbers.limit if numbers.limit is not None else _limit_in(message)
    model = _MODEL.search(message or "")
    counts = [f"limit {limit:,} tokens"] if limit is not None else []
    counts += [f"{numbers.enqueued:,} enqueued"] if numbers.enqueued is not None else []
    of_model = f" for {model[1].rstrip('.:')}" if model else ""
    known = f" ({', '.join(counts)})" if counts else ""
    return EnqueuedTokenLimitError(
        f"The queue of tokens{of_model} is full{known}. {told} Nothing was billed. The input is good: a retry may "
        "succeed when other batches have ended.",
        status_code=status_code,
        code=QUEUE_FULL,
        request_id=request_id,
        limit=limit,
        enqueued=numbers.enqueued,
        retry_after=retry_after,
    )


def _limit_in(message: str | None) -> int | None:
    found = _LIMIT.search(message or "")
    return _number(found[1].replace(",", "")) if found else None


def _number(text: str | None) -> int | None:
    return int(text) if text and text.strip().isdecimal() else None
