"""Airflow connections as declarations: which field means what to which adapter.

The forms that users fill in are data in ``provider_info``; here is how what they filled in is read. Adding a connection
type takes a function from connection to adapter, a row in ``hooks.batch.ADAPTERS``, and a hook class for the form's
Test button.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import BeforeValidator, Field

from airflow_provider_llmbatch.adapters.openai import DEFAULT_BASE_URL, OpenAIAdapter, OpenAISettings
from airflow_provider_llmbatch.errors import ConnectionSettingsError
from airflow_provider_llmbatch.hooks.batch import LLMBatchHook
from airflow_provider_llmbatch.hooks.settings import CommonExtra, extra_of

if TYPE_CHECKING:
    from airflow.sdk import Connection


def _json_object(value: object) -> object:
    return json.loads(value) if isinstance(value, str) else value


class OpenAIExtra(CommonExtra):
    """What an ``llmbatch_openai`` connection adds.

    :param organization: Sent as ``OpenAI-Organization``.
    :param project: Sent as ``OpenAI-Project``.
    :param headers: Sent with each call.
    """

    organization: str | None = None
    project: str | None = None
    headers: Annotated[dict[str, str], BeforeValidator(_json_object)] = Field(default_factory=dict)


def openai_adapter(connection: Connection, *, looking: bool = False) -> OpenAIAdapter:
    """The adapter behind an ``llmbatch_openai`` connection: host is the base URL, password the API key.

    :raises ConnectionSettingsError: A field is missing or cannot be used.
    """
    extra = extra_of(connection, OpenAIExtra)
    api_key = (connection.password or "").strip()
    if not api_key:
        raise ConnectionSettingsError(
            f"The connection {connection.conn_id!r} has no API key (its field password). Nothing was sent. A server "
            "that needs no key takes any text there."
        )
    return OpenAIAdapter(
        OpenAISettings(
            api_key=api_key,
            base_url=_base_url(connection) or DEFAULT_BASE_URL,
            organization=extra.organization,
            project=extra.project,
            headers=extra.headers,
            transport=extra.transport(looking=looking),
        )
    )


def _base_url(connection: Connection) -> str | None:
    """The host field as a URL. Airflow splits a connection that is given as a URI into scheme, host and port."""
    host = (connection.host or "").strip().rstrip("/")
    if not host or "://" in host:
        return host or None
    port = f":{connection.port}" if connection.port else ""
    path = f"/{connection.schema.strip('/')}" if connection.schema else ""
    return f"https://{host}{port}{path}"


class LLMBatchOpenAIHook(LLMBatchHook):
    """For the connection type ``llmbatch_openai``: OpenAI, and every server that speaks its files and batches."""

    conn_type: ClassVar[str] = "llmbatch_openai"
    hook_name: ClassVar[str] = "LLM Batch: OpenAI"
