"""How the adapter reaches a provider: certificates, proxies, base URLs."""

from __future__ import annotations

import base64
import ssl
from typing import TYPE_CHECKING

import pytest
import trustme
from support.fault_proxy import Answer, fault_proxy

from airflow_provider_llmbatch.adapters.http import TransportSettings
from airflow_provider_llmbatch.errors import ConnectionSettingsError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from adapters.conftest import Connect
    from support.fault_proxy import FaultProxy
    from support.server import RunningServer

PROXY_PASSWORD = "p4ss-of-the-proxy"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_bundle(authority: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


@pytest.fixture
def encrypted(authority: trustme.CA, echo_server: RunningServer) -> Iterator[FaultProxy]:
    """The real server behind TLS, with a certificate of a private authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with fault_proxy(echo_server.url, tls=context) as proxy:
        yield proxy


def test_a_private_authority_is_trusted_by_its_bundle(connect: Connect, encrypted: FaultProxy, ca_bundle: str) -> None:
    adapter = connect(encrypted.url, transport=TransportSettings(ca_bundle=ca_bundle))
    assert encrypted.url.startswith("https://")
    assert "accepts the key" in adapter.ping()


def test_a_certificate_of_nobody_is_refused_at_once(
    connect: Connect, encrypted: FaultProxy, sleeps: list[float]
) -> None:
    with pytest.raises(ConnectionSettingsError, match="Set the connection's CA bundle"):
        connect(encrypted.url).ping()
    with pytest.raises(ConnectionSettingsError, match="Set the connection's CA bundle"):
        b"".join(connect(encrypted.url).file_content("file-1"))
    assert (encrypted.requests, sleeps) == ([], [])


@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_a_bundle_that_cannot_be_read_is_named(connect: Connect, tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "bundle.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConnectionSettingsError, match=r"The CA bundle .*bundle\.pem of this connection cannot be read"):
        connect("https://127.0.0.1:9/v1", transport=TransportSettings(ca_bundle=str(path)))


def test_calls_go_through_the_proxy_of_the_connection(
    connect: Connect, faulty: FaultProxy, echo_server: RunningServer
) -> None:
    proxy = f"http://user:{PROXY_PASSWORD}@127.0.0.1:{faulty.port}"
    assert "accepts the key" in connect(echo_server.url, transport=TransportSettings(proxy=proxy)).ping()
    [request] = faulty.requests
    credentials = base64.b64encode(f"user:{PROXY_PASSWORD}".encode()).decode()
    assert request.headers["proxy-authorization"] == f"Basic {credentials}"
    assert request.headers["host"] in echo_server.url


def test_calls_go_through_the_proxy_of_the_environment(
    connect: Connect, faulty: FaultProxy, echo_server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{faulty.port}")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{faulty.port}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    connect(echo_server.url).ping()
    assert len(faulty.requests) == 1


def test_a_proxy_that_refuses_its_password_is_the_connections_fault(
    connect: Connect, canned: FaultProxy, sleeps: list[float]
) -> None:
    canned.rule("GET", "", Answer(407), times=None)
    canned.rule("CONNECT", "", Answer(407), times=None)
    transport = TransportSettings(proxy=f"http://user:{PROXY_PASSWORD}@127.0.0.1:{canned.port}")
    for url in ("http://api.example/v1", "https://api.example/v1"):
        with pytest.raises(ConnectionSettingsError, match="proxy") as caught:
            connect(url, transport=transport).ping()
        assert "Nothing was" in str(caught.value)
    assert (len(canned.requests), sleeps) == (2, [])


def test_a_proxy_that_is_gone_was_never_passed(connect: Connect) -> None:
    transport = TransportSettings(proxy="http://127.0.0.1:1", max_attempts=1)
    with pytest.raises(UnavailableError) as caught:
        connect("http://api.example/v1", transport=transport).create_batch("file-1", endpoint="/v1/embeddings")
    assert caught.value.reached is False


@pytest.mark.parametrize("suffix", ["", "/"])
def test_a_base_url_may_end_in_a_slash(connect: Connect, faulty: FaultProxy, suffix: str) -> None:
    connect(faulty.url + suffix).ping()
    assert faulty.requests[0].path == "/v1/batches?limit=1"


def test_a_base_url_may_have_a_longer_path(connect: Connect, canned: FaultProxy) -> None:
    canned.rule("GET", "", Answer(200, b'{"data": []}'))
    assert "it has no batches yet" in connect(f"{canned.url}/gateway/openai/v1").ping()
    assert canned.requests[0].path == "/gateway/openai/v1/batches?limit=1"
