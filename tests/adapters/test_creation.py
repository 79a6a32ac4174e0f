"""The call that creates a batch is made once, unless it certainly created none: a second one could be billed."""

from __future__ import annotations

import io
import json
import socket
from typing import TYPE_CHECKING

import pytest
from support.adapter_contract import CHAT, chat_line, unique_name
from support.fault_proxy import Answer, Drop, FaultProxy, Garbage, Hang, LoseAnswer, Truncate

from airflow_provider_llmbatch.adapters.http import TransportSettings
from airflow_provider_llmbatch.errors import (
    AccessRefusedError,
    LLMBatchError,
    LostAnswerError,
    NotFoundError,
    QuotaExceededError,
    RateLimitError,
    RequestRefusedError,
    UnavailableError,
)

if TYPE_CHECKING:
    from adapters.conftest import Connect
    from support.fault_proxy import Fault
    from support.server import RunningServer

IMPATIENT = TransportSettings(timeout=0.3)


def created_from(file_id: str, connect: Connect, echo_server: RunningServer) -> int:
    """How many batches the server holds that were made from a file."""
    return sum(batch.input_file_id == file_id for batch in connect(echo_server.url).list_batches())


@pytest.fixture
def file_id(connect: Connect, echo_server: RunningServer) -> str:
    return connect(echo_server.url).create_file(io.BytesIO(chat_line("a", "hello")), filename=unique_name()).id


@pytest.mark.parametrize(
    ("fault", "batches"),
    [
        pytest.param(LoseAnswer(), 1, id="lost answer"),
        pytest.param(Hang(forwarding=True), 1, id="time-out after sending"),
        pytest.param(Truncate(0), 1, id="answer without body"),
        pytest.param(Truncate(50), 1, id="half an answer"),
        pytest.param(Hang(), 0, id="time-out, never acted on"),
        pytest.param(Drop(), 0, id="reset after sending"),
        pytest.param(Drop(reset=False), 0, id="closed after sending"),
        pytest.param(Garbage(), 0, id="garbage"),
        pytest.param(Answer(500), 0, id="500"),
        pytest.param(Answer(502, b"<html>", {"Content-Type": "text/html"}), 0, id="502 page"),
        pytest.param(Answer(503, headers={"Retry-After": "0"}), 0, id="503 with Retry-After"),
        pytest.param(Answer(408), 0, id="408"),
        pytest.param(Answer(200, b"<html>", {"Content-Type": "text/html; charset=utf-8"}), 0, id="200 page"),
        pytest.param(Answer(200, b"OK", {"Content-Type": "text/plain"}), 0, id="200 without JSON"),
        pytest.param(Answer(200, b"{}"), 0, id="200 without a batch"),
        pytest.param(Answer(302, headers={"Location": "https://login.example/"}), 0, id="redirect"),
    ],
)
def test_a_creation_whose_answer_was_lost_is_not_repeated(
    connect: Connect,
    faulty: FaultProxy,
    echo_server: RunningServer,
    file_id: str,
    sleeps: list[float],
    fault: Fault,
    batches: int,
) -> None:
    faulty.rule("POST", "/batches$", fault)
    with pytest.raises(LostAnswerError, match="the batch may exist and be billed") as caught:
        connect(faulty.url, transport=IMPATIENT).create_batch(file_id, endpoint=CHAT)
    assert "a retry looks for it first" in str(caught.value)
    assert (len(faulty.calls("POST", "/batches$")), sleeps) == (1, [])
    assert created_from(file_id, connect, echo_server) == batches


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (400, "invalid_value", RequestRefusedError),
        (401, "invalid_api_key", AccessRefusedError),
        (403, "unsupported_country", AccessRefusedError),
        (404, None, NotFoundError),
        (409, None, RequestRefusedError),
        (413, None, RequestRefusedError),
        (422, None, RequestRefusedError),
        (429, "insufficient_quota", QuotaExceededError),
    ],
)
def test_a_refused_creation_created_nothing_and_is_not_repeated(
    connect: Connect, canned: FaultProxy, sleeps: list[float], status: int, code: str | None, error: type[LLMBatchError]
) -> None:
    canned.rule("POST", "/batches$", Answer(status, json.dumps({"error": {"code": code, "message": "No."}}).encode()))
    with pytest.raises(LLMBatchError, match="Nothing was billed") as caught:
        connect(canned.url).create_batch("file-1", endpoint=CHAT)
    assert (type(caught.value), caught.value.status_code, caught.value.code) == (error, status, code)
    assert (len(canned.requests), sleeps) == (1, [])


def test_a_creation_that_was_asked_to_come_later_comes_later(
    connect: Connect, faulty: FaultProxy, echo_server: RunningServer, file_id: str, sleeps: list[float]
) -> None:
    faulty.rule("POST", "/batches$", Answer(429, headers={"Retry-After": "7"}), times=2)
    batch = connect(faulty.url).create_batch(file_id, endpoint=CHAT)
    assert batch.input_file_id == file_id
    assert [request.forwarded for request in faulty.calls("POST", "/batches$")] == [False, False, True]
    assert (sleeps, created_from(file_id, connect, echo_server)) == ([7.0, 7.0], 1)


def test_a_creation_that_is_always_asked_to_come_later_gives_up(connect: Connect, canned: FaultProxy) -> None:
    canned.rule("POST", "/batches$", Answer(429), times=None)
    with pytest.raises(RateLimitError, match="Nothing was billed") as caught:
        connect(canned.url).create_batch("file-1", endpoint=CHAT)
    assert (caught.value.reached, len(canned.requests)) == (False, 5)


def test_a_creation_that_never_got_a_connection_is_repeated(connect: Connect, sleeps: list[float]) -> None:
    with pytest.raises(UnavailableError, match=r"Nothing was sent or billed\. A retry may succeed") as caught:
        connect(_url_of_nobody()).create_batch("file-1", endpoint=CHAT)
    assert (type(caught.value), caught.value.reached, len(sleeps)) == (UnavailableError, False, 4)


def test_a_lost_answer_after_a_repeat_is_still_lost(connect: Connect, canned: FaultProxy) -> None:
    canned.rule("POST", "/batches$", Answer(429))
    canned.rule("POST", "/batches$", Drop())
    with pytest.raises(LostAnswerError):
        connect(canned.url).create_batch("file-1", endpoint=CHAT)
    assert len(canned.requests) == 2


def test_a_lost_answer_keeps_what_the_provider_said(connect: Connect, canned: FaultProxy) -> None:
    body = b'{"error": {"code": "server_error", "message": "Sorry."}}'
    canned.rule("POST", "/batches$", Answer(500, body, {"X-Request-Id": "req_9"}))
    with pytest.raises(LostAnswerError, match="500 server_error: Sorry") as caught:
        connect(canned.url).create_batch("file-1", endpoint=CHAT)
    assert (caught.value.status_code, caught.value.code, caught.value.request_id) == (500, "server_error", "req_9")


def _url_of_nobody() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
