"""No key, no password and no value of a header stands in a message, a repr or a log line, whoever wrote it there."""

from __future__ import annotations

import io
import json
import logging
import socket
import traceback
from typing import TYPE_CHECKING

import pytest
from support.adapter_contract import unique_name
from support.fault_proxy import Answer, Drop, FaultProxy, Garbage, Hang, LoseAnswer

from airflow_provider_llmbatch.adapters.http import Call, HttpClient, TransportSettings
from airflow_provider_llmbatch.adapters.openai import OpenAIAdapter, OpenAISettings
from airflow_provider_llmbatch.errors import ConnectionSettingsError, LLMBatchError

if TYPE_CHECKING:
    from collections.abc import Callable

    from adapters.conftest import Connect

KEY = "sk-proj-SECRETkey-0123456789"
HEADER = "header-SECRET-value"
PASSWORD = "pr0xy-SECRET"
HTML = {"Content-Type": "text/html"}

_CALLS: dict[str, Callable[[OpenAIAdapter], object]] = {
    "create_file": lambda adapter: adapter.create_file(io.BytesIO(b"{}\n"), filename=unique_name()),
    "content": lambda adapter: b"".join(adapter.file_content("file-1")),
    "create_batch": lambda adapter: adapter.create_batch("file-1", endpoint="/v1/embeddings"),
    "retrieve_batch": lambda adapter: adapter.retrieve_batch("batch_1"),
    "list_batches": lambda adapter: list(adapter.list_batches()),
    "cancel_batch": lambda adapter: adapter.cancel_batch("batch_1"),
    "delete_file": lambda adapter: adapter.delete_file("file-1"),
    "ping": lambda adapter: adapter.ping(),
}
_ECHO = f"Incorrect API key provided: {KEY}. Your headers: Bearer {KEY}, {HEADER}."
_FAULTS = [
    *(Answer(status, json.dumps({"error": {"message": _ECHO, "code": KEY}}).encode()) for status in (400, 401, 404)),
    *(Answer(status, json.dumps({"error": {"message": _ECHO, "code": KEY}}).encode()) for status in (409, 429, 500)),
    *(Answer(status, _ECHO.encode(), {"Content-Type": "text/plain"}) for status in (403, 413, 503)),
    Answer(401, json.dumps({"detail": _ECHO}).encode(), {"X-Request-Id": KEY}),
    Answer(200, json.dumps({"id": 7, "status": _ECHO}).encode()),
    Answer(200, _ECHO.encode()),
    Answer(200, _ECHO.encode(), HTML),
    Answer(302, b"", {"Location": f"https://login.example/?key={KEY}&h={HEADER}"}),
    Drop(),
    LoseAnswer(),
    Garbage(f"{KEY} {HEADER}\r\n\r\n".encode()),
    Hang(),
]


def _written(error: BaseException) -> str:
    """All that a log could hold of an error, the errors behind it included."""
    return "\n".join([str(error), repr(error), repr(vars(error)), *traceback.format_exception(error)])


@pytest.mark.parametrize("call", _CALLS)
@pytest.mark.parametrize("fault", _FAULTS, ids=lambda fault: f"{type(fault).__name__}{getattr(fault, 'status', '')}")
def test_an_error_holds_no_secret_even_if_the_server_writes_it(
    connect: Connect, faulty: FaultProxy, caplog: pytest.LogCaptureFixture, call: str, fault: Answer
) -> None:
    caplog.set_level(logging.DEBUG)
    for method in ("GET", "POST", "DELETE"):
        faulty.rule(method, "", fault, times=None)
    adapter = connect(
        faulty.url, api_key=KEY, headers={"X-Secret": HEADER}, transport=TransportSettings(timeout=0.1, max_attempts=2)
    )
    try:
        _CALLS[call](adapter)
    except LLMBatchError as error:
        written = _written(error)
        assert KEY not in written
        assert HEADER not in written
    else:
        # A file holds what it holds, a delete's answer is not read, and a page without items is an empty one.
        assert fault.status == 200
        assert call in ("content", "delete_file", "list_batches", "ping")
    ours = [record for record in caplog.records if not record.name.startswith(("httpcore", "asyncio"))]
    assert not [record.getMessage() for record in ours if KEY in record.getMessage() or HEADER in record.getMessage()]


