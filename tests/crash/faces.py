"""The providers of the campaigns: the embedded server with each of its faces, on one engine that counts.

A worker in another process learns from an ``Address`` how to call one.
"""

from __future__ import annotations

import argparse
import socket
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal

import uvicorn
from support.gcs import running_gcs

from airflow_provider_llmbatch.adapters.azure import AzureAdapter, AzureSettings
from airflow_provider_llmbatch.adapters.http import TransportSettings
from airflow_provider_llmbatch.adapters.openai import OpenAIAdapter, OpenAISettings
from airflow_provider_llmbatch.adapters.vertex.adapter import VertexAdapter
from airflow_provider_llmbatch.adapters.vertex.credentials import Identity
from airflow_provider_llmbatch.adapters.vertex.settings import VertexSettings
from airflow_provider_llmbatch.server.app import create_app
from airflow_provider_llmbatch.server.faces import Face, add_options
from airflow_provider_llmbatch.server.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.gcs import RunningStorage

    from airflow_provider_llmbatch.adapters.base import Adapter
    from airflow_provider_llmbatch.server.engines.base import Engine

FaceName = Literal["openai", "azure", "vertex"]
TITLES: dict[FaceName, str] = {"openai": "OpenAI", "azure": "Azure OpenAI", "vertex": "Vertex AI"}

_KEY = "sk-server-0123456789"
_BUCKET = "llmbatch-campaigns"
_OPTIONS: dict[FaceName, tuple[str, ...]] = {
    "openai": (),
    "azure": ("--azure-file-seconds", "0.02"),  # some files are still pending when their batch is to be created
    "vertex": ("--vertex-queue-seconds", "0", "--vertex-rows-per-shard", "2"),  # so that some results are in two pieces
}


def _blink(seconds: float) -> None:
    time.sleep(min(seconds, 0.01))


@dataclass(frozen=True)
class Address:
    """Where a provider is, as JSON may tell it.

    :param key: What it accepts: a key, or at Vertex AI the path of a service account's.
    :param storage: At Vertex AI, the address of Cloud Storage.
    """

    face: FaceName
    url: str
    key: str
    storage: str = ""

    def as_json(self) -> dict[str, str]:
        return asdict(self)

    def by_way_of(self, url: str, storage: str = "") -> Address:
        """The same provider behind other addresses, such as a proxy's."""
        return replace(self, url=url, storage=storage)

    def adapter(self, transport: TransportSettings | None = None) -> Adapter:
        """One that hardly pauses between two calls."""
        transport = transport or TransportSettings()
        if self.face == "vertex":
            where = {"endpoint": self.url, "storage_url": self.storage}
            identity, bucket = Identity(key_path=self.key), f"gs://{_BUCKET}"
            vertex = VertexAdapter(
                VertexSettings("us-central1", bucket, "analytics", identity, transport=transport, **where)
            )
            vertex._http._sleep = vertex._bucket._http._sleep = _blink
            return vertex
        other = (
            AzureAdapter(AzureSettings(self.url, self.key, transport=transport))
            if self.face == "azure"
            else OpenAIAdapter(OpenAISettings(api_key=self.key, base_url=self.url, transport=transport))
        )
        other._http._sleep = _blink
        return other


@dataclass(frozen=True)
class RunningFace:
    """:param storage: The Cloud Storage beside Vertex AI."""

    address: Address
    storage: RunningStorage | None


@contextmanager
def serving_face(name: FaceName, folder: Path, engine: Engine) -> Iterator[RunningFace]:
    """Serve in a thread of this process; with what the provider needs beside it."""
    with ExitStack() as stack:
        storage = stack.enter_context(running_gcs()) if name == "vertex" else None
        if storage:
            storage.create_bucket(_BUCKET)
        parser = argparse.ArgumentParser()
        add_options(parser)
        asked = ("--face", name, "--storage-url", storage.url if storage else "", *_OPTIONS[name])
        options = parser.parse_args(asked, argparse.Namespace(data=folder))
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        stack.enter_context(_served(Face(options, None), listener, url, folder, engine))
        key = str(folder / "service-account.json") if storage else _KEY
        base = f"{url}{Face(options, None).base_path}"
        yield RunningFace(Address(name, base, key, storage.url if storage else ""), storage)


@contextmanager
def _served(face: Face, listener: socket.socket, url: str, folder: Path, engine: Engine) -> Iterator[None]:
    store = Store(folder)
    inner = create_app(
        store,
        face.behind(engine),
        api_key=_KEY,
        concurrency=4,
        completion_window=86_400.0,
        max_upload_bytes=10_000_000,
        dialect=face.dialect,
    )
    app = face.before(inner, store, api_key=_KEY, url=url, model=engine.model)
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        yield
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        store.close()
