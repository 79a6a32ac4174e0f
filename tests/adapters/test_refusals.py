"""From an answer that is no success to the error that tells its reader what to do, one row for each kind of answer."""

from __future__ import annotations

import json
import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_llmbatch.adapters.refusals import Answer, error_of, retry_after_of
from airflow_provider_llmbatch.errors import (
    AccessRefusedError,
    ConnectionSettingsError,
    LLMBatchError,
    NotFoundError,
    QuotaExceededError,
    RateLimitError,
    RequestRefusedError,
    UnavailableError,
    UnexpectedAnswerError,
)

AGAIN = "A retry would be refused again:"
BILLING = f"The account is out of money or over its budget. Nothing was billed. {AGAIN} mend the provider's billing."
GONE = (
    "Nothing was billed. A retry would not find it either: it was deleted, has expired, or belongs to another account."
)
OUTAGE = "That is an outage on its side. A retry may succeed."
REFUSED = f"Nothing was billed. {AGAIN} mend what was asked for."
SECRET = "sk-secret-0123456789"


def error(answer: Answer) -> LLMBatchError:
    return error_of(
        answer, title="OpenAI", action="list the batches", redacted=lambda text: text.replace(SECRET, "***")
    )


def body(code: str | None = None, message: str | None = None) -> bytes:
    return json.dumps({"error": {"code": code, "message": message}}).encode()


@pytest.mark.parametrize(
    ("answer", "kind", "quoted", "advice"),
    [
        (Answer(400, body("bad", "No.")), RequestRefusedError, "400 bad: No", REFUSED),
        (Answer(409, b""), RequestRefusedError, "409", REFUSED),
        (
            Answer(401, b""),
            AccessRefusedError,
            "401",
            f"Nothing was billed. {AGAIN} mend the key in the connection.",
        ),
        (
            Answer(403, b""),
            AccessRefusedError,
            "403",
            f"Nothing was billed. {AGAIN} the key or identity lacks the right, or the network is not allowed.",
        ),
        (
            Answer(404, b""),
            NotFoundError,
            "404",
            GONE,
        ),
        (
            Answer(407, b""),
            ConnectionSettingsError,
            "407",
            f"Nothing was billed. {AGAIN} mend user and password of the connection's proxy.",
        ),
        (Answer(404, json.dumps({"error": {"code": 404}}).encode()), NotFoundError, "404", GONE),
        (Answer(400, body("400", "No.")), RequestRefusedError, "400: No", REFUSED),
        (Answer(413, b""), RequestRefusedError, "413", f"Nothing was billed. {AGAIN} split the input."),
        (Answer(402, b""), QuotaExceededError, "402", BILLING),
        (Answer(429, body("insufficient_quota")), QuotaExceededError, "429 insufficient_quota", BILLING),
        (Answer(429, body("billing_not_active")), QuotaExceededError, "429 billing_not_active", BILLING),
        (
            Answer(400, body("billing_hard_limit_reached")),
            QuotaExceededError,
            "400 billing_hard_limit_reached",
            BILLING,
        ),
        (
            Answer(429, b"", retry_after=2.5),
            RateLimitError,
            "429",
            "It asks to wait for 2.5 s. Nothing was billed. A retry after that may succeed.",
        ),
        (
            Answer(429, b""),
            RateLimitError,
            "429",
            "It asks to wait. Nothing was billed. A retry after that may succeed.",
        ),
        (Answer(408, b""), UnavailableError, "408", OUTAGE),
        (Answer(500, b"Internal Server Error"), UnavailableError, "500: Internal Server Error", OUTAGE),
        (Answer(529, b""), UnavailableError, "529", OUTAGE),
        (Answer(503, b"[" * 100_000), UnavailableError, f"503: {'[' * 500}", OUTAGE),
        (
            Answer(302, b"", location="https://login.test/"),
            UnexpectedAnswerError,
            "302",
            (
                "That is a web page or a redirect (a redirect to https://login.test/), so something else than the "
                "API answered: a proxy, a log-in page, a wrong base URL. A retry helps only if that is passing; else "
                "mend the connection's base URL."
            ),
        ),
        (
            Answer(200, b"<html>", is_page=True),
            UnexpectedAnswerError,
            "200",
            (
                "That is a web page or a redirect, so something else than the API answered: a proxy, a log-in page, a "
                "wrong base URL. A retry helps only if that is passing; else mend the connection's base URL."
            ),
        ),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else str(value)[:40],
)
def test_each_answer_has_its_error_and_its_advice(
    answer: Answer, kind: type[LLMBatchError], quoted: str, advice: str
) -> None:
    found = error(answer)
    assert (type(found), found.status_code) == (kind, answer.status_code)
    assert str(found) == f"OpenAI was asked to list the batches and answered {quoted}. {advice}"


@pytest.mark.parametrize(
    ("sent", "quoted"),
    [
        (b'{"error": {"code": "c", "message": "m."}}', "400 c: m"),
        (b'{"error": {"type": "t", "message": ["a", 1]}}', "400 t: ['a', 1]"),
        (b'{"error": "words"}', "400: words"),
        (b'{"detail": "words"}', "400: words"),
        (b'{"error": null}', "400"),
        (b'{"error": null, "message": "words"}', "400: words"),
        (b"null", "400"),
        (b'"words"', "400: words"),
        (b"[1]", "400: [1]"),
        (b"\xef\xbb\xbf{}", "400"),
        (b"two\n words \xff", "400: two words \ufffd"),
        (b"x" * 600, f"400: {'x' * 500}"),
        (b"", "400"),
        (f"the key {SECRET} is not known".encode(), "400: the key *** is not known"),
        (b"x" * 490 + SECRET.encode(), f"400: {'x' * 490}***"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_the_providers_words_are_quoted_whatever_they_stand_in_and_no_secret_is(sent: bytes, quoted: str) -> None:
    assert str(error(Answer(400, sent))) == f"OpenAI was asked to list the batches and answered {quoted}. {REFUSED}"


@given(st.integers(300, 599), st.binary(max_size=30) | st.sampled_from([b"{}", b'{"error": []}', b'{"error": {}}']))
def test_no_answer_is_without_an_error(status: int, sent: bytes) -> None:
    assert error(Answer(status, sent)).status_code == status


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after-ms": "x", "retry-after": "7"}, 7.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0.0),
        ({"retry-after": "Thu, 01 Jan 99999 00:00:00 GMT"}, None),
    ],
)
def test_how_long_to_wait_is_read_from_either_header(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_of(headers) == seconds


def test_a_date_to_wait_for_is_counted_from_now() -> None:
    assert retry_after_of({"retry-after": formatdate(time.time() + 60, usegmt=True)}) == pytest.approx(60, abs=5)
