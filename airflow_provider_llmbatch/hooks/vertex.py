"""The connection types of Vertex AI: ``llmbatch_vertex``, and Airflow's own ``google_cloud_platform``.

Everything stands in the extra: where jobs run, the bucket, and who calls. Without a key, application default
credentials count, as with Airflow's other Google connections. The location has no default, since a model that is not
offered in a region that nobody chose would be hard to understand.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import BeforeValidator, Field

from airflow_provider_llmbatch.adapters.vertex.adapter import VertexAdapter
from airflow_provider_llmbatch.adapters.vertex.credentials import CLOUD_PLATFORM, Identity, accounts_of
from airflow_provider_llmbatch.adapters.vertex.settings import VertexSettings
from airflow_provider_llmbatch.errors import ConnectionSettingsError
from airflow_provider_llmbatch.hooks.batch import LLMBatchHook
from airflow_provider_llmbatch.hooks.settings import CommonExtra, base_url_of, extra_of

if TYPE_CHECKING:
    from airflow.sdk import Connection

_PREFIX = "extra__google_cloud_platform__"  # of fields that were entered before Airflow 2.6


def _text_of_json(value: object) -> object:
    return json.dumps(value) if isinstance(value, dict) else value


def _parsed(value: object) -> object:
    return json.loads(value) if isinstance(value, str) else value


def _joined(value: object) -> object:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else value


JsonText = Annotated[str, BeforeValidator(_text_of_json)]
"""A JSON object, as text or as itself."""

Names = Annotated[str, BeforeValidator(_joined)]
"""Texts with commas between them; a list will do."""


class _VertexExtra(CommonExtra):
    """What every connection to Vertex AI may hold.

    :param location: A region, or ``global``, ``us`` or ``eu``.
    :param bucket: ``gs://bucket`` or ``gs://bucket/prefix``, for input files and results.
    :param impersonation_chain: Accounts to act as, one through the other; the last one is who signs.
    :param drop_params: Parameters to leave out of lines where Gemini cannot do them.
    :param thinking_budgets: Tokens for each ``reasoning_effort``, on models that take a budget.
    :param storage_url: Scheme, host and port of Cloud Storage, if it is not Google's own.
    :param is_anonymous: Send no token, as emulators want it.
    """

    project: str | None = None
    location: str | None = None
    bucket: str | None = None
    impersonation_chain: Names | None = None
    drop_params: Names | None = None
    thinking_budgets: Annotated[dict[str, int], BeforeValidator(_parsed)] | None = None
    storage_url: str | None = None
    quota_project_id: str | None = None
    is_anonymous: bool = False


class VertexExtra(_VertexExtra):
    """What an ``llmbatch_vertex`` connection adds.

    :param keyfile_path: File with the key of a service account, as JSON.
    :param keyfile_json: The same as text.
    """

    keyfile_path: str | None = None
    keyfile_json: JsonText | None = None


class GoogleCloudExtra(_VertexExtra):
    """The extra of a ``google_cloud_platform`` connection, as Airflow's provider for Google reads it (its
    ``GoogleBaseHook``), and beside it what this package needs: ``location`` and ``bucket``.
    """

    key_path: str | None = None
    keyfile_dict: JsonText | None = None
    credential_config_file: JsonText | None = None
    key_secret_name: str | None = None
    idp_issuer_url: str | None = None
    scope: Names = CLOUD_PLATFORM
    num_retries: Annotated[int, Field(ge=0)] | None = None


def vertex_adapter(connection: Connection, *, looking: bool = False) -> VertexAdapter:
    """The adapter behind an ``llmbatch_vertex`` connection; its host, if any, is the API's address.

    :raises ConnectionSettingsError: A field is missing, cannot be used, or contradicts another one.
    """
    extra = extra_of(connection, VertexExtra)
    identity = Identity(
        key_path=extra.keyfile_path,
        key_json=extra.keyfile_json,
        impersonate=accounts_of(extra.impersonation_chain),
        quota_project=extra.quota_project_id,
        anonymous=extra.is_anonymous,
    )
    return VertexAdapter(_settings(connection, extra, identity, looking=looking))


def well_known_google_adapter(connection: Connection, *, looking: bool = False) -> VertexAdapter:
    """The adapter behind a connection of Airflow's own type ``google_cloud_platform``.

    :raises ConnectionSettingsError: A field is missing, cannot be used, or asks for what only that provider can do.
    """
    extra = extra_of(connection, GoogleCloudExtra, prefix=_PREFIX)
    for name, value in (("key_secret_name", extra.key_secret_name), ("idp_issuer_url", extra.idp_issuer_url)):
        if value:
            raise ConnectionSettingsError(
                f"The connection {connection.conn_id!r} has a {name}, which this package cannot use. Nothing was sent. "
                "Use a connection with a key, a credential configuration or application default credentials, for "
                "example one of the type llmbatch_vertex."
            )
    identity = Identity(
        key_path=extra.key_path,
        key_json=extra.keyfile_dict,
        config=extra.credential_config_file,
        impersonate=accounts_of(extra.impersonation_chain),
        scopes=_parts(extra.scope),
        quota_project=extra.quota_project_id,
        anonymous=extra.is_anonymous,
    )
    settings = _settings(connection, extra, identity, looking=looking)
    if extra.num_retries is not None and not looking:
        settings = replace(settings, transport=replace(settings.transport, max_attempts=extra.num_retries + 1))
    return VertexAdapter(settings)


def _settings(connection: Connection, extra: _VertexExtra, identity: Identity, *, looking: bool) -> VertexSettings:
    if extra.location is None:
        raise ConnectionSettingsError(
            f"The connection {connection.conn_id!r} has no location (in its extra). Nothing was sent. It is a region "
            'such as "us-central1", or "global", "us" or "eu"; newer models are often only in "global".'
        )
    return VertexSettings(
        location=extra.location,
        bucket=extra.bucket,
        project=extra.project,
        identity=identity,
        model=extra.model,
        drop_params=frozenset(_parts(extra.drop_params)),
        thinking_budgets=extra.thinking_budgets,
        endpoint=base_url_of(connection),
        storage_url=extra.storage_url,
        transport=extra.transport(looking=looking),
    )


def _parts(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


class LLMBatchVertexHook(LLMBatchHook):
    """For the connection type ``llmbatch_vertex``: Vertex AI, also called Gemini Enterprise Agent Platform."""

    conn_type: ClassVar[str] = "llmbatch_vertex"
    hook_name: ClassVar[str] = "LLM Batch: Vertex AI"
