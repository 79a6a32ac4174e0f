"""What the server keeps: rows in SQLite, bytes in a folder. Everything that was acknowledged is on disk.

SQLite, because it comes with Python and survives a kill; per-line answers go to plain files, appended whole, since a
row for each would cost more than the answer.
"""

from __future__ import annotations

import secrets
import sqlite3
import threading
from typing import TYPE_CHECKING

from airflow_provider_llmbatch.models import Batch, File

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, purpose TEXT NOT NULL, row TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS batches (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, row TEXT NOT NULL);
"""


class Store:
    """Files and batches in one folder, private to its owner. Safe to use from several threads.

    :param folder: Made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        self._contents = folder / "files"
        self._work = folder / "work"
        self.uploads = folder / "uploads"
        for part in (self._contents, self._work, self.uploads):
            part.mkdir(mode=0o700, exist_ok=True)
        for leftover in self.uploads.iterdir():
            leftover.unlink()  # of an upload that a kill cut off
        self._lock = threading.Lock()
        self._database = sqlite3.connect(folder / "server.sqlite", check_same_thread=False, isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=NORMAL")
        self._database.executescript(_SCHEMA)

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def content(self, file: File) -> Path:
        """Where a file's bytes are. Takes a file and not an id, so that no id from outside becomes a path."""
        return self._contents / file.id

    def working_file(self, batch: Batch, kind: str) -> Path:
        """Where the answers of a running batch collect; ``kind`` is ``output`` or ``error``."""
        return self._work / f"{batch.id}.{kind}.jsonl"

    def add_file(self, file: File, content: Path) -> None:
        """Take over a content under a new file; does nothing a second time, for a restart in between."""
        if content.exists():
            content.replace(self.content(file))
        with self._lock:
            self._database.execute(
                "INSERT OR IGNORE INTO files (id, purpose, row) VALUES (?, ?, ?)",
                (file.id, file.purpose, file.model_dump_json()),
            )

    def file(self, file_id: str) -> File | None:
        with self._lock:
            row = self._database.execute("SELECT row FROM files WHERE id = ?", (file_id,)).fetchone()
        return File.model_validate_json(row[0]) if row else None

    def files(self, *, purpose: str | None, after: str | None, limit: int, newest_first: bool) -> list[File]:
        """A page of files, and one more if there are more."""
        where = ["1"]
        values: list[str | int] = []
        if purpose is not None:
            where.append("purpose = ?")
            values.append(purpose)
        if after is not None:
            where.append(f"seq {'<' if newest_first else '>'} (SELECT seq FROM files WHERE id = ?)")  # noqa: S608 - no value in it
            values.append(after)
        order = "DESC" if newest_first else "ASC"
        query = f"SELECT row FROM files WHERE {' AND '.join(where)} ORDER BY seq {order} LIMIT ?"  # noqa: S608 - no value in it
        with self._lock:
            rows = self._database.execute(query, (*values, limit + 1)).fetchall()
        return [File.model_validate_json(row[0]) for row in rows]

    def delete_file(self, file: File) -> None:
        with self._lock:
            self._database.execute("DELETE FROM files WHERE id = ?", (file.id,))
        self.content(file).unlink(missing_ok=True)

    def put_batch(self, batch: Batch) -> None:
        with self._lock:
            self._database.execute(
                "INSERT INTO batches (id, row) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET row = excluded.row",
                (batch.id, batch.model_dump_json()),
            )

    def batch(self, batch_id: str) -> Batch | None:
        with self._lock:
            row = self._database.execute("SELECT row FROM batches WHERE id = ?", (batch_id,)).fetchone()
        return Batch.model_validate_json(row[0]) if row else None

    def batches(self, *, after: str | None, limit: int) -> list[Batch]:
        """A page of batches, newest first, and one more if there are more."""
        query = "SELECT row FROM batches WHERE ? IS NULL OR seq < (SELECT seq FROM batches WHERE id = ?) "
        with self._lock:
            rows = self._database.execute(query + "ORDER BY seq DESC LIMIT ?", (after, after, limit + 1)).fetchall()
        return [Batch.model_validate_json(row[0]) for row in rows]

    def unfinished_batches(self) -> Iterator[Batch]:
        with self._lock:
            rows = self._database.execute("SELECT row FROM batches ORDER BY seq").fetchall()
        return (batch for row in rows if not (batch := Batch.model_validate_json(row[0])).is_terminal)


def new_id(prefix: str) -> str:
    return f"{prefix}{secrets.token_hex(16)}"
