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
from crash.late_lists import LateLists
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

LISTING_LAG = 0.3
"""Seconds after which runs count on a provider's lists, which may be slow to create, too."""

_LATE = 0.2  # how late lists are
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
    """:param address: What runs call; lists are late there.
    :param uncut: The same, with lists that show everything at once.
    :param storage: The Cloud Storage beside Vertex AI.
    """

    address: Address
    uncut: Address
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
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        ports = [listener.getsockname()[1] for listener in listeners]
        face = Face(options, None)
        stack.enter_context(_served(face, listeners, ports[0], folder, engine))
        key = str(folder / "service-account.json") if storage else _KEY
        late, uncut = (
            Address(name, f"http://127.0.0.1:{port}{face.base_path}", key, storage.url if storage else "")
            for port in ports
        )
        yield RunningFace(late, uncut, storage)


@contextmanager
def _served(face: Face, listeners: list[socket.socket], late_port: int, folder: Path, engine: Engine) -> Iterator[None]:
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
    app = face.before(inner, store, api_key=_KEY, url=f"http://127.0.0.1:{late_port}", model=engine.model)
    late = LateLists(app, port=late_port, seconds=_LATE)
    server = uvicorn.Server(uvicorn.Config(late, log_level="critical", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, args=(listeners,), daemon=True)
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
