"""CRC32C, which Cloud Storage keeps of every object: by google-crc32c, which comes with google-cloud-storage."""

from __future__ import annotations

import base64
from typing import Any

from airflow_provider_llmbatch.errors import ConnectionSettingsError


class Checksum:
    """Of the bytes so far.

    :raises ConnectionSettingsError: The package is not installed.
    """

    def __init__(self) -> None:
        found: Any
        try:
            from google_crc32c import Checksum as Crc32c  # noqa: PLC0415 - an extra
        except ImportError:
            found = None
        else:
            found = Crc32c()  # type: ignore[no-untyped-call]
        if found is None:
            raise ConnectionSettingsError(
                "The package google-crc32c, which checks what goes to and comes from Cloud Storage, is not installed. "
                "Nothing was sent. Run pip install 'airflow-provider-llmbatch[vertex]' where the workers and the "
                "triggerer run."
            )
        self._crc32c = found

    def update(self, block: bytes) -> None:
        self._crc32c.update(block)

    @property
    def text(self) -> str:
        """In base 64, as Cloud Storage writes it."""
        return base64.b64encode(self._crc32c.digest()).decode()
