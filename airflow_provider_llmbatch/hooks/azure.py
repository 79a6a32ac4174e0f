"""The connection type ``llmbatch_azure``: which field means what to the adapter for Azure OpenAI.

Host is the resource's endpoint, password the API key. Without a key the fields of Entra ID say who asks for tokens, and
without those azure-identity's default chain finds out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from airflow_provider_llmbatch.adapters.azure import AzureAdapter, AzureSettings
from airflow_provider_llmbatch.adapters.entra import Identity
from airflow_provider_llmbatch.errors import ConnectionSettingsError
from airflow_provider_llmbatch.hooks.batch import LLMBatchHook
from airflow_provider_llmbatch.hooks.settings import CommonExtra, ConsoleUrl, Headers, base_url_of, extra_of

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from airflow_provider_llmbatch.adapters.entra import IdentityKind

_WITH_AN_APPLICATION = ("client secret", "certificate")


class AzureExtra(CommonExtra):
    """What an ``llmbatch_azure`` connection adds.

    :param api_version: A dated one for the classic API; none for v1.
    :param managed_identity_client_id: Of a user-assigned managed identity; makes ``managed_identity`` true.
    :param scope: What tokens of Entra ID are for.
    :param authority_host: Where tokens come from.
    :param batch_endpoint: Sent as the endpoint of every batch.
    :param file_patience: Seconds to wait until Azure has read an input file.
    :param headers: At most ten, sent with each call.
    :param console_url: Where people look at a batch, ``{batch_id}`` in it.
    """

    api_version: str | None = None
    tenant_id: str | None = None
    client_id: str | None = None
    client_secret: str | None = None
    certificate_path: str | None = None
    certificate_password: str | None = None
    managed_identity: bool = False
    managed_identity_client_id: str | None = None
    workload_identity: bool = False
    scope: str | None = None
    authority_host: str | None = None
    batch_endpoint: str | None = None
    file_patience: float = Field(default=900.0, ge=0)
    headers: Headers = Field(default_factory=dict)
    console_url: ConsoleUrl | None = None


def azure_adapter(connection: Connection, *, looking: bool = False) -> AzureAdapter:
    """The adapter behind an ``llmbatch_azure`` connection.

    :raises ConnectionSettingsError: A field is missing, cannot be used, or contradicts another one.
    """
    extra = extra_of(connection, AzureExtra)
    endpoint = base_url_of(connection)
    if endpoint is None:
        raise ConnectionSettingsError(
            f"The connection {connection.conn_id!r} has no endpoint (its field host). Nothing was sent. It is "
            "https://NAME.openai.azure.com/openai/v1, or https://NAME.openai.azure.com with a dated api_version."
        )
    api_key = (connection.password or "").strip() or None
    identity = _identity(connection, extra, api_key)
    return AzureAdapter(
        AzureSettings(
            endpoint=endpoint,
            api_key=api_key,
            identity=identity,
            api_version=extra.api_version,
            scope=extra.scope,
            batch_endpoint=extra.batch_endpoint,
            headers=extra.headers,
            console_url=extra.console_url,
            file_patience=extra.file_patience,
            transport=extra.transport(looking=looking),
        )
    )


def _identity(connection: Connection, extra: AzureExtra, api_key: str | None) -> Identity:
    given: dict[IdentityKind, bool] = {
        "client secret": bool(extra.client_secret),
        "certificate": bool(extra.certificate_path),
        "managed identity": extra.managed_identity or bool(extra.managed_identity_client_id),
        "workload identity": extra.workload_identity,
    }
    kinds = [kind for kind, is_given in given.items() if is_given]
    ways = [*(["API key"] if api_key else []), *kinds]
    problem = None
    if len(ways) > 1:
        problem = f"says in several ways who calls ({', '.join(ways)}): leave one"
    kind = kinds[0] if kinds else "default chain"
    if kind in _WITH_AN_APPLICATION and not (extra.tenant_id and extra.client_id):
        problem = f"has a {kind}, which needs a tenant_id and a client_id too"
    if not ways and (extra.tenant_id or extra.client_id):
        problem = "names a tenant_id or client_id, but no client_secret, certificate_path or workload_identity with it"
    if problem:
        raise ConnectionSettingsError(f"The connection {connection.conn_id!r} {problem}. Nothing was sent.")
    return Identity(
        kind,
        tenant_id=extra.tenant_id,
        client_id=extra.managed_identity_client_id if kind == "managed identity" else extra.client_id,
        client_secret=extra.client_secret,
        certificate_path=extra.certificate_path,
        certificate_password=extra.certificate_password,
        authority_host=extra.authority_host,
    )


class LLMBatchAzureHook(LLMBatchHook):
    """For the connection type ``llmbatch_azure``: Azure OpenAI, also called Microsoft Foundry."""

    conn_type: ClassVar[str] = "llmbatch_azure"
    hook_name: ClassVar[str] = "LLM Batch: Azure OpenAI"
