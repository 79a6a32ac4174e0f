from __future__ import annotations

import os
import uuid
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol

import pytest
import trustme
from support.google_tokens import GoogleTokens, google_tokens

from airflow_provider_llmbatch.adapters.http import TransportSettings
from airflow_provider_llmbatch.adapters.vertex.storage import Bucket

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.gcs import RunningStorage


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


@pytest.fixture
def bucket(gcs: RunningStorage) -> str:
    """A new one of the test's own."""
    return gcs.create_bucket(f"bucket-{uuid.uuid4().hex}")


class OpenBucket(Protocol):
    def __call__(self, address: str, **settings: Any) -> Bucket: ...


@pytest.fixture
def sleeps() -> list[float]:
    """How long buckets made by ``open_bucket`` would have slept between attempts, in seconds."""
    return []


@pytest.fixture
def open_bucket(gcs: RunningStorage, sleeps: list[float]) -> Iterator[OpenBucket]:
    """Make a connection's bucket at ``gcs``, or at another ``storage_url``; it does not sleep, and is closed."""
    with ExitStack() as stack:

        def opened(address: str, **settings: Any) -> Bucket:
            defaults = {"authorization": None, "transport": TransportSettings(), "storage_url": gcs.url}
            store = Bucket(address, sleep=sleeps.append, **{**defaults, **settings})
            stack.callback(store.close)
            return store

        yield opened
