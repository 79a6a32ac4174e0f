"""A refusal because more tokens are queued than may be: OpenAI's and Azure's ways of saying it, and what is not it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from support.fault_proxy import Answer

from airflow_provider_llmbatch.errors import EnqueuedTokenLimitError, LLMBatchError, RateLimitError

if TYPE_CHECKING:
    from adapters.conftest import Connect
    from support.fault_proxy import FaultProxy

OPENAIS = "Enqueued token limit reached for gpt-4o-mini in organization org-1. Limit: 2,000,000 enqueued tokens."
AZURES = "The number of enqueued tokens has surpassed the configured limit of 5000000 for the deployment 'nightly'."
INNER = b'{"error": {"message": "No.", "innererror": {"code": "token_limit_exceeded"}}}'
OF_MINI = " for gpt-4o-mini is full (limit 2,000,000 tokens)"
NUMBERS = {"deployment-enqueued-tokens": "4999000", "deployment-maximum-enqueued-tokens": "5000001"}


def body(code: str | None, message: str) -> bytes:
    return json.dumps({"error": {"code": code, "message": message}}).encode()


def created(connect: Connect, canned: FaultProxy, answer: Answer) -> LLMBatchError:
    canned.rule("POST", "/batches$", answer, times=None)
    with pytest.raises(LLMBatchError) as caught:
        connect(canned.url).create_batch("file-1", endpoint="/v1/chat/completions")
    return caught.value


@pytest.mark.parametrize(
    ("answer", "shown", "numbers"),
    [
        (
            Answer(400, body("token_limit_exceeded", OPENAIS)),
            " for gpt-4o-mini is full (limit 2,000,000",
            (2_000_000, None),
        ),
        (
            Answer(429, body("token_limit_exceeded", OPENAIS)),
            " for gpt-4o-mini is full (limit 2,000,000",
            (2_000_000, None),
        ),
        (Answer(413, body(None, OPENAIS)), OF_MINI, (2_000_000, None)),
        (Answer(400, body("BadRequest", AZURES)), " for nightly is full (limit 5,000,000", (5_000_000, None)),
        (
            Answer(400, body("token_limit_exceeded", AZURES), NUMBERS),
            " for nightly is full (limit 5,000,001 tokens, 4,999,000 enqueued)",
            (5_000_001, 4_999_000),
        ),
        (
            Answer(400, INNER),
            " is full. ",
            (None, None),
        ),
        (Answer(400, b"token_limit_exceeded"), " is full. ", (None, None)),
    ],
)
def test_it_says_wait_with_the_numbers_that_are_known_and_is_not_repeated_at_once(
    connect: Connect,
    canned: FaultProxy,
    sleeps: list[float],
    answer: Answer,
    shown: str,
    numbers: tuple[int | None, int | None],
) -> None:
    error = created(connect, canned, answer)
    assert isinstance(error, EnqueuedTokenLimitError)
    assert f"The queue of tokens{shown}" in str(error)
    assert "Nothing was billed. The input is good: a retry may succeed when other batches have ended." in str(error)
    assert (error.limit, error.enqueued) == numbers
    assert (error.code, error.status_code, error.retriable) == ("token_limit_exceeded", answer.status, True)
    assert (len(canned.requests), sleeps) == (1, [])


def test_how_long_the_provider_asks_to_wait_comes_along(connect: Connect, canned: FaultProxy) -> None:
    error = created(connect, canned, Answer(429, body("token_limit_exceeded", "Full."), {"Retry-After": "300"}))
    assert isinstance(error, EnqueuedTokenLimitError)
    assert error.retry_after == 300


def test_a_plain_rate_limit_is_none(connect: Connect, canned: FaultProxy) -> None:
    words = "Rate limit reached for gpt-4o-mini in organization org-1 on tokens per min (TPM): Limit 200000, Used 1."
    assert type(created(connect, canned, Answer(429, body("rate_limit_exceeded", words)))) is RateLimitError


def test_an_outage_that_mentions_it_is_none(connect: Connect, canned: FaultProxy) -> None:
    error = created(connect, canned, Answer(500, body("token_limit_exceeded", "Sorry.")))
    assert not isinstance(error, EnqueuedTokenLimitError)


def test_numbers_that_are_none_are_left_out(connect: Connect, canned: FaultProxy) -> None:
    answer = Answer(400, body("token_limit_exceeded", "Full."), dict.fromkeys(NUMBERS, "many"))
    error = created(connect, canned, answer)
    assert isinstance(error, EnqueuedTokenLimitError)
    assert (error.limit, error.enqueued) == (None, None)
