"""What connections to Vertex AI mean: ``llmbatch_vertex``, and Airflow's own ``google_cloud_platform``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from airflow.sdk import Connection
from support.vertex import BUCKET

from airflow_provider_llmbatch.adapters.http import TransportSettings
from airflow_provider_llmbatch.adapters.vertex.adapter import VertexAdapter
from airflow_provider_llmbatch.adapters.vertex.credentials import CLOUD_PLATFORM, Identity
from airflow_provider_llmbatch.adapters.vertex.settings import VertexSettings
from airflow_provider_llmbatch.errors import BatchInputError, ConnectionSettingsError
from airflow_provider_llmbatch.hooks.batch import LLMBatchHook
from airflow_provider_llmbatch.hooks.vertex import LLMBatchVertexHook

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.gcs import RunningStorage
    from support.server import RunningServer

WHERE = {"project": "p-1", "location": "global", "bucket": "gs://b/p"}
KEY = {"type": "service_account", "private_key": "s3cret-word"}
SECRET = "s3cret-word"


def connection(conn_type: str = "llmbatch_vertex", *, host: str | None = None, **extra: object) -> Connection:
    return Connection(conn_id="vertex", conn_type=conn_type, host=host, extra=json.dumps(extra))


@pytest.fixture
def settings_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[VertexSettings]]:
    """What adapters are made from; none is made, since some would look for an identity."""
    made: list[VertexSettings] = []
    monkeypatch.setattr(VertexAdapter, "__init__", lambda _, settings: made.append(settings))
    return made


def test_every_field_reaches_the_adapter(settings_of: list[VertexSettings]) -> None:
    extra = {
        **WHERE,
        "keyfile_path": "/key.json",
        "impersonation_chain": "a@p.iam.gserviceaccount.com, b@p.iam.gserviceaccount.com",
        "quota_project_id": "q-1",
        "model": "gemini-2.5-flash",
        "drop_params": "seed, logit_bias",
        "thinking_budgets": '{"low": 512}',
        "storage_url": "https://storage.test",
        "timeout": 7,
    }
    LLMBatchHook.adapter_of(connection(host="https://vertex.test", **extra))
    assert settings_of == [
        VertexSettings(
            project="p-1",
            location="global",
            bucket="gs://b/p",
            identity=Identity(
                key_path="/key.json",
                impersonate=("a@p.iam.gserviceaccount.com", "b@p.iam.gserviceaccount.com"),
                quota_project="q-1",
            ),
            model="gemini-2.5-flash",
            drop_params=frozenset({"seed", "logit_bias"}),
            thinking_budgets={"low": 512},
            endpoint="https://vertex.test",
            storage_url="https://storage.test",
            transport=TransportSettings(timeout=7),
        )
    ]


@pytest.mark.parametrize(
    ("extra", "identity"),
    [
        ({}, Identity()),
        ({"keyfile_path": "", "keyfile_json": None, "impersonation_chain": ""}, Identity()),
        ({"keyfile_json": json.dumps(KEY)}, Identity(key_json=json.dumps(KEY))),
        ({"keyfile_json": KEY}, Identity(key_json=json.dumps(KEY))),
        ({"impersonation_chain": ["a@p", "b@p"]}, Identity(impersonate=("a@p", "b@p"))),
        ({"is_anonymous": True}, Identity(anonymous=True)),
    ],
)
def test_the_fields_say_who_asks_for_tokens(
    settings_of: list[VertexSettings], extra: dict[str, object], identity: Identity
) -> None:
    LLMBatchHook.adapter_of(connection(**WHERE, **extra))
    assert [settings.identity for settings in settings_of] == [identity]


@pytest.mark.parametrize(
    ("extra", "identity"),
    [
        ({}, Identity()),
        ({"key_path": "/key.json"}, Identity(key_path="/key.json")),
        ({"extra__google_cloud_platform__key_path": "/key.json"}, Identity(key_path="/key.json")),
        ({"keyfile_dict": json.dumps(KEY)}, Identity(key_json=json.dumps(KEY))),
        ({"keyfile_dict": KEY}, Identity(key_json=json.dumps(KEY))),
        ({"credential_config_file": "/federation.json"}, Identity(config="/federation.json")),
        ({"credential_config_file": {"type": "x"}}, Identity(config='{"type": "x"}')),
        ({"impersonation_chain": ["a@p", "b@p"]}, Identity(impersonate=("a@p", "b@p"))),
        ({"scope": f"{CLOUD_PLATFORM},https://scope.test"}, Identity(scopes=(CLOUD_PLATFORM, "https://scope.test"))),
        ({"is_anonymous": True}, Identity(anonymous=True)),
        ({"quota_project_id": "q-1"}, Identity(quota_project="q-1")),
    ],
)
def test_a_connection_of_airflows_own_type_means_what_it_means_there(
    settings_of: list[VertexSettings], extra: dict[str, object], identity: Identity
) -> None:
    LLMBatchHook.adapter_of(connection("google_cloud_platform", **WHERE, **extra, num_retries=2))
    assert settings_of == [
        VertexSettings(
            project="p-1",
            location="global",
            bucket="gs://b/p",
            identity=identity,
            transport=TransportSettings(max_attempts=3),
        )
    ]


def test_a_triggerer_looks_once_whatever_the_connection_says(settings_of: list[VertexSettings]) -> None:
    for conn_type in ("llmbatch_vertex", "google_cloud_platform"):
        LLMBatchHook.adapter_of(connection(conn_type, **WHERE, num_retries=9), looking=True)
    assert [settings.transport for settings in settings_of] == [TransportSettings(timeout=20.0, max_attempts=1)] * 2


@pytest.mark.parametrize(
    ("extra", "problem"),
    [
        ({"location": None}, 'has no location (in its extra). Nothing was sent. It is a region such as "us-central1"'),
        ({"location": "US Central"}, "location 'US Central' of this connection is none of Vertex AI"),
        ({"thinking_budgets": "many"}, "thinking_budgets"),
        ({"thinking_budgets": {"low": "many"}}, "thinking_budgets"),
        ({"keyfile_path": "/key.json", "keyfile_json": KEY}, "in several ways who calls (key_path, key_json)"),
    ],
)
def test_what_contradicts_itself_or_lacks_something_is_refused_without_secrets(
    extra: dict[str, object], problem: str
) -> None:
    with pytest.raises(ConnectionSettingsError) as refused:
        LLMBatchHook.adapter_of(connection(**{**WHERE, "keyfile_json": KEY, **extra}))
    assert problem in str(refused.value)
    assert "Nothing was sent" in str(refused.value)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("name", ["key_secret_name", "idp_issuer_url"])
def test_what_only_googles_provider_can_do_is_refused(name: str) -> None:
    with pytest.raises(ConnectionSettingsError, match=f"has a {name}, which this package cannot use"):
        LLMBatchHook.adapter_of(connection("google_cloud_platform", **WHERE, **{name: "x"}))


def test_a_key_never_stands_in_what_is_shown_of_the_settings(settings_of: list[VertexSettings]) -> None:
    LLMBatchHook.adapter_of(connection(**WHERE, keyfile_json=KEY))
    assert SECRET not in repr(settings_of)


@pytest.fixture
def environment(
    vertex_server: RunningServer, gcs: RunningStorage, monkeypatch: pytest.MonkeyPatch
) -> dict[str, object]:
    """The default connection leads to the real face; its extra is returned."""
    key = json.loads((vertex_server.data_dir / "service-account.json").read_text())
    extra = {
        "project": "analytics",
        "location": "us-central1",
        "bucket": f"gs://{BUCKET}/hook",
        "keyfile_json": key,
        "storage_url": gcs.url,
    }
    given = {"conn_type": "llmbatch_vertex", "host": vertex_server.url, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_LLMBATCH_DEFAULT", json.dumps(given))
    return extra


@pytest.mark.usefixtures("environment")
def test_the_test_button_says_what_it_found() -> None:
    hook = LLMBatchVertexHook()
    works, told = hook.test_connection()
    hook.adapter.close()
    assert works, told
    assert "accepts the identity for projects/analytics/locations/us-central1" in told
    assert told.endswith(f"The bucket gs://{BUCKET}/hook/ can be listed.")


def test_the_test_button_says_what_is_wrong_with_a_bucket(
    environment: dict[str, object], vertex_server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = {**environment, "bucket": "gs://no-such-bucket"}
    given = {"conn_type": "llmbatch_vertex", "host": vertex_server.url, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_LLMBATCH_DEFAULT", json.dumps(given))
    hook = LLMBatchVertexHook()
    works, told = hook.test_connection()
    hook.adapter.close()
    assert (works, "no-such-bucket" in told) == (False, True)


@pytest.mark.usefixtures("environment")
def test_what_gemini_cannot_do_is_refused_by_the_hook_before_the_upload() -> None:
    hook = LLMBatchHook()
    body = {"model": "gemini-2.5-flash", "messages": [{"role": "user", "content": "x"}], "logit_bias": {"1": 2}}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    with pytest.raises(BatchInputError, match=r'^Line 1 of the input has "logit_bias", which Gemini cannot do'):
        hook.create_file(json.dumps(line).encode())
    assert list(hook.list_files()) == []
    hook.adapter.close()
