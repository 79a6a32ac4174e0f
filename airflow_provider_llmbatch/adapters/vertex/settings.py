"""What a connection to Vertex AI says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_provider_llmbatch.adapters.http import TransportSettings
from airflow_provider_llmbatch.adapters.vertex.credentials import Identity

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class VertexSettings:
    """What a connection to Vertex AI needs.

    :param location: A region, or ``global``, ``us`` or ``eu``.
    :param bucket: ``gs://bucket`` or ``gs://bucket/prefix``: input files and results lie there.
    :param project: The one that the identity belongs to if ``None``.
    :param model: Of a batch whose lines name none.
    :param drop_params: Parameters of lines to leave out where Gemini cannot do them.
    :param thinking_budgets: Tokens for each ``reasoning_effort`` on models that take a budget; Google's if ``None``.
    :param endpoint: Scheme, host and port of the API, if it is not Google's own for the location.
    :param storage_url: The same of Cloud Storage.
    """

    location: str
    bucket: str | None = None
    project: str | None = None
    identity: Identity = Identity()  # noqa: RUF009 - frozen
    model: str | None = None
    drop_params: frozenset[str] = frozenset()
    thinking_budgets: Mapping[str, int] | None = None
    endpoint: str | None = None
    storage_url: str | None = None
    transport: TransportSettings = field(default_factory=TransportSettings)
