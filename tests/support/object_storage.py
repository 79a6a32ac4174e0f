"""Object stores that Airflow knows by their schemes: one in memory, and Cloud Storage on loopback."""

from __future__ import annotations

import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import fsspec
from airflow.sdk import ObjectStoragePath
from airflow.sdk.io import store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.gcs import RunningStorage


@contextmanager
def airflow_memory() -> Iterator[ObjectStoragePath]:
    """A bucket of its own."""
    with _known("memory", fsspec.filesystem("memory")):
        yield ObjectStoragePath(f"memory://{uuid.uuid4().hex}")


@contextmanager
def airflow_gs(gcs: RunningStorage) -> Iterator[ObjectStoragePath]:
    """A bucket of its own, through the file system that Airflow's Google provider brings for ``gs://``."""
    from gcsfs.core import GCSFileSystem  # seconds, which few tests want to spend

    with _known("gs", GCSFileSystem(endpoint_url=gcs.url, token="anon", project="test", skip_instance_cache=True)):
        yield ObjectStoragePath(f"gs://{gcs.create_bucket(uuid.uuid4().hex)}")


@contextmanager
def _known(scheme: str, file_system: Any) -> Iterator[None]:
    before = store._STORE_CACHE.pop(scheme, None)
    store.attach(scheme, fs=file_system)
    try:
        yield
    finally:
        del store._STORE_CACHE[scheme]
        if before is not None:
            store._STORE_CACHE[scheme] = before
