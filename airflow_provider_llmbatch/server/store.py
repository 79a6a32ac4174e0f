"""What the server keeps: rows in SQLite, bytes in a folder. Everything that was acknowledged survives a kill.

SQLite, because it comes with Python and survives a kill; per-line answers go to plain files, appended whole, since a
row for each would cost more than the answer.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import sqlite3
import threading
import time
from typing import TYPE_CHECKING, Final

from airflow_provider_llmbatch.models import TERMINAL_STATUSES, Batch, File

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS files (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, purpose TEXT NOT NULL, row TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS batches (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, row TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS lifetimes (batch_id TEXT PRIMARY KEY, seconds INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS files_by_end ON files ({expires_at});
CREATE INDEX IF NOT EXISTS unfinished_by_input ON batches ({input_file_id}) WHERE NOT {ended};
"""
# The same text in index and query, since SQLite finds an index on an expression by comparing them.
_EXPIRES_AT: Final = "json_extract(row, '$.expires_at')"
_INPUT_FILE_ID: Final = "json_extract(row, '$.input_file_id')"
_ENDED: Final = "(json_extract(row, '$.status') IN ({}))".format(
    ", ".join(f"'{status}'" for status in sorted(TERMINAL_STATUSES))
)


class FolderInUseError(OSError):
    """Raised when another server has the data folder open: two would run each batch twice."""


