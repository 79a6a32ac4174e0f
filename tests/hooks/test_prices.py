"""Whose prices hold behind a connection: its provider's, or nobody's behind a server of one's own."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from airflow.sdk import Connection

from airflow_provider_llmbatch.hooks.batch import LLMBatchHook
from airflow_provider_llmbatch.hooks.prices import prices_of

NOVEMBER = datetime(2026, 11, 1, tzinfo=UTC).timestamp()
VERTEX = {"project": "p", "location": "us-central1", "bucket": "gs://b", "is_anonymous": True}


@pytest.mark.parametrize(
    ("given", "model", "priced"),
    [
        ({"conn_type": "llmbatch_openai"}, "gpt-5-mini", True),
        ({"conn_type": "openai"}, "gpt-5-mini", True),
        ({"conn_type": "llmbatch_openai", "host": "https://eu.api.openai.com/v1"}, "gpt-5-mini", True),
        ({"conn_type": "llmbatch_openai", "host": "https://api.mistral.ai/v1"}, "mistral-small-latest", True),
        ({"conn_type": "llmbatch_openai", "host": "http://127.0.0.1:4000/v1"}, "gpt-5-mini", False),
        ({"conn_type": "llmbatch_openai", "host": "https://api.openai.com.evil.example/v1"}, "gpt-5-mini", False),
        ({"conn_type": "llmbatch_azure", "host": "https://n.openai.azure.com"}, "gpt-5-mini", True),
        ({"conn_type": "llmbatch_vertex", "extra": VERTEX}, "gemini-2.5-flash", True),
        ({"conn_type": "llmbatch_vertex", "extra": VERTEX}, "gpt-5-mini", False),
    ],
)
def test_prices_are_those_of_the_provider_behind_the_connection(
    given: dict[str, Any], model: str, *, priced: bool
) -> None:
    extra = json.dumps(given.get("extra", {}))
    connection = Connection(conn_id="c", password="sk-1", **{**given, "extra": extra})
    adapter = LLMBatchHook.adapter_of(connection)
    try:
        found = prices_of(connection, adapter).of(model, NOVEMBER)
    finally:
        adapter.close()
    assert (found is not None) == priced
