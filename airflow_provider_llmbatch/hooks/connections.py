"""Airflow connections as declarations: which field means what to which adapter.

The forms that users fill in are data in ``provider_info``; here is how what they filled in is read. Adding a connection
type takes a function from connection to adapter, a row in ``hooks.batch.ADAPTERS``, and a hook class for the form's
Test button.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from airflow_provider_llmbatch.adapters.openai import DEFAULT_BASE_URL, OpenAIAdapter, OpenAISettings
from airflow_provider_llmbatch.errors import ConnectionSettingsError
from airflow_provider_llmbatch.hooks.batch import LLMBatchHook
from airflow_provider_llmbatch.hooks.settings import CommonExtra, ConsoleUrl, Headers, base_url_of, extra_of

if TYPE_CHECKING:
    from airflow.sdk import Connection


class OpenAIExtra(CommonExtra):
    """What an ``llmbatch_openai`` connection adds.

    :param organization: Sent as ``OpenAI-Organization``.
    :param project: Sent as ``OpenAI-Project``.
    :param headers: Sent with each call.
    :param console_url: Where people look at a batch, ``{batch_id}`` in it, for servers other than OpenAI's own.
    """

    organization: str | None = None
    project: str | None = None
    headers: Headers = Field(default_factory=dict)
    console_url: ConsoleUrl | None = None


class OpenAIClientKwargs(BaseModel):
    """``openai_client_kwargs`` in the extra of an ``openai`` connection, as far as it means something here.

    Airflow's provider for OpenAI hands them to the official client (its ``OpenAIHook.get_conn``).

    :param timeout: Seconds for each read or write; beats the extra's own.
    :param max_retries: How often a call that is safe to repeat is made again.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    api_key: str | None = None
    base_url: str | None = None
    organization: str | None = None
    project: str | None = None
    timeout: Annotated[float, Field(gt=0)] | None = None
    max_retries: Annotated[int, Field(ge=0)] | None = None
    default_headers: dict[str, str] | None = None
    default_query: dict[str, JsonValue] | None = None


class WellKnownOpenAIExtra(CommonExtra):
    """The extra of an ``openai`` connection; what every connection of this package may hold counts here too."""

    auth_type: str = "api_key"
    openai_client_kwargs: OpenAIClientKwargs = OpenAIClientKwargs()


def openai_adapter(connection: Connection, *, looking: bool = False) -> OpenAIAdapter:
    """The adapter behind an ``llmbatch_openai`` connection: host is the base URL, password the API key.

    :raises ConnectionSettingsError: A field is missing or cannot be used.
    """
    extra = extra_of(connection, OpenAIExtra)
    return OpenAIAdapter(
        OpenAISettings(
            api_key=_api_key(connection, None),
            base_url=base_url_of(connection) or DEFAULT_BASE_URL,
            organization=extra.organization,
            project=extra.project,
            headers=extra.headers,
            console_url=extra.console_url,
            transport=extra.transport(looking=looking),
        )
    )


def well_known_openai_adapter(connection: Connection, *, looking: bool = False) -> OpenAIAdapter:
    """The adapter behind a connection of Airflow's own type ``openai``, which need not be entered a second time.

    :raises ConnectionSettingsError: A field is missing, cannot be used, or asks for what only that provider can do.
    """
    extra = extra_of(connection, WellKnownOpenAIExtra)
    given = extra.openai_client_kwargs
    unknown = "default_query in openai_client_kwargs" if given.default_query else None
    if extra.auth_type != "api_key":
        unknown = f"auth_type {extra.auth_type!r}"
    if unknown:
        raise ConnectionSettingsError(
            f"The connection {connection.conn_id!r} asks for {unknown}, which this package cannot do. Nothing was "
            "sent. Use a connection with an API key, for example one of the type llmbatch_openai."
        )
    transport = extra.model_copy(update={"timeout": given.timeout or extra.timeout}).transport(looking=looking)
    if given.max_retries is not None and not looking:
        transport = replace(transport, max_attempts=given.max_retries + 1)
    return OpenAIAdapter(
        OpenAISettings(
            api_key=_api_key(connection, given.api_key),
            base_url=given.base_url or base_url_of(connection) or DEFAULT_BASE_URL,
            organization=given.organization,
            project=given.project,
            headers=given.default_headers or {},
            transport=transport,
        )
    )


def _api_key(connection: Connection, given: str | None) -> str:
    api_key = (given or connection.password or "").strip()
    if api_key:
        return api_key
    raise ConnectionSettingsError(
        f"The connection {connection.conn_id!r} has no API key (its field password). Nothing was sent. A server "
        "that needs no key takes any text there."
    )


class LLMBatchOpenAIHook(LLMBatchHook):
    """For the connection type ``llmbatch_openai``: OpenAI, and every server that speaks its files and batches."""

    conn_type: ClassVar[str] = "llmbatch_openai"
    hook_name: ClassVar[str] = "LLM Batch: OpenAI"
