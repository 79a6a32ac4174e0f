from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol

import pytest
import trustme
from support.google_tokens import GoogleTokens, google_tokens
from support.vertex import BUCKET

from airflow_provider_llmbatch.adapters.vertex.adapter import VertexAdapter
from airflow_provider_llmbatch.adapters.vertex.credentials import Identity
from airflow_provider_llmbatch.adapters.vertex.settings import VertexSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.gcs import RunningStorage
    from support.server import RunningServer


class ConnectVertex(Protocol):
    def __call__(self, url: str | None = ..., **settings: Any) -> VertexAdapter: ...


@pytest.fixture
def connect_vertex(vertex_server: RunningServer, gcs: RunningStorage, sleeps: list[float]) -> Iterator[ConnectVertex]:
    """Make an adapter for Vertex AI's API at a URL, the real face's by default, with the face's own key.

    It does not sleep, and is closed after the test.
    """
    key = (vertex_server.data_dir / "service-account.json").read_text()
    usual = {
        "location": "us-central1",
        "project": "analytics",
        "bucket": f"gs://{BUCKET}",
        "identity": Identity(key_json=key),
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


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """Signs for whatever host the proxy of ``google`` plays."""
    return trustme.CA()


@pytest.fixture
def google(authority: trustme.CA) -> Iterator[GoogleTokens]:
    """Google's token endpoints; nothing of the environment says who signs."""
    with google_tokens(authority) as server:
        yield server


@pytest.fixture(autouse=True)
def no_account_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    for name in [name for name in os.environ if name.startswith(("GOOGLE_", "GCLOUD_", "GCE_", "STORAGE_EMULATOR"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path_factory.getbasetemp() / "no-gcloud"))
