"""The proxy breaks what it is told to break, and nothing else."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import httpx
import pytest
from typing_extensions import override

from support.fault_proxy import Answer, Delay, Drop, Garbage, Hang, LoseAnswer, Truncate, fault_proxy

if TYPE_CHECKING:
    from collections.abc import Iterator


class _Echo(BaseHTTPRequestHandler):
    """Answers a POST with its body, and remembers it."""

    def do_POST(self) -> None:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        _seen.append(body)
        self.send_response(201)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    @override
    def log_message(self, *_: object) -> None:
        pass


_seen: list[bytes] = []


@pytest.fixture
def upstream() -> Iterator[str]:
    _seen.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Echo)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_request_without_a_rule_passes_unchanged_and_is_recorded(upstream: str) -> None:
    with fault_proxy(upstream) as proxy:
        answer = httpx.post(f"{proxy.url}/files?a=1", content=b"x" * 500_000, headers={"X-Name": "value"})
        [request] = proxy.requests
    assert (answer.status_code, answer.content) == (201, b"x" * 500_000)
    assert (request.method, request.path, request.headers["x-name"]) == ("POST", "/v1/files?a=1", "value")
    assert (request.body, request.body_bytes) == (b"x" * 262_144, 500_000)
    assert (request.forwarded, request.upstream_status) == (True, 201)


def test_a_chunked_body_arrives_whole(upstream: str) -> None:
    with fault_proxy(upstream) as proxy:
        answer = httpx.post(f"{proxy.url}/files", content=(b"ab" for _ in range(3)))
    assert answer.content == b"ababab"


def test_a_rule_counts_its_matches_and_the_next_one_follows(upstream: str) -> None:
    with fault_proxy(upstream) as proxy:
        proxy.rule("POST", "/files$", Answer(503, b"{}"), times=2)
        proxy.rule("POST", "/files$", Answer(429, headers={"Retry-After": "3"}))
        answers = [httpx.post(f"{proxy.url}/files?n={n}", content=b"body") for n in range(4)]
        forwarded = [request.forwarded for request in proxy.calls("POST", "/files$")]
    assert [answer.status_code for answer in answers] == [503, 503, 429, 201]
    assert answers[2].headers["retry-after"] == "3"
    assert forwarded == [False, False, False, True]
    assert _seen == [b"body"]


def test_a_lost_answer_reached_the_upstream(upstream: str) -> None:
    with fault_proxy(upstream) as proxy:
        proxy.rule("POST", "/batches$", LoseAnswer())
        with pytest.raises(httpx.ReadError, match="reset"):
            httpx.post(f"{proxy.url}/batches", content=b"body")
        [request] = proxy.requests
    assert (request.forwarded, request.upstream_status, _seen) == (True, 201, [b"body"])


@pytest.mark.parametrize("after_bytes", [None, 100_000])
def test_a_dropped_request_never_reaches_the_upstream_whole(upstream: str, after_bytes: int | None) -> None:
    with fault_proxy(upstream) as proxy:
        proxy.rule("POST", "/files$", Drop(after_bytes))
        with pytest.raises(httpx.TransportError):
            httpx.post(f"{proxy.url}/files", content=(b"x" * 65_536 for _ in range(100)))
        [request] = proxy.requests
    assert (request.forwarded, request.upstream_status) == (False, None)
    assert request.body_bytes == (131_072 if after_bytes else 6_553_600)


def test_a_closed_connection_is_no_reset(upstream: str) -> None:
    with fault_proxy(upstream) as proxy:
        proxy.rule("POST", "/files$", Drop(reset=False))
        with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
            httpx.post(f"{proxy.url}/files", content=b"body")


def test_a_truncated_answer_keeps_its_promised_length(upstream: str) -> None:
    with fault_proxy(upstream) as proxy:
        proxy.rule("POST", "/files$", Truncate(7))
        with httpx.stream("POST", f"{proxy.url}/files", content=b"0123456789") as answer:
            blocks = answer.iter_raw()
            first = next(blocks)
            with pytest.raises(httpx.RemoteProtocolError, match="received 7 bytes, expected 10"):
                next(blocks)
    assert (answer.headers["content-length"], first) == ("10", b"0123456")


@pytest.mark.parametrize("forwarding", [False, True])
def test_a_hanging_request_ends_with_the_clients_patience(upstream: str, *, forwarding: bool) -> None:
    with fault_proxy(upstream) as proxy:
        proxy.rule("POST", "/batches$", Hang(forwarding=forwarding))
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{proxy.url}/batches", content=b"body", timeout=0.2)
    assert _seen == ([b"body"] if forwarding else [])


def test_a_delayed_request_is_forwarded(upstream: str) -> None:
    with fault_proxy(upstream) as proxy:
        proxy.rule("POST", "/files$", Delay(0.3))
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{proxy.url}/files", content=b"body", timeout=0.1)
        proxy.rule("POST", "/files$", Delay(0.01))
        assert httpx.post(f"{proxy.url}/files", content=b"body").status_code == 201


def test_garbage_is_no_http(upstream: str) -> None:
    with fault_proxy(upstream) as proxy:
        proxy.rule("POST", "/files$", Garbage())
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.post(f"{proxy.url}/files", content=b"body")
