"""A ledger's store in a file, durable like Airflow's task state store."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import JsonValue


class FileStore:
    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, key: str) -> JsonValue:
        if not self._path.exists():
            return None
        values: dict[str, JsonValue] = json.loads(self._path.read_text())
        return values.get(key)

    def set(self, key: str, value: JsonValue) -> None:
        values = json.loads(self._path.read_text()) if self._path.exists() else {}
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps({**values, key: value}))
        os.replace(part, self._path)  # noqa: PTH105 - what every reader of a crash test knows by this name