class Store:
    """Files and batches in one folder, private to its owner. Safe to use from several threads.

    :param folder: Made if it is not there; held until ``close`` or the end of the process.
    :raises FolderInUseError: Another process or store holds the folder.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        self._hold = _held(folder)
        self._contents = folder / "files"
        self._work = folder / "work"
        self.uploads = folder / "uploads"
        for part in (self._contents, self._work, self.uploads):
            part.mkdir(mode=0o700, exist_ok=True)
        for leftover in self.uploads.glob("file-*"):
            leftover.unlink()  # of an upload that a kill cut off
        self._lock = threading.Lock()
        path = folder / "server.sqlite"
        path.touch(mode=0o600)  # SQLite gives the files beside it the same mode
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=NORMAL")
        self._database.executescript(_SCHEMA.format(expires_at=_EXPIRES_AT, input_file_id=_INPUT_FILE_ID, ended=_ENDED))
        self._drop_orphans()

    def close(self) -> None:
        with self._lock:
            self._database.close()
        os.close(self._hold)

    def content(self, file: File) -> Path:
        """Where a file's bytes are. Takes a file and not an id, so that no id from outside becomes a path."""
        return self._contents / file.id

    def input_of(self, batch: Batch) -> Path:
        """Where a batch's input is until the batch ends, even if the file is deleted or expires meanwhile."""
        return self._contents / str(batch.input_file_id)

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
        """A file that is there and has not expired."""
        self._drop_expired()
        with self._lock:
            row = self._database.execute("SELECT row FROM files WHERE id = ?", (file_id,)).fetchone()
        return File.model_validate_json(row[0]) if row else None

    def files(self, *, purpose: str | None, after: str | None, limit: int, newest_first: bool) -> list[File]:
        """A page of files, and one more if there are more. ``after`` is the id of a file that is there."""
        self._drop_expired()
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

    def count_inputs(self, *, expiring: bool) -> int:
        """How many files for batches there are that expire, or do not."""
        self._drop_expired()
        query = f"SELECT count(*) FROM files WHERE purpose = 'batch' AND ({_EXPIRES_AT} IS NOT NULL) = ?"  # noqa: S608 - no value in it
        with self._lock:
            count: int = self._database.execute(query, (expiring,)).fetchone()[0]
        return count

    def delete_file(self, file: File) -> None:
        """Forget a file at once; its bytes go when no unfinished batch reads them any more."""
        with self._lock:
            self._database.execute("DELETE FROM files WHERE id = ?", (file.id,))
            self._drop_content(file.id)

    def _drop_expired(self) -> None:
        with self._lock:
            now = int(time.time())
            expired = f"SELECT id FROM files WHERE {_EXPIRES_AT} <= ?"  # noqa: S608 - no value in it
            for (file_id,) in self._database.execute(expired, (now,)).fetchall():
                self._database.execute("DELETE FROM files WHERE id = ?", (file_id,))
                self._drop_content(file_id)

    def _drop_orphans(self) -> None:
        """Remove contents that nothing names any more, or not yet: a kill came between the two steps."""
        with self._lock:
            named = {file_id for (file_id,) in self._database.execute("SELECT id FROM files")}
            unfinished = self._database.execute(f"SELECT row FROM batches WHERE NOT {_ENDED}").fetchall()  # noqa: S608 - no value in it
            for (row,) in unfinished:
                batch = Batch.model_validate_json(row)
                named |= {str(batch.input_file_id), str(batch.output_file_id), str(batch.error_file_id)}
            for content in self._contents.glob("file-*"):
                if content.name not in named:
                    content.unlink()

    def _drop_content(self, file_id: str) -> None:
        query = f"SELECT 1 FROM batches WHERE NOT {_ENDED} AND {_INPUT_FILE_ID} = ?"  # noqa: S608 - no value in it
        if self._database.execute(query, (file_id,)).fetchone() is None:
            (self._contents / file_id).unlink(missing_ok=True)

    def add_batch(self, batch: Batch, *, results_lifetime: int | None = None) -> bool:
        """Add a batch if its input is still there; from then on the input's bytes stay until the batch ends.

        :param results_lifetime: Seconds from the making of its result files until they expire.
        """
        with self._lock, self._database:
            self._database.execute("BEGIN")
            added = self._database.execute(
                "INSERT INTO batches (id, row) SELECT ?, ? WHERE EXISTS (SELECT 1 FROM files WHERE id = ?)",
                (batch.id, batch.model_dump_json(), batch.input_file_id),
            )
            if added.rowcount and results_lifetime is not None:
                self._database.execute("INSERT INTO lifetimes VALUES (?, ?)", (batch.id, results_lifetime))
            return added.rowcount == 1

    def results_lifetime(self, batch: Batch) -> int | None:
        query = "SELECT seconds FROM lifetimes WHERE batch_id = ?"
        with self._lock:
            row = self._database.execute(query, (batch.id,)).fetchone()
        return row[0] if row else None

    def save_batch(self, batch: Batch) -> None:
        with self._lock:
            self._database.execute("UPDATE batches SET row = ? WHERE id = ?", (batch.model_dump_json(), batch.id))
            named = self._database.execute("SELECT 1 FROM files WHERE id = ?", (batch.input_file_id,)).fetchone()
            if batch.is_terminal and named is None:
                self._drop_content(str(batch.input_file_id))

    def batch(self, batch_id: str) -> Batch | None:
        with self._lock:
            row = self._database.execute("SELECT row FROM batches WHERE id = ?", (batch_id,)).fetchone()
        return Batch.model_validate_json(row[0]) if row else None

    def batches(self, *, after: str | None, limit: int) -> list[Batch]:
        """A page of batches, newest first, and one more if there are more. ``after`` is the id of one of them."""
        query = "SELECT row FROM batches WHERE ? IS NULL OR seq < (SELECT seq FROM batches WHERE id = ?) "
        with self._lock:
            rows = self._database.execute(query + "ORDER BY seq DESC LIMIT ?", (after, after, limit + 1)).fetchall()
        return [Batch.model_validate_json(row[0]) for row in rows]

    def unfinished_batches(self) -> Iterator[Batch]:
        with self._lock:
            rows = self._database.execute(f"SELECT row FROM batches WHERE NOT {_ENDED} ORDER BY seq").fetchall()  # noqa: S608 - no value in it
        return (Batch.model_validate_json(row[0]) for row in rows)


def new_id(prefix: str) -> str:
    return f"{prefix}{secrets.token_hex(16)}"


def open_private(path: str, flags: int) -> int:
    """An ``opener`` for files that nobody but their owner may read, whatever the umask."""
    return os.open(path, flags, 0o600)


def _held(folder: Path) -> int:
    """A lock on the folder that ends with this process, however it ends."""
    hold = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(hold, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(hold)
        raise FolderInUseError(errno.EBUSY, "another llmbatch-server uses it", str(folder)) from None
    return hold
