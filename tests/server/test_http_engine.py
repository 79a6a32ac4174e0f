"""One request at an engine over HTTP: which failures are waited for, how long, and what its answer is in the end."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import time
from email.utils import formatdate
from typing import TYPE_CHECKING

import msgspec
import pytest
import trustme
from support.engine_server import EngineServer, Reply, engine_server, free_port
from support.fault_proxy import Answer as Canned
from support.fault_proxy import Drop, Garbage, LoseAnswer, Truncate, fault_proxy

from airflow_provider_llmbatch.models import RequestLine
from airflow_provider_llmbatch.server.engines.base import Answer
from airflow_provider_llmbatch.server.engines.http import EngineAddressError, HttpEngine, Patience, _Trial, root_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.fault_proxy import Fault

CHAT = "/v1/chat/completions"
HASTY = Patience(attempts=3, seconds=20.0, first_delay=0.01, longest_delay=0.05)
KEY = "sk-engine-0123456789"


@pytest.fixture(scope="module")
def shared_server() -> Iterator[EngineServer]:
    with engine_server() as running:
        yield running


@pytest.fixture
def server(shared_server: EngineServer) -> EngineServer:
    shared_server.begin_anew()
    return shared_server


def chat(said: str = "hello") -> RequestLine:
    body = {"model": "m", "messages": [{"role": "user", "content": said}]}
    return RequestLine("r", "POST", CHAT, msgspec.Raw(json.dumps(body).encode()))


def asked(
    url: str, *requests: RequestLine, patience: Patience = HASTY, api_key: str | None = None, timeout: float = 10.0
) -> list[Answer]:
    """The answers to requests that are made at once."""

    async def all_of_them() -> list[Answer]:
        engine = HttpEngine(url, api_key=api_key, connections=8, timeout=timeout, patience=patience)
        await engine.start()
        try:
            return await asyncio.gather(*(engine.answer(request) for request in requests))
        finally:
            await engine.stop()

    return asyncio.run(all_of_them())


def error_of(answer: Answer) -> tuple[int, str]:
    return answer.status_code, json.loads(answer.body)["error"]["code"]


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("{host}/v1", "/v1/chat/completions"),
        ("{host}/v1/", "/v1/chat/completions"),
        ("{host}", "/v1/chat/completions"),
        ("{host}/", "/v1/chat/completions"),
        ("{host}/behind/v1/", "/behind/v1/chat/completions"),
        ("{host}/behind", "/behind/v1/chat/completions"),
    ],
)
def test_the_version_stands_once_in_the_path_however_the_address_ends(
    server: EngineServer, given: str, path: str
) -> None:
    asked(given.format(host=server.url.removesuffix("/v1")), chat())
    assert server.paths == [path]


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("http://", "'http://' is no address of the form http://host:port/v1."),
        ("ftp://host/v1", "'ftp://host/v1' is no address of the form http://host:port/v1."),
        ("http://host/v1?key=1", "'http://host/v1?key=1' is no address of the form http://host:port/v1."),
        ("http://host:1234567/v1", "The engine's address has a port that is none."),
        (
            "http://me:secret@host/v1",
            "The engine's address holds a user or password, which logs would show: use its key.",
        ),
    ],
)
def test_an_address_that_cannot_work_is_refused(address: str, complaint: str) -> None:
    with pytest.raises(EngineAddressError) as raised:
        root_of(address)
    assert str(raised.value) == complaint


def test_a_key_that_cannot_be_sent_is_refused_and_not_shown() -> None:
    with pytest.raises(EngineAddressError) as raised:
        HttpEngine("http://127.0.0.1:1/v1", api_key="sk-pasted\n", connections=1)
    assert str(raised.value) == "The engine's key holds a line break or a letter outside ASCII."


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504])
def test_what_may_pass_is_asked_again(server: EngineServer, status: int) -> None:
    server.replies.extend([Reply(status)] * 2)
    assert [answer.status_code for answer in asked(server.url, chat("x"))] == [200]
    assert server.asked == {"x": 3}


@pytest.mark.parametrize(
    "reply",
    [
        *(pytest.param(Reply(status), id=str(status)) for status in (400, 401, 403, 404, 413, 422)),
        pytest.param(Reply(429, b'{"error": {"message": "Pay.", "code": "insufficient_quota"}}'), id="empty account"),
    ],
)
def test_what_will_not_pass_is_asked_once_and_its_words_are_kept(server: EngineServer, reply: Reply) -> None:
    server.replies.append(reply)
    (answer,) = asked(server.url, chat("x"))
    assert (answer.status_code, answer.body) == (reply.status, reply.body)
    assert server.asked == {"x": 1}


def test_the_last_of_all_attempts_counts(server: EngineServer) -> None:
    server.replies.extend(Reply(500, b'{"error": {"message": "%d"}}' % n) for n in range(5))
    (answer,) = asked(server.url, chat("x"))
    assert (answer.status_code, answer.body) == (500, b'{"error": {"message": "2"}}')
    assert server.asked == {"x": 3}


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_for_a_time_and_not_a_number_of_times(server: EngineServer, status: int) -> None:
    server.replies.extend([Reply(status)] * 10_000)
    patience = Patience(attempts=2, seconds=0.5, first_delay=0.01, longest_delay=0.05)
    began = time.monotonic()
    (answer,) = asked(server.url, chat("x"), patience=patience)
    assert answer.status_code == status
    assert server.asked["x"] > 5
    assert 0.3 < time.monotonic() - began < 5


@pytest.mark.parametrize("status", [429, 500, 503])
def test_retry_after_in_seconds_is_kept(server: EngineServer, status: int) -> None:
    server.replies.append(Reply(status, headers={"Retry-After": "0.6"}))
    asked(server.url, chat())
    first, second = server.moments
    assert 0.6 <= second - first < 3


def test_retry_after_as_a_date_is_kept(server: EngineServer) -> None:
    server.replies.append(Reply(429, headers={"Retry-After": formatdate(time.time() + 2, usegmt=True)}))
    asked(server.url, chat())
    first, second = server.moments
    assert 0.9 <= second - first < 5  # dates have whole seconds


def test_a_retry_after_beyond_all_patience_is_final(server: EngineServer) -> None:
    server.replies.append(Reply(429, headers={"Retry-After": "3600"}))
    (answer,) = asked(server.url, chat("x"))
    assert answer.status_code == 429
    assert server.asked == {"x": 1}


def test_a_server_that_asks_for_a_rest_gets_it_from_every_request(server: EngineServer) -> None:
    server.replies.append(Reply(429, headers={"Retry-After": "0.6"}))

    async def one_after_the_other() -> None:
        engine = HttpEngine(server.url, connections=8, patience=HASTY)
        await engine.start()
        async with asyncio.TaskGroup() as group:
            group.create_task(engine.answer(chat("first")))
            while not server.asked:  # noqa: ASYNC110 - counted in a thread without an event loop
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.2)  # its answer has arrived
            group.create_task(engine.answer(chat("second")))
        await engine.stop()

    asyncio.run(one_after_the_other())
    assert server.asked == {"first": 2, "second": 1}
    assert min(server.moments[1:]) - server.moments[0] >= 0.6


BROKEN = [
    pytest.param(Drop(), id="reset"),
    pytest.param(Drop(reset=False), id="closed"),
    pytest.param(LoseAnswer(), id="lost answer"),
    pytest.param(Truncate(10), id="half an answer"),
    pytest.param(Garbage(), id="no HTTP"),
    pytest.param(Canned(200, b"<html>Log in</html>", {"Content-Type": "text/html"}), id="page"),
    pytest.param(Canned(200, b'["no object"]'), id="no object"),
    pytest.param(Canned(200, b'{"text": "\xff"}'), id="no UTF-8"),
    pytest.param(Canned(200, b"not gzip", {"Content-Encoding": "gzip"}), id="broken compression"),
]


@pytest.mark.parametrize("fault", BROKEN)
def test_a_request_whose_answer_broke_is_asked_again(server: EngineServer, fault: Fault) -> None:
    with fault_proxy(server.url) as proxy:
        proxy.rule("POST", "", fault)
        assert [answer.status_code for answer in asked(proxy.url, chat())] == [200]
        assert len(proxy.calls("POST", "")) == 2


@pytest.mark.parametrize("fault", BROKEN)
def test_a_request_whose_answer_always_breaks_gets_an_error(server: EngineServer, fault: Fault) -> None:
    with fault_proxy(server.url) as proxy:
        proxy.rule("POST", "", fault, times=None)
        (answer,) = asked(proxy.url, chat())
        assert len(proxy.calls("POST", "")) == 3
    code = (
        "invalid_engine_answer"
        if isinstance(fault, Canned) and "Content-Encoding" not in fault.headers
        else "engine_unavailable"
    )
    assert error_of(answer) == (502, code)


def test_a_silent_server_costs_an_attempt(server: EngineServer) -> None:
    server.seconds = 1.0
    (answer,) = asked(server.url, chat("x"), timeout=0.2)
    assert error_of(answer) == (502, "engine_unavailable")
    assert server.asked == {"x": 3}


def test_a_redirect_is_not_followed_since_it_would_take_the_key_along(server: EngineServer) -> None:
    with fault_proxy() as proxy:
        proxy.rule("POST", "", Canned(307, headers={"Location": f"{server.url}/chat/completions"}), times=None)
        (answer,) = asked(proxy.url, chat(), api_key=KEY)
    assert error_of(answer) == (421, "engine_redirects")
    assert not server.asked


@pytest.mark.parametrize("status", [200, 401, 500])
def test_the_key_is_sent_and_never_quoted(server: EngineServer, status: int, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        server.replies.extend([Reply(status, f"Bad key {KEY}.".encode())] * 3)
        (answer,) = asked(server.url, chat(), api_key=KEY)
    assert server.keys == {f"Bearer {KEY}"}
    assert b"Bad key ***." in answer.body
    assert KEY not in caplog.text


def test_a_server_that_refuses_the_key_is_told_of_at_the_start(caplog: pytest.LogCaptureFixture) -> None:
    with fault_proxy() as proxy:
        proxy.rule("GET", "/v1/models$", Canned(401))
        asked(proxy.url, api_key=KEY)
        assert caplog.messages == [f"The engine at {proxy.url} refuses the key (401)."]


def test_a_server_that_is_away_is_waited_for_and_asked_once(caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    requests = [chat(str(n)) for n in range(8)]

    async def meanwhile() -> tuple[list[Answer], EngineServer]:
        engine = HttpEngine(f"http://127.0.0.1:{port}/v1", connections=8, patience=HASTY)
        await engine.start()
        answers = asyncio.gather(*(engine.answer(request) for request in requests))
        await asyncio.sleep(0.4)
        assert not answers.done()
        with engine_server(port=port) as server:
            found = await asyncio.wait_for(answers, 10)
            await engine.stop()
        return found, server

    answers, server = asyncio.run(meanwhile())
    assert [answer.status_code for answer in answers] == [200] * 8
    assert server.asked == {str(n): 1 for n in range(8)}
    away, back = caplog.messages
    assert away.startswith(f"The engine at http://127.0.0.1:{port} cannot be reached (ConnectError")
    assert back.startswith(f"The engine at http://127.0.0.1:{port} is back after")


def test_an_answer_that_is_no_longer_wanted_is_not_waited_for() -> None:
    async def given_up() -> Answer | None:
        engine = HttpEngine(
            f"http://127.0.0.1:{free_port()}/v1", connections=8, patience=Patience(first_delay=60.0, longest_delay=60.0)
        )
        await engine.start()
        until = time.monotonic() + 0.3
        answer = await asyncio.wait_for(engine.answer_while(chat(), lambda: time.monotonic() < until), 5)
        await engine.stop()
        return answer

    assert asyncio.run(given_up()) is None


@pytest.mark.parametrize("trusted", [True, False])
def test_certificates_are_trusted_as_the_environment_says(
    server: EngineServer,
    trusted: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    else:
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)

    async def given_up_soon(url: str) -> Answer | None:
        engine = HttpEngine(url, connections=8, patience=HASTY)
        await engine.start()
        until = time.monotonic() + 0.3
        answer = await engine.answer_while(chat(), lambda: trusted or time.monotonic() < until)
        await engine.stop()
        return answer

    with fault_proxy(server.url, tls=context) as proxy:
        answer = asyncio.run(given_up_soon(proxy.url))
    assert (answer is not None and answer.status_code == 200) == trusted
    assert ("CERTIFICATE_VERIFY_FAILED" in caplog.text) == (not trusted)


def test_patience_does_not_run_while_the_server_is_away_but_attempts_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("airflow_provider_llmbatch.server.engines.http.time.monotonic", lambda: clock[0])
    trial = _Trial(Patience(attempts=2, seconds=50.0))
    trial.begin()
    assert trial.next_delay(Answer(500, b""), None) is not None
    trial.pause()
    clock[0] += 1000.0
    trial.begin()
    assert trial.next_delay(Answer(503, b""), None) is not None
    assert trial.next_delay(Answer(500, b""), None) is None
