"""Calls that are safe to repeat outlive outages; waits are what the provider asked for, within bounds."""

from __future__ import annotations

import json
import socket
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING

import pytest
from support.fault_proxy import Answer, Delay, Drop, Garbage, Hang, LoseAnswer, Truncate

from airflow_provider_llmbatch.adapters.http import TransportSettings
from airflow_provider_llmbatch.errors import (
    LLMBatchError,
    QuotaExceededError,
    RateLimitError,
    RequestRefusedError,
    UnavailableError,
    UnexpectedAnswerError,
)

if TYPE_CHECKING:
    from adapters.conftest import Connect
    from support.fault_proxy import Fault, FaultProxy

IMPATIENT = TransportSettings(timeout=0.3)
PAGE = Answer(200, b"<!doctype html><title>Log in</title>", {"Content-Type": "text/html; charset=utf-8"})


@pytest.mark.parametrize(
    "fault",
    [
        *(Answer(status) for status in (408, 409, 425, 429, 500, 502, 503, 504)),
        PAGE,
        Drop(),
        Drop(reset=False),
        Garbage(),
        Hang(),
        LoseAnswer(),
        Truncate(40),
    ],
)
def test_a_look_up_outlives_a_fault(connect: Connect, faulty: FaultProxy, sleeps: list[float], fault: Fault) -> None:
    faulty.rule("GET", "/batches$", fault, times=2)
    assert "accepts the key" in connect(faulty.url, transport=IMPATIENT).ping()
    assert len(faulty.requests) == 3
    first, second = sleeps
    assert 0.375 <= first <= 0.5
    assert 0.75 <= second <= 1.0


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 413, 422])
def test_a_refusal_is_not_asked_twice(connect: Connect, canned: FaultProxy, sleeps: list[float], status: int) -> None:
    canned.rule("GET", "/batches/b$", Answer(status))
    with pytest.raises(LLMBatchError) as caught:
        connect(canned.url).retrieve_batch("b")
    assert (caught.value.retriable, caught.value.status_code) == (False, status)
    assert (len(canned.requests), sleeps) == (1, [])


def test_attempts_are_counted(connect: Connect, canned: FaultProxy, sleeps: list[float]) -> None:
    canned.rule("GET", "/batches/b$", Answer(503), times=None)
    with pytest.raises(UnavailableError, match="an outage on its side") as caught:
        connect(canned.url, transport=TransportSettings(max_attempts=3)).retrieve_batch("b")
    assert (caught.value.status_code, caught.value.reached) == (503, True)
    assert (len(canned.requests), len(sleeps)) == (3, 2)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "3"}, 3.0),
        ({"Retry-After": "0.25"}, 0.25),
        ({"Retry-After": "60"}, 60.0),
        ({"Retry-After-Ms": "1500"}, 1.5),
        ({"Retry-After-Ms": "1500", "Retry-After": "9"}, 1.5),
        ({"Retry-After": "-5"}, 0.0),
        ({"Retry-After": "Tue, 01 Jan 2019 00:00:00 GMT"}, 0.0),
    ],
)
def test_a_wait_that_the_provider_asks_for_is_kept(
    connect: Connect, faulty: FaultProxy, sleeps: list[float], headers: dict[str, str], seconds: float
) -> None:
    faulty.rule("GET", "/batches$", Answer(429, headers=headers))
    connect(faulty.url).ping()
    assert sleeps == [seconds]


def test_a_wait_may_be_given_as_a_date(connect: Connect, faulty: FaultProxy, sleeps: list[float]) -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    faulty.rule("GET", "/batches$", Answer(503, headers={"Retry-After": later}))
    connect(faulty.url).ping()
    [seconds] = sleeps
    assert 25 < seconds <= 30


@pytest.mark.parametrize("value", ["soon", "nan", "inf", "1e999", ""])
def test_a_wait_that_is_no_time_counts_as_none(
    connect: Connect, faulty: FaultProxy, sleeps: list[float], value: str
) -> None:
    faulty.rule("GET", "/batches$", Answer(429, headers={"Retry-After": value}))
    connect(faulty.url).ping()
    [seconds] = sleeps
    assert 0.375 <= seconds <= 0.5


@pytest.mark.parametrize(("status", "error"), [(429, RateLimitError), (503, UnavailableError)])
def test_a_wait_that_is_too_long_for_a_call_is_left_to_the_caller(
    connect: Connect, canned: FaultProxy, sleeps: list[float], status: int, error: type[UnavailableError]
) -> None:
    canned.rule("GET", "/batches/b$", Answer(status, headers={"Retry-After": "3600"}), times=None)
    with pytest.raises(UnavailableError) as caught:
        connect(canned.url).retrieve_batch("b")
    assert (type(caught.value), caught.value.retry_after) == (error, 3600.0)
    assert (len(canned.requests), sleeps) == (1, [])


