"""Entra ID: who calls, with a token for every call, from a real OAuth server; and what happens when there is none."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import shutil
import sys
import threading
import time
import traceback
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from airflow.sdk import Connection
from airflow.sdk.exceptions import AirflowFailException
from support.entra import TENANT, EntraServer, entra_server
from support.fault_proxy import Answer, FaultProxy, fault_proxy
from support.task import adapters_closed, context_of

from airflow_provider_llmbatch.adapters import entra as entra_module
from airflow_provider_llmbatch.adapters.azure_address import CLASSIC_SCOPE, V1_SCOPE
from airflow_provider_llmbatch.errors import AccessRefusedError, ConnectionSettingsError, UnavailableError
from airflow_provider_llmbatch.hooks.azure import azure_adapter
from airflow_provider_llmbatch.operators.batch import LLMBatchCreateBatchOperator
from airflow_provider_llmbatch.triggers.batch import LLMBatchTrigger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_llmbatch.adapters.azure import AzureAdapter
    from airflow_provider_llmbatch.triggers.batch import BatchEvent

SECRET = "s3cret-of-the-application"
RUNNING = b'{"id": "batch_1", "status": "in_progress", "input_file_id": "file-1", "created_at": 1700000000}'
ANSWER = b'{"id": "x-1", "status": "processed", "data": []}'


@pytest.fixture(scope="module")
def entra(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EntraServer]:
    modules = Path(os.environ.get("LLMBATCH_TEST_OAUTH_MODULES", "nowhere"))
    if not (modules / "oauth2-mock-server").is_dir() or not shutil.which("node"):
        assert os.environ.get("CI") != "true", "node and the npm package oauth2-mock-server must be there in CI"
        pytest.skip("the npm package oauth2-mock-server is not installed; make test installs it where there is npm")
    with entra_server(modules, tmp_path_factory.mktemp("entra")) as server:
        yield server


@pytest.fixture(autouse=True)
def quiet_environment(entra: EntraServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("AZURE_", "IDENTITY_", "MSI_"))]:
        monkeypatch.delenv(name)
    entra.set()


@pytest.fixture
def azure() -> Iterator[FaultProxy]:
    """Azure OpenAI, as far as an answer to everything goes."""
    with fault_proxy() as proxy:
        yield proxy


@pytest.fixture
def client_id(entra: EntraServer) -> str:
    """An application of the test's own, so that no token of another test counts."""
    name = f"app-{uuid.uuid4()}"
    entra.know(name, secret=SECRET)
    return name


class Open(Protocol):
    def __call__(self, *, host: str = ..., looking: bool = ..., **extra: object) -> AzureAdapter: ...


@pytest.fixture
def connection(entra: EntraServer, azure: FaultProxy) -> Any:
    def made(host: str | None = None, **extra: object) -> Connection:
        given = {"authority_host": entra.authority_host, "ca_bundle": entra.ca_bundle, "tenant_id": TENANT, **extra}
        extra_text = json.dumps({name: value for name, value in given.items() if value is not None})
        return Connection(conn_id="azure", conn_type="llmbatch_azure", host=host or azure.url, extra=extra_text)

    return made


@pytest.fixture
def open_adapter(connection: Any) -> Iterator[Open]:
    with ExitStack() as stack:

        def opened(*, host: str | None = None, looking: bool = False, **extra: object) -> AzureAdapter:
            adapter = azure_adapter(connection(host, **extra), looking=looking)
            adapter._http._sleep = lambda _: None
            stack.callback(adapter.close)
            return adapter

        yield opened


def answer_everything(azure: FaultProxy) -> None:
    for method in ("GET", "POST", "DELETE"):
        azure.rule(method, "", Answer(200, ANSWER), times=None)


def bearers(azure: FaultProxy) -> list[str]:
    return [request.headers.get("authorization", "").removeprefix("Bearer ") for request in azure.requests]


def tokens(entra: EntraServer, client_id: str) -> list[str]:
    return [request["token"] for request in entra.requests(client_id) if request["status"] == 200]