def test_a_key_is_not_cut_in_two_by_the_end_of_a_quotation(connect: Connect, canned: FaultProxy) -> None:
    for start in range(460, 501, 4):
        canned.rule("GET", "", Answer(401, json.dumps({"error": {"message": "x" * start + KEY}}).encode()))
        with pytest.raises(LLMBatchError) as caught:
            connect(canned.url, api_key=KEY).ping()
        assert "sk-proj" not in str(caught.value), start


def test_settings_and_adapters_show_no_secret() -> None:
    settings = OpenAISettings(
        KEY, headers={"X-Secret": HEADER}, transport=TransportSettings(proxy=f"http://me:{PASSWORD}@127.0.0.1:9")
    )
    adapter = OpenAIAdapter(settings)
    shown = f"{settings!r} {settings} {adapter!r} {adapter._http!r} {adapter._http._client!r}"
    adapter.close()
    assert not [secret for secret in (KEY, HEADER, PASSWORD) if secret in shown]


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.parametrize("password", [PASSWORD, "p%40ss%2FSECRET"])
def test_a_proxys_password_is_in_no_error(
    connect: Connect, closed_port: int, caplog: pytest.LogCaptureFixture, password: str
) -> None:
    caplog.set_level(logging.DEBUG)
    transport = TransportSettings(proxy=f"http://me:{password}@127.0.0.1:{closed_port}", max_attempts=1)
    with pytest.raises(LLMBatchError) as caught:
        connect("http://provider.example/v1", transport=transport).ping()
    assert "SECRET" not in _written(caught.value)
    assert "SECRET" not in caplog.text


@pytest.mark.parametrize(
    "proxy",
    [
        f"ftp://me:{PASSWORD}@host:1",
        f"http://me:{PASSWORD}@host:port",
        f"http://me:{PASSWORD}@[::1",
        f"me:{PASSWORD}@x",
        "127.0.0.1:3128",
    ],
)
def test_a_proxy_that_cannot_be_used_is_refused_without_its_password(connect: Connect, proxy: str) -> None:
    with pytest.raises(ConnectionSettingsError, match="Mend the connection's proxy") as caught:
        connect("http://provider.example/v1", transport=TransportSettings(proxy=proxy))
    assert PASSWORD not in _written(caught.value)


@pytest.mark.parametrize("scheme", ["http", "ftp"])
def test_a_password_in_the_base_url_is_in_no_error(connect: Connect, closed_port: int, scheme: str) -> None:
    with pytest.raises(LLMBatchError) as caught:
        connect(f"{scheme}://me:{PASSWORD}@127.0.0.1:{closed_port}/v1").ping()
    assert PASSWORD not in _written(caught.value)


@pytest.mark.parametrize("key", [f"{KEY}\n", f"{KEY}\r\nX-Injected: 1", f"{KEY}é"])
def test_a_key_that_cannot_be_sent_is_refused_without_quoting_it(
    connect: Connect, canned: FaultProxy, key: str
) -> None:
    with pytest.raises(ConnectionSettingsError, match=r"'Authorization'.*Nothing was sent") as caught:
        connect(canned.url, api_key=key)
    assert KEY not in _written(caught.value)
    assert canned.requests == []


def test_tokens_of_attempts_that_were_refused_stay_secrets() -> None:
    tokens = [f"ya29.token-number-{number}" for number in range(4)]

    class Renewed:
        def __init__(self) -> None:
            self._left = iter(tokens)

        def headers(self) -> dict[str, str]:
            return {"Authorization": f"Bearer {next(self._left)}"}

        def refused(self) -> None: ...

        remedy = "mend it"

    client = HttpClient(
        "http://127.0.0.1", title="T", headers={}, settings=TransportSettings(), authorization=Renewed()
    )
    for _ in tokens:
        client.headers(Call("GET", "v1", "look"))
    client.close()
    assert client.redacted(" and ".join(tokens)) == "*** and *** and *** and ***"
