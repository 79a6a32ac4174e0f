"""Connections of Airflow's own type ``openai``: usable as they are, so that nobody enters a key twice."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from airflow.sdk import Connection
from support.fault_proxy import fault_proxy

from airflow_provider_llmbatch.errors import ConnectionSettingsError
from airflow_provider_llmbatch.hooks.batch import LLMBatchHook
from airflow_provider_llmbatch.hooks.connections import OpenAIClientKwargs, WellKnownOpenAIExtra
from airflow_provider_llmbatch.hooks.settings import extra_of

if TYPE_CHECKING:
    from support.server import RunningServer


def connection(password: str | None = None, host: str | None = None, **extra: object) -> Connection:
    return Connection(conn_id="shared", conn_type="openai", password=password, host=host, extra=json.dumps(extra))


def test_key_and_base_url_of_the_connection_reach_the_server(echo_server: RunningServer) -> None:
    adapter = LLMBatchHook.adapter_of(connection(echo_server.api_key, echo_server.url))
    assert adapter.ping().startswith("The server at 127.0.0.1 accepts the key")
    adapter.close()


def test_key_and_base_url_of_the_client_kwargs_come_first(echo_server: RunningServer) -> None:
    given = {"api_key": echo_server.api_key, "base_url": echo_server.url}
    adapter = LLMBatchHook.adapter_of(connection("sk-other", "http://127.0.0.1:9", openai_client_kwargs=given))
    assert adapter.ping().startswith("The server at 127.0.0.1 accepts the key")
    adapter.close()


def test_organization_project_and_headers_are_sent(echo_server: RunningServer) -> None:
    given = {"organization": "org-1", "project": "proj-1", "default_headers": {"X-Team": "reviews"}}
    with fault_proxy(echo_server.url) as proxy:
        adapter = LLMBatchHook.adapter_of(connection(echo_server.api_key, proxy.url, openai_client_kwargs=given))
        adapter.ping()
        adapter.close()
        sent = {name.lower(): value for name, value in proxy.requests[0].headers.items()}
    wanted = ("openai-organization", "openai-project", "x-team")
    assert [sent.get(name) for name in wanted] == ["org-1", "proj-1", "reviews"]


def test_timeout_and_retries_of_the_client_kwargs_count_where_the_triggerer_does_not_look_by_itself() -> None:
    given = {"timeout": 7, "max_retries": 1}
    worker = LLMBatchHook.adapter_of(connection("sk-x", openai_client_kwargs=given))
    triggerer = LLMBatchHook.adapter_of(connection("sk-x", openai_client_kwargs=given), looking=True)
    seen = [(a._settings.transport.timeout, a._settings.transport.max_attempts) for a in (worker, triggerer)]  # type: ignore[attr-defined]
    assert seen == [(7.0, 2), (7.0, 1)]
    worker.close()
    triggerer.close()


def test_without_a_host_the_connection_means_openai() -> None:
    adapter = LLMBatchHook.adapter_of(connection("sk-x"))
    assert adapter.console_url("batch_1") == "https://platform.openai.com/batches/batch_1"
    adapter.close()


def test_what_the_package_adds_to_every_connection_counts_here_too() -> None:
    extra = extra_of(connection("sk-x", listing_lag=0, connect_timeout=3), WellKnownOpenAIExtra)
    assert extra == WellKnownOpenAIExtra(
        listing_lag=0, connect_timeout=3, openai_client_kwargs=OpenAIClientKwargs(), auth_type="api_key"
    )


@pytest.mark.parametrize(
    ("extra", "problem"),
    [
        ({"auth_type": "workload_identity"}, "asks for auth_type 'workload_identity', which this package cannot do"),
        (
            {"openai_client_kwargs": {"default_query": {"v": "1"}}},
            "asks for default_query in openai_client_kwargs, which this package cannot do",
        ),
        ({"openai_client_kwargs": {"timeout": -1}}, "openai_client_kwargs.timeout"),
        ({"openai_client_kwargs": {"default_headers": "sk-leaked"}}, "openai_client_kwargs.default_headers"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_sent(extra: dict[str, object], problem: str) -> None:
    with pytest.raises(ConnectionSettingsError) as refused:
        LLMBatchHook.adapter_of(connection("sk-secret-key", **extra))
    message = str(refused.value)
    assert problem in message
    assert "Nothing was sent" in message
    assert "sk-" not in message


def test_a_connection_without_a_key_is_refused() -> None:
    with pytest.raises(ConnectionSettingsError, match="The connection 'shared' has no API key"):
        LLMBatchHook.adapter_of(connection())
