"""What an ``llmbatch_azure`` connection means: whose address, who calls, and what contradicts itself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from airflow.sdk import Connection
from support.fault_proxy import Answer, fault_proxy

from airflow_provider_llmbatch.adapters.azure import AzureAdapter, AzureSettings
from airflow_provider_llmbatch.adapters.entra import Identity
from airflow_provider_llmbatch.adapters.http import TransportSettings
from airflow_provider_llmbatch.errors import BatchInputError, ConnectionSettingsError
from airflow_provider_llmbatch.hooks.azure import LLMBatchAzureHook
from airflow_provider_llmbatch.hooks.batch import LLMBatchHook

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.fault_proxy import FaultProxy

HOST = "https://r.openai.azure.com"
SECRET = "s3cret-word"


def connection(*, host: str | None = HOST, password: str | None = None, **extra: object) -> Connection:
    return Connection(
        conn_id="azure", conn_type="llmbatch_azure", host=host, password=password, extra=json.dumps(extra)
    )


@pytest.fixture
def settings_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[AzureSettings]]:
    """What adapters are made from; none is made, since some would look for an identity."""
    made: list[AzureSettings] = []
    monkeypatch.setattr(AzureAdapter, "__init__", lambda _, settings: made.append(settings))
    return made


def test_every_field_reaches_the_adapter(settings_of: list[AzureSettings]) -> None:
    extra = {
        "api_version": "2024-10-21",
        "scope": "https://scope.test/.default",
        "batch_endpoint": "/v1/responses",
        "file_patience": 60,
        "headers": '{"X-Team": "search"}',
        "console_url": "https://console.test/{batch_id}",
        "timeout": 7,
    }
    LLMBatchHook.adapter_of(connection(password=" key-1 \n", **extra))
    assert settings_of == [
        AzureSettings(
            endpoint=HOST,
            api_key="key-1",
            identity=Identity("default chain"),
            api_version="2024-10-21",
            scope="https://scope.test/.default",
            batch_endpoint="/v1/responses",
            headers={"X-Team": "search"},
            console_url="https://console.test/{batch_id}",
            file_patience=60,
            transport=TransportSettings(timeout=7),
        )
    ]


APPLICATION = {"tenant_id": "t", "client_id": "c"}


@pytest.mark.parametrize(
    ("extra", "identity"),
    [
        ({}, Identity("default chain")),
        (
            {"authority_host": "login.microsoftonline.us"},
            Identity("default chain", authority_host="login.microsoftonline.us"),
        ),
        ({**APPLICATION, "client_secret": SECRET}, Identity("client secret", "t", "c", SECRET)),
        (
            {**APPLICATION, "certificate_path": "/c.pem", "certificate_password": "p"},
            Identity("certificate", "t", "c", certificate_path="/c.pem", certificate_password="p"),
        ),
        ({"managed_identity": True}, Identity("managed identity")),
        ({"managed_identity_client_id": "m"}, Identity("managed identity", client_id="m")),
        ({"managed_identity": True, "managed_identity_client_id": "m"}, Identity("managed identity", client_id="m")),
        ({"workload_identity": True}, Identity("workload identity")),
        ({**APPLICATION, "workload_identity": True}, Identity("workload identity", "t", "c")),
        ({"managed_identity": False, "workload_identity": None, "client_secret": ""}, Identity("default chain")),
    ],
)
def test_the_fields_say_who_asks_for_tokens(
    settings_of: list[AzureSettings], extra: dict[str, object], identity: Identity
) -> None:
    LLMBatchHook.adapter_of(connection(**extra))
    assert [(settings.api_key, settings.identity) for settings in settings_of] == [(None, identity)]


@pytest.mark.parametrize(
    ("password", "extra", "problem"),
    [
        ("key-1", {**APPLICATION, "client_secret": SECRET}, "says in several ways who calls (API key, client secret)"),
        ("key-1", {"managed_identity": True}, "says in several ways who calls (API key, managed identity)"),
        (
            None,
            {"managed_identity": True, "workload_identity": True},
            "says in several ways who calls (managed identity, workload identity): leave one",
        ),
        (
            None,
            {"client_secret": SECRET, "client_id": "c"},
            "has a client secret, which needs a tenant_id and a client_id",
        ),
        (
            None,
            {"certificate_path": "/c.pem", "tenant_id": "t"},
            "has a certificate, which needs a tenant_id and a client_id",
        ),
        (None, APPLICATION, "names a tenant_id or client_id, but no client_secret"),
        ("key-1", {"file_patience": -1}, "file_patience"),
        ("key-1", {"headers": "no JSON"}, "headers"),
        ("key-1", {"console_url": "https://console.test/"}, "console_url"),
    ],
)
def test_what_contradicts_itself_or_lacks_something_is_refused_without_secrets(
    password: str | None, extra: dict[str, object], problem: str
) -> None:
    with pytest.raises(ConnectionSettingsError) as refused:
        LLMBatchHook.adapter_of(connection(password=password, **extra))
    message = str(refused.value)
    assert problem in message
    assert "Nothing was sent" in message
    assert not [secret for secret in (SECRET, "key-1") if secret in message]


def test_a_connection_without_an_endpoint_shows_what_one_looks_like() -> None:
    with pytest.raises(ConnectionSettingsError, match=r"has no endpoint .* https://NAME\.openai\.azure\.com/openai/v1"):
        LLMBatchHook.adapter_of(connection(host=None, password="key-1"))


def test_a_connection_given_as_a_uri_means_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    uri = "llmbatch-azure://:key-1@r.openai.azure.com/openai?api_version=2024-10-21"
    monkeypatch.setenv("AIRFLOW_CONN_AZURE", uri)
    adapter = LLMBatchHook("azure").adapter
    assert isinstance(adapter, AzureAdapter)
    assert adapter._http._client.base_url == "https://r.openai.azure.com/openai/"
    assert adapter._http._client.params["api-version"] == "2024-10-21"
    adapter.close()


@pytest.fixture
def azure(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    with fault_proxy() as server:
        given = {"conn_type": "llmbatch_azure", "host": server.url, "password": "key-1"}
        monkeypatch.setenv("AIRFLOW_CONN_AZURE", json.dumps(given))
        yield server


def test_the_test_button_makes_one_cheap_call(azure: FaultProxy) -> None:
    azure.rule("GET", "/openai/v1/batches$", Answer(200, b'{"data": []}'))
    hook = LLMBatchAzureHook("azure")
    assert hook.test_connection() == (True, "The server at 127.0.0.1 accepts the key, and it has no batches yet.")
    hook.adapter.close()
    assert [request.path for request in azure.requests] == ["/openai/v1/batches?limit=1"]


def test_the_test_button_says_what_is_wrong_with_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"conn_type": "llmbatch_azure", "host": f"{HOST}/openai/deployments/x", "password": "key-1"}
    monkeypatch.setenv("AIRFLOW_CONN_AZURE", json.dumps(given))
    works, told = LLMBatchAzureHook("azure").test_connection()
    assert (works, "leads to one deployment" in told, "key-1" in told) == (False, True, False)


def test_a_byte_order_mark_is_refused_before_the_upload(azure: FaultProxy) -> None:
    hook = LLMBatchHook("azure")
    with pytest.raises(BatchInputError, match="byte order mark"):
        hook.create_file(b"\xef\xbb\xbf{}\n")
    hook.adapter.close()
    assert azure.requests == []