def test_every_call_carries_the_one_token(
    entra: EntraServer, azure: FaultProxy, open_adapter: Open, client_id: str
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
    [token] = tokens(entra, client_id)
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
    open_adapter: Open,
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
    entra: EntraServer, azure: FaultProxy, open_adapter: Open, client_id: str, application: tuple[str, str]
) -> None:
    path, public = application
    entra.know(client_id, certificate=public)
    answer_everything(azure)
    open_adapter(client_id=client_id, certificate_path=path).ping()
    assert bearers(azure) == tokens(entra, client_id) != []


def test_a_certificate_that_entra_does_not_know_is_refused(
    entra: EntraServer, open_adapter: Open, client_id: str, application: tuple[str, str]
) -> None:
    import trustme

    other = trustme.CA().issue_cert("other.test", key_type=trustme.KeyType.RSA).cert_chain_pems[0].bytes().decode()
    entra.know(client_id, certificate=other)
    with pytest.raises(AccessRefusedError, match=r"this connection's certificate \(client app-"):
        open_adapter(client_id=client_id, certificate_path=application[0]).ping()


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_certificate_that_cannot_be_read_is_the_connections_fault(
    open_adapter: Open, client_id: str, tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "certificate.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConnectionSettingsError, match=r"identity of this connection, certificate .* cannot be used"):
        open_adapter(client_id=client_id, certificate_path=str(path)).ping()


def test_a_workload_identity_proves_itself_by_the_token_that_kubernetes_renews(
    entra: EntraServer,
    azure: FaultProxy,
    open_adapter: Open,
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
    assert bearers(azure) == tokens(entra, client_id)
    assert len(set(bearers(azure))) == 2


def test_the_default_chain_finds_what_the_environment_holds(
    entra: EntraServer, azure: FaultProxy, open_adapter: Open, client_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"TENANT_ID": TENANT, "CLIENT_ID": client_id, "CLIENT_SECRET": SECRET}.items():
        monkeypatch.setenv(f"AZURE_{name}", value)
    answer_everything(azure)
    open_adapter(tenant_id=None).ping()
    assert bearers(azure) == tokens(entra, client_id) != []


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
    open_adapter: Open,
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
        # The connection's proxy is for the way to Azure, and leads nowhere here.
        open_adapter(tenant_id=None, scope=f"https://scope-{uuid.uuid4()}/.default", **extra).ping()
        [request] = machine.requests
    assert request.headers["x-identity-header"] == "header-of-the-machine"
    assert (f"client_id={asked}" in request.path) is (asked is not None)
    assert bearers(azure) == ["token-of-the-machine"]


def test_a_token_that_ends_in_the_middle_of_a_day_is_renewed_five_minutes_before(
    entra: EntraServer, azure: FaultProxy, open_adapter: Open, client_id: str
) -> None:
    answer_everything(azure)
    adapter = open_adapter(client_id=client_id, client_secret=SECRET)
    now = time.time()
    authorization: Any = adapter._http._authorization
    for hours, seconds in ((0, 0), (0, 3290), (0, 3310), (1, 0)):
        authorization._clock = lambda at=now + hours * 3600 + seconds: at
        adapter.retrieve_batch("batch_1")
    first, second = tokens(entra, client_id)[:2]
    assert bearers(azure)[:3] == [first, first, second]
    assert bearers(azure)[3] == tokens(entra, client_id)[-1]


def test_many_threads_ask_for_one_token(
    entra: EntraServer, azure: FaultProxy, open_adapter: Open, client_id: str
) -> None:
    answer_everything(azure)
    adapters = [open_adapter(client_id=client_id, client_secret=SECRET) for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: adapters[n % 4].retrieve_batch("batch_1"), range(16)))
    assert len(entra.requests(client_id)) == 1
    assert len(set(bearers(azure))) == 1


def test_a_token_that_azure_does_not_accept_is_not_used_again(
    entra: EntraServer, azure: FaultProxy, open_adapter: Open, client_id: str
) -> None:
    azure.rule("GET", "", Answer(401, b'{"error": {"code": "401", "message": "Unauthorized."}}'))
    answer_everything(azure)
    adapter = open_adapter(client_id=client_id, client_secret=SECRET)
    with pytest.raises(AccessRefusedError):
        adapter.ping()
    adapter.ping()
    assert bearers(azure) == tokens(entra, client_id)
    assert len(set(bearers(azure))) == 2


def test_a_revoked_secret_is_told_and_nothing_is_sent(
    entra: EntraServer, azure: FaultProxy, open_adapter: Open, client_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    entra.revoke(client_id)
    adapter = open_adapter(client_id=client_id, client_secret=SECRET)
    with pytest.raises(AccessRefusedError) as refused:
        adapter.create_batch("file-1", endpoint="/v1/chat/completions")
    message = str(refused.value)
    assert message.startswith(
        f"Entra ID gave no token to this connection's client secret (client {client_id}, tenant {TENANT}): "
        "Authentication failed: AADSTS7000222: "
    )
    assert "Nothing was sent to Azure OpenAI or billed, and nothing was cancelled." in message
    assert azure.requests == []
    written = [message, repr(vars(refused.value)), *traceback.format_exception(refused.value), repr(adapter._azure)]
    assert SECRET not in "\n".join([*written, caplog.text, repr(entra_module._TOKENS)])


def test_a_token_stands_in_no_error_even_if_the_server_writes_it(
    entra: EntraServer, azure: FaultProxy, open_adapter: Open, client_id: str
) -> None:
    adapter = open_adapter(client_id=client_id, client_secret=SECRET)
    [token] = [adapter._http._authorization.headers()["Authorization"].removeprefix("Bearer ")]  # type: ignore[union-attr]
    azure.rule("GET", "", Answer(403, json.dumps({"error": {"message": f"Not with {token}."}}).encode()))
    with pytest.raises(AccessRefusedError, match=r"Not with \*\*\*"):
        adapter.ping()
    assert tokens(entra, client_id) == [token]


@pytest.mark.parametrize("outage", [503, 429])
def test_an_outage_of_entra_is_borne_and_retried_like_one_of_azure(
    entra: EntraServer, azure: FaultProxy, open_adapter: Open, client_id: str, outage: int
) -> None:
    entra.set(outage=outage)
    adapter = open_adapter(looking=True, client_id=client_id, client_secret=SECRET)
    with pytest.raises(UnavailableError, match="That is an outage of Entra ID, or of the way to it") as failed:
        adapter.create_batch("file-1", endpoint="/v1/chat/completions")
    assert (failed.value.reached, azure.requests) == (False, [])


def test_an_entra_that_cannot_be_reached_is_an_outage(azure: FaultProxy, open_adapter: Open, client_id: str) -> None:
    adapter = open_adapter(looking=True, authority_host="127.0.0.1:9", client_id=client_id, client_secret=SECRET)
    with pytest.raises(UnavailableError, match="That is an outage of Entra ID"):
        adapter.ping()
    assert azure.requests == []


def test_a_token_about_to_end_is_used_while_entra_is_down(
    entra: EntraServer, azure: FaultProxy, open_adapter: Open, client_id: str
) -> None:
    answer_everything(azure)
    adapter = open_adapter(looking=True, client_id=client_id, client_secret=SECRET)
    adapter.ping()
    entra.set(outage=503)
    authorization: Any = adapter._http._authorization
    authorization._clock = lambda: time.time() + 3590
    adapter.ping()
    assert bearers(azure) == tokens(entra, client_id) * 2
    authorization._clock = lambda: time.time() + 3610
    with pytest.raises(UnavailableError):
        adapter.ping()


def test_a_certificate_of_entra_that_is_not_trusted_is_the_connections_fault(
    open_adapter: Open, client_id: str
) -> None:
    adapter = open_adapter(looking=True, ca_bundle=None, client_id=client_id, client_secret=SECRET)
    with pytest.raises(ConnectionSettingsError, match="Set the connection's CA bundle"):
        adapter.ping()


def test_without_azure_identity_the_command_that_installs_it_is_named(
    open_adapter: Open, monkeypatch: pytest.MonkeyPatch
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


def fired(connection: Connection, monkeypatch: pytest.MonkeyPatch, *, seconds: float = 30.0) -> BatchEvent:
    """What a triggerer makes of the wait for ``batch_1``."""
    monkeypatch.setenv("AIRFLOW_CONN_AZURE", connection.as_json())

    async def first() -> BatchEvent:
        trigger = LLMBatchTrigger("azure", "batch_1", time.time() + seconds, 0.05, 0.05)
        async for event in trigger.run():
            payload: BatchEvent = event.payload
            return payload
        raise AssertionError("the trigger did not fire")

    return asyncio.run(first())


def test_a_wait_goes_on_when_its_token_ends_and_the_event_loop_gets_none(
    entra: EntraServer, azure: FaultProxy, connection: Any, client_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entra.set(lifetime=300)  # so that every look comes after the end of the one before
    threads = []
    make = entra_module._credential_of

    def watched(*args: Any) -> Any:
        threads.append(threading.current_thread().name)
        return make(*args)

    monkeypatch.setattr(entra_module, "_credential_of", watched)
    azure.rule("GET", "/batches/batch_1$", Answer(200, RUNNING), times=3)
    azure.rule("GET", "/batches/batch_1$", Answer(200, RUNNING.replace(b"in_progress", b"completed")))
    event = fired(connection(client_id=client_id, client_secret=SECRET), monkeypatch)
    assert (event["status"], event["error"]) == ("ended", None)
    assert bearers(azure) == tokens(entra, client_id)
    assert len(set(bearers(azure))) == 4
    assert {name.rpartition("_")[0] for name in threads} == {"llmbatch"}


def test_a_secret_that_is_revoked_in_the_middle_of_a_wait_ends_the_wait_and_cancels_nothing(
    entra: EntraServer, azure: FaultProxy, connection: Any, client_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entra.set(lifetime=300)
    azure.rule("GET", "/batches/batch_1$", Answer(200, RUNNING), times=None)
    given = connection(client_id=client_id, client_secret=SECRET)

    def revoke_after_two(*args: Any) -> Any:
        if len(azure.requests) == 2:
            entra.revoke(client_id)
        return make(*args)

    make = entra_module._credential_of
    monkeypatch.setattr(entra_module, "_credential_of", revoke_after_two)
    event = fired(given, monkeypatch)
    assert event["status"] == "given_up"
    task = LLMBatchCreateBatchOperator(task_id="create_batch", input_file_id="file-1", llmbatch_conn_id="azure")
    with adapters_closed(monkeypatch), pytest.raises(AirflowFailException) as failed:
        task.execute_complete(context_of(task)[0], event)
    message = str(failed.value)
    assert "AADSTS7000222: The provided client secret keys are expired or revoked" in message
    assert "batch_1 was not cancelled, and goes on if it had not ended." in message
    assert SECRET not in message
    assert [(request.method, request.path) for request in azure.requests] == [("GET", "/openai/v1/batches/batch_1")] * 2


def test_a_secret_that_was_replaced_in_the_connection_counts_from_the_next_look(
    entra: EntraServer, azure: FaultProxy, connection: Any, client_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entra.set(lifetime=300)
    azure.rule("GET", "/batches/batch_1$", Answer(200, RUNNING))
    azure.rule("GET", "/batches/batch_1$", Answer(200, RUNNING.replace(b"in_progress", b"completed")))
    make = entra_module._credential_of

    def replace_after_one(*args: Any) -> Any:
        if len(azure.requests) == 1:
            entra.know(client_id, secret="another-secret")
            renewed = connection(client_id=client_id, client_secret="another-secret")
            monkeypatch.setenv("AIRFLOW_CONN_AZURE", renewed.as_json())
        return make(*args)

    monkeypatch.setattr(entra_module, "_credential_of", replace_after_one)
    assert fired(connection(client_id=client_id, client_secret=SECRET), monkeypatch)["status"] == "ended"
    assert [request["status"] for request in entra.requests(client_id)] == [200, 401, 200]
