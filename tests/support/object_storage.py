"""An object store in memory that Airflow knows under the scheme ``memory``."""

from __future__ import annotations

import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

import fsspec
from airflow.sdk import ObjectStoragePath
from airflow.sdk.io import store

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def airflow_memory() -> Iterator[ObjectStoragePath]:
    """A bucket of its own."""
    known = store._STORE_CACHE.pop("memory", None)
    store.attach("memory", fs=fsspec.filesystem("memory"))
    try:
        yield ObjectStoragePath(f"memory://{uuid.uuid4().hex}")
    finally:
        del store._STORE_CACHE["memory"]
        if known is not None:
            store._STORE_CACHE["memory"] = known
