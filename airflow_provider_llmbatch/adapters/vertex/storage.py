"""The bucket of a connection: input files go there, and Vertex AI writes its predictions there."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from airflow_provider_llmbatch.adapters.http import Authorization, TransportSettings


@dataclass(frozen=True)
class StoredObject:
    """What is known of an object without reading it.

    :param name: Below the prefix of the bucket's setting; of an object elsewhere, its whole name in its own bucket.
    :param created_at: Seconds since 1970.
    :param generation: Changes whenever the object is replaced.
    :param crc32c: In base 64, as Cloud Storage writes it; empty where it says none.
    """

    name: str
    uri: str
    bytes: int
    created_at: int
    metadata: Mapping[str, str] = field(default_factory=dict)
    generation: str = ""
    crc32c: str = ""


class Bucket:
    """A ``gs://bucket[/prefix]``, or ``bucket`` alone. Safe to use from several threads.

    ``name`` is below the prefix; a whole ``gs://`` URI, of any bucket, will do everywhere but for an upload.

    :param storage_url: Scheme, host and port of another service than Google's; else ``STORAGE_EMULATOR_HOST`` counts.
    :raises ConnectionSettingsError: The address is no bucket.
    """

    def __init__(
        self,
        address: str,
        *,
        authorization: Authorization | None,
        transport: TransportSettings,
        storage_url: str | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        raise NotImplementedError

    def uri(self, name: str) -> str:
        raise NotImplementedError

    def upload(self, name: str, blocks: Iterator[bytes], *, metadata: Mapping[str, str]) -> StoredObject:
        raise NotImplementedError

    def stat(self, name: str) -> StoredObject:
        raise NotImplementedError

    def delete(self, name: str) -> None:
        raise NotImplementedError

    def list(self, prefix: str = "", *, limit: int | None = None) -> Iterator[StoredObject]:
        raise NotImplementedError

    def download(self, name: str) -> Iterator[bytes]:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError
