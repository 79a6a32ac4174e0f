"""Where people look at a batch: OpenAI's console, or the one that the connection of another server names."""

from __future__ import annotations

import json

import pytest
from airflow.sdk import Connection

from airflow_provider_llmbatch.errors import ConnectionSettingsError
from airflow_provider_llmbatch.hooks.batch import LLMBatchHook


def console_url(host: str | None, batch_id: str = "batch_1", **extra: str) -> str | None:
    connection = Connection(
        conn_id="llm", conn_type="llmbatch_openai", password="sk-x", host=host, extra=json.dumps(extra)
    )
    adapter = LLMBatchHook.adapter_of(connection)
    try:
        return adapter.console_url(batch_id)
    finally:
        adapter.close()


@pytest.mark.parametrize("host", [None, "https://api.openai.com/v1", "https://eu.api.openai.com/v1"])
def test_openai_has_a_console_of_its_own(host: str | None) -> None:
    assert console_url(host) == "https://platform.openai.com/batches/batch_1"


def test_another_server_has_none_unless_its_connection_names_one() -> None:
    assert console_url("http://gateway/v1") is None
    assert console_url("http://gateway/v1", console_url="https://gateway/ui/{batch_id}") == "https://gateway/ui/batch_1"


def test_an_id_stays_one_segment_of_the_address() -> None:
    assert console_url(None, "../a b") == "https://platform.openai.com/batches/..%2Fa%20b"


@pytest.mark.parametrize("address", ["https://gateway/ui", "javascript:alert({batch_id})"])
def test_an_address_without_the_batch_or_of_no_web_page_is_refused(address: str) -> None:
    with pytest.raises(ConnectionSettingsError, match="console_url"):
        console_url("http://gateway/v1", console_url=address)
