from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from support.fault_proxy import FaultProxy, fault_proxy
from support.vertex import BUCKET

from airflow_provider_llmbatch.adapters.azure import AzureAdapter, AzureSettings
from airflow_provider_llmbatch.adapters.http import TransportSettings
from airflow_provider_llmbatch.adapters.openai import OpenAIAdapter, OpenAISettings
from airflow_provider_llmbatch.adapters.vertex.adapter import VertexAdapter
from airflow_provider_llmbatch.adapters.vertex.credentials import Identity
from airflow_provider_llmbatch.adapters.vertex.settings import VertexSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from support.gcs import RunningStorage
    from support.server import RunningServer

KEY = "sk-test-0123456789"


class Connect(Protocol):
    def __call__(
        self,
        url: str,
        *,
        api_key: str = ...,
        headers: Mapping[str, str] | None = ...,
        organization: str | None = ...,
        project: str | None = ...,
        transport: TransportSettings = ...,
    ) -> OpenAIAdapter: ...


@pytest.fixture
def sleeps() -> list[float]:
    """How long adapters made by ``connect`` would have slept between attempts, in seconds."""
    return []


@pytest.fixture
def connect(sleeps: list[float]) -> Iterator[Connect]:
    """Make an adapter for OpenAI's API at a URL; it does not sleep, and is closed after the test."""
    with ExitStack() as stack:

        def connected(
            url: str,
            *,
            api_key: str = KEY,
            headers: Mapping[str, str] | None = None,
            organization: str | None = None,
            project: str | None = None,
            transport: TransportSettings | None = None,
        ) -> OpenAIAdapter:
            settings = OpenAISettings(
                api_key,
                base_url=url,
                organization=organization,
                project=project,
                headers=headers or {},
                transport=transport or TransportSettings(),
            )
            adapter = OpenAIAdapter(settings)
            adapter._http._sleep = sleeps.append
            stack.callback(adapter.close)
            return adapter

        yield connected


@pytest.fixture
def canned() -> Iterator[FaultProxy]:
    """A server that answers by rule only."""
    with fault_proxy() as proxy:
        yield proxy


@pytest.fixture
def faulty(echo_server: RunningServer) -> Iterator[FaultProxy]:
    """The real server behind a proxy that breaks things by rule."""
    with fault_proxy(echo_server.url) as proxy:
        yield proxy


class ConnectAzure(Protocol):
    def __call__(self, path: str = ..., **settings: Any) -> AzureAdapter: ...


@pytest.fixture
def connect_azure(canned: FaultProxy, sleeps: list[float]) -> Iterator[ConnectAzure]:
    """Make an adapter for Azure OpenAI, played by ``canned``; it does not sleep, and is closed after the test."""
    with ExitStack() as stack:

        def connected(path: str = "", **settings: Any) -> AzureAdapter:
            adapter = AzureAdapter(AzureSettings(canned.url + path, **{"api_key": KEY, **settings}))
            adapter._http._sleep = sleeps.append
            stack.callback(adapter.close)
            return adapter

        yield connected


class ConnectVertex(Protocol):
    def __call__(self, url: str | None = ..., **settings: Any) -> VertexAdapter: ...


@pytest.fixture
def connect_vertex(vertex_server: RunningServer, gcs: RunningStorage, sleeps: list[float]) -> Iterator[ConnectVertex]:
    """Make an adapter for Vertex AI's API at a URL, the real face's by default, with the key that the face hands out.

    It does not sleep, and is closed after the test.
    """
    usual = {
        "location": "us-central1",
        "project": "analytics",
        "bucket": f"gs://{BUCKET}",
        "identity": Identity(key_path=str(vertex_server.data_dir / "service-account.json")),
        "storage_url": gcs.url,
    }
    with ExitStack() as stack:

        def connected(url: str | None = None, **settings: Any) -> VertexAdapter:
            endpoint = vertex_server.url if url is None else url
            adapter = VertexAdapter(VertexSettings(**{**usual, "endpoint": endpoint, **settings}))
            adapter._http._sleep = sleeps.append
            stack.callback(adapter.close)
            return adapter

        yield connected