def test_an_account_without_money_is_not_asked_again(connect: Connect, canned: FaultProxy, sleeps: list[float]) -> None:
    body = {"error": {"message": "You exceeded your current quota.", "code": "insufficient_quota"}}
    canned.rule("GET", "/batches/b$", Answer(429, json.dumps(body).encode(), {"Retry-After": "1"}))
    with pytest.raises(QuotaExceededError, match="mend the provider's billing") as caught:
        connect(canned.url).retrieve_batch("b")
    assert (caught.value.retriable, caught.value.code, sleeps) == (False, "insufficient_quota", [])
    assert len(canned.requests) == 1


def test_a_page_instead_of_an_answer_is_unexpected(connect: Connect, canned: FaultProxy) -> None:
    canned.rule("GET", "/batches/b$", PAGE, times=None)
    with pytest.raises(UnexpectedAnswerError, match="mend the connection's base URL") as caught:
        connect(canned.url).retrieve_batch("b")
    assert "<title>" not in str(caught.value)
    assert (caught.value.status_code, caught.value.reached) == (200, True)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_with_the_key(connect: Connect, faulty: FaultProxy, status: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.settimeout(0.05)
        where = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/v1/batches"
        faulty.rule("GET", "", Answer(status, headers={"Location": where}), times=None)
        adapter = connect(faulty.url, transport=TransportSettings(max_attempts=1))
        with pytest.raises(UnexpectedAnswerError, match="a redirect to http://127"):
            adapter.ping()
        with pytest.raises(UnexpectedAnswerError, match="a redirect to http://127"):
            b"".join(adapter.file_content("file-1"))
        with pytest.raises(TimeoutError):
            elsewhere.accept()


def test_a_server_that_is_gone_was_never_reached(connect: Connect, sleeps: list[float]) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    with pytest.raises(UnavailableError, match="ConnectError") as caught:
        connect(url).retrieve_batch("b")
    assert (caught.value.reached, len(sleeps)) == (False, 4)
    with pytest.raises(UnavailableError, match="ConnectError") as caught:
        b"".join(connect(url).file_content("file-1"))
    assert (caught.value.reached, len(sleeps)) == (False, 8)


def test_a_server_that_does_not_answer_in_time_may_have_acted(connect: Connect, canned: FaultProxy) -> None:
    canned.rule("GET", "/batches/b$", Hang(), times=None)
    adapter = connect(canned.url, transport=TransportSettings(timeout=0.1, max_attempts=2))
    with pytest.raises(UnavailableError, match=r"ReadTimeout.*It may have acted") as caught:
        adapter.retrieve_batch("b")
    assert (caught.value.reached, len(canned.requests)) == (True, 2)


def test_a_slow_answer_within_the_time_out_is_taken(connect: Connect, faulty: FaultProxy, sleeps: list[float]) -> None:
    faulty.rule("GET", "/batches$", Delay(0.1))
    connect(faulty.url, transport=TransportSettings(timeout=5.0)).ping()
    assert sleeps == []


def test_a_cancellation_that_is_refused_for_a_running_batch_is_an_error(connect: Connect, canned: FaultProxy) -> None:
    batch = {"id": "b", "status": "in_progress"}
    canned.rule("POST", "/batches/b/cancel$", Answer(400, b'{"error": {"message": "Not now."}}'))
    canned.rule("GET", "/batches/b$", Answer(200, json.dumps(batch).encode()))
    with pytest.raises(RequestRefusedError, match=r"Not now\."):
        connect(canned.url).cancel_batch("b")


def test_a_gateways_bare_500_for_cancelling_a_batch_that_ended_is_no_error(
    connect: Connect, canned: FaultProxy
) -> None:
    canned.rule("POST", "/batches/b/cancel$", Answer(500, b"Internal Server Error"), times=None)
    canned.rule("GET", "/batches/b$", Answer(200, b'{"id": "b", "status": "completed"}'))
    assert connect(canned.url).cancel_batch("b").status == "completed"


@pytest.mark.parametrize("look", [Answer(200, b'{"id": "b", "status": "in_progress"}'), Answer(500)])
def test_a_500_for_cancelling_a_batch_that_may_still_run_stays_an_outage(
    connect: Connect, canned: FaultProxy, look: Answer
) -> None:
    canned.rule("POST", "/batches/b/cancel$", Answer(500, b"Internal Server Error"), times=None)
    canned.rule("GET", "/batches/b$", look, times=None)
    with pytest.raises(UnavailableError, match="asked to cancel the batch b and answered 500"):
        connect(canned.url).cancel_batch("b")


def test_a_cancellation_whose_answer_is_lost_is_repeated(connect: Connect, canned: FaultProxy) -> None:
    canned.rule("POST", "/batches/b/cancel$", Drop())
    canned.rule("POST", "/batches/b/cancel$", Answer(200, b'{"id": "b", "status": "cancelling"}'))
    assert connect(canned.url).cancel_batch("b").status == "cancelling"
