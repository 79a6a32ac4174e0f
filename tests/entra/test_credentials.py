"""Entra ID: who calls, with a token for every call, from a real OAuth server; and what happens when nobody may."""

from __future__ import annotations

import io
import json
import sys
import time
import uuid
from typing import TYPE_CHECKING

import pytest
from airflow.sdk import Connection
from entra.conftest import SECRET
from support.entra import TENANT, EntraServer, answer_everything, bearers
from support.fault_proxy import Answer, FaultProxy, fault_proxy

from airflow_provider_llmbatch.adapters.azure_address import CLASSIC_SCOPE, V1_SCOPE
from airflow_provider_llmbatch.errors import AccessRefusedError, ConnectionSettingsError, UnavailableError
from airflow_provider_llmbatch.hooks.azure import azure_adapter

if TYPE_CHECKING:
    from pathlib import Path

    from entra.conftest import OpenAdapter


def test_every_call_carries_the_one_token(
    entra: EntraServer, azure: FaultProxy, open_adapter: OpenAdapter, client_id: str
) -> None:
    answer_everything(azure)
    adapter = open_adapter(client_id=client_id, client_secret=SECRET)
    adapter.create_file(io.BytesIO(b"{}\n"), filename="a.jsonl")
    adapter.retrieve_file("file-1")
    list(adapter.list_files())
    b"".join(adapter.file_content("file-1"))
    adapter.delete_file("file-1")
    adapter.create_batch("file-1", endpoint="/v1/chat/completions")
    adapter.retrieve_batch("batch_1")
    list(adapter.list_batches())
    adapter.cancel_batch("batch_1")
    assert adapter.ping().startswith("The server at 127.0.0.1 accepts the identity")
    [token] = entra.tokens(client_id)
    assert bearers(azure) == [token] * 11  # ten verbs, and the look at the file before the batch
    assert not any("api-key" in request.headers for request in azure.requests)


@pytest.mark.parametrize(
    ("path", "extra", "scope"),
    [
        ("/openai/v1", {}, V1_SCOPE),
        ("", {"api_version": "2024-10-21"}, CLASSIC_SCOPE),
        ("", {"scope": "https://cognitiveservices.azure.us/.default"}, "https://cognitiveservices.azure.us/.default"),
    ],
)
def test_the_scope_is_that_of_the_urls_shape_unless_the_connection_names_another(
    entra: EntraServer,
    azure: FaultProxy,
    open_adapter: OpenAdapter,
    client_id: str,
    path: str,
    extra: dict[str, str],
    scope: str,
) -> None:
    answer_everything(azure)
    open_adapter(host=azure.url + path, client_id=client_id, client_secret=SECRET, **extra).ping()
    assert [request["scope"] for request in entra.requests(client_id)] == [scope]


@pytest.fixture
def application(tmp_path: Path) -> tuple[str, str]:
    """A certificate for an application with its private key, as a file; and its public part."""
    import trustme

    certificate = trustme.CA().issue_cert("application.test", key_type=trustme.KeyType.RSA)
    path = tmp_path / "application.pem"
    certificate.private_key_and_cert_chain_pem.write_to_path(path)
    return str(path), certificate.cert_chain_pems[0].bytes().decode()


def test_a_certificate_proves_the_application_by_a_signature(
    entra: EntraServer, azure: FaultProxy, open_adapter: OpenAdapter, client_id: str, application: tuple[str, str]
) -> None:
    path, public = application
    entra.know(client_id, certificate=public)
    answer_everything(azure)
    open_adapter(client_id=client_id, certificate_path=path).ping()
    assert bearers(azure) == entra.tokens(client_id) != []


def test_a_certificate_that_entra_does_not_know_is_refused(
    entra: EntraServer, open_adapter: OpenAdapter, client_id: str, application: tuple[str, str]
) -> None:
    import trustme

    other = trustme.CA().issue_cert("other.test", key_type=trustme.KeyType.RSA).cert_chain_pems[0].bytes().decode()
    entra.know(client_id, certificate=other)
    with pytest.raises(AccessRefusedError, match=r"this connection's certificate \(client app-"):
        open_adapter(client_id=client_id, certificate_path=application[0]).ping()


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_certificate_that_cannot_be_read_is_the_connections_fault(
    open_adapter: OpenAdapter, client_id: str, tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "certificate.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConnectionSettingsError, match=r"identity of this connection, certificate .* cannot be used"):
        open_adapter(client_id=client_id, certificate_path=str(path)).ping()


def test_a_workload_identity_proves_itself_by_the_token_that_kubernetes_renews(
    entra: EntraServer,
    azure: FaultProxy,
    open_adapter: OpenAdapter,
    client_id: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "federated-token"
    monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(path))
    answer_everything(azure)
    entra.set(lifetime=300)  # so every call needs a new one
    adapter = open_adapter(client_id=client_id, workload_identity=True)
    for assertion in ("the-first-assertion", "the-second-assertion"):
        entra.know(client_id, assertion=assertion)
        path.write_text(assertion)
        adapter.ping()
    assert bearers(azure) == entra.tokens(client_id)
    assert len(set(bearers(azure))) == 2


def test_the_default_chain_finds_what_the_environment_holds(
    entra: EntraServer, azure: FaultProxy, open_adapter: OpenAdapter, client_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"TENANT_ID": TENANT, "CLIENT_ID": client_id, "CLIENT_SECRET": SECRET}.items():
        monkeypatch.setenv(f"AZURE_{name}", value)
    answer_everything(azure)
    open_adapter(tenant_id=None).ping()
    assert bearers(azure) == entra.tokens(client_id) != []


@pytest.mark.parametrize(
    ("extra", "asked"),
    [
        ({"managed_identity": True}, None),
        ({"managed_identity_client_id": "assigned-1"}, "assigned-1"),
    ],
    ids=["system", "user"],
)
def test_a_managed_identity_is_asked_for_on_the_machine_itself(
    azure: FaultProxy,
    open_adapter: OpenAdapter,
    monkeypatch: pytest.MonkeyPatch,
    extra: dict[str, object],
    asked: str | None,
) -> None:
    with fault_proxy() as machine:  # answers as App Service does
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"{machine.url}/msi/token")
        monkeypatch.setenv("IDENTITY_HEADER", "header-of-the-machine")
        token = {"access_token": "token-of-the-machine", "expires_on": str(int(time.time()) + 3600)}
        body = json.dumps({**token, "resource": "https://ai.azure.com", "token_type": "Bearer"}).encode()
        machine.rule("GET", "/msi/token$", Answer(200, body), times=None)
        answer_everything(azure)
        open_adapter(tenant_id=None, scope=f"https://scope-{uuid.uuid4()}/.default", **extra).ping()
        [request] = machine.requests
    assert request.headers["x-identity-header"] == "header-of-the-machine"
    assert (f"client_id={asked}" in request.path) is (asked is not None)
    assert bearers(azure) == ["token-of-the-machine"]


def test_a_certificate_of_entra_that_is_not_trusted_is_the_connections_fault(
    open_adapter: OpenAdapter, client_id: str
) -> None:
    adapter = open_adapter(looking=True, ca_bundle=None, client_id=client_id, client_secret=SECRET)
    with pytest.raises(ConnectionSettingsError, match="Set the connection's CA bundle"):
        adapter.ping()


def test_the_proxy_of_the_connection_leads_to_entra_too(
    entra: EntraServer, azure: FaultProxy, open_adapter: OpenAdapter, client_id: str
) -> None:
    with fault_proxy() as proxy:
        proxy.rule("CONNECT", "", Answer(502), times=None)
        through = f"http://me:pr0xy-word@127.0.0.1:{proxy.port}"
        adapter = open_adapter(looking=True, proxy=through, client_id=client_id, client_secret=SECRET)
        with pytest.raises(UnavailableError, match="That is an outage of Entra ID, or of the way to it") as failed:
            adapter.ping()
        assert {(request.method, request.path) for request in proxy.requests} == {("CONNECT", entra.authority_host)}
    assert "pr0xy-word" not in str(failed.value)
    assert azure.requests == []


def test_without_azure_identity_the_command_that_installs_it_is_named(
    open_adapter: OpenAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "azure.identity", None)
    with pytest.raises(ConnectionSettingsError, match=r"pip install 'airflow-provider-llmbatch\[azure\]'"):
        open_adapter(client_id="c", client_secret=SECRET)


def test_with_an_api_key_azure_identity_is_not_needed(azure: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "azure.identity", None)
    answer_everything(azure)
    adapter = azure_adapter(Connection(conn_id="azure", conn_type="llmbatch_azure", host=azure.url, password="key-1"))
    adapter.ping()
    adapter.close()
    assert [(r.headers.get("api-key"), r.headers.get("authorization")) for r in azure.requests] == [("key-1", None)]
