"""Batch prediction jobs as the server keeps them, and as Vertex AI's REST API shows them (``v1``)."""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

State = Literal[
    "QUEUED", "PENDING", "RUNNING", "CANCELLING", "SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED", "PARTIALLY_SUCCEEDED"
]
ENDS: Final[frozenset[State]] = frozenset({"SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED", "PARTIALLY_SUCCEEDED"})
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS jobs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, parent TEXT NOT NULL, ended INTEGER NOT NULL,
    row TEXT NOT NULL);
"""


class Stats(BaseModel):
    """``completionStats``. ``incomplete`` counts what was not answered when the job ended."""

    model_config = ConfigDict(frozen=True)

    successful: int = 0
    failed: int = 0
    incomplete: int = 0


class Job(BaseModel):
    """A job.

    :param asked: What its creator sent, as far as an answer repeats it.
    :param batch_id: The batch of the store that answers its requests.
    :param file_id: That batch's input.
    :param error: Number of Google's code, and message.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    project: str
    location: str
    asked: dict[str, Any]
    batch_id: str
    file_id: str
    created: float
    updated: float
    started: float | None = None
    ended: float | None = None
    state: State = "QUEUED"
    stats: Stats | None = None
    error: tuple[int, str] | None = None
    partial_failures: tuple[str, ...] = ()
    directory: str | None = None

    @property
    def name(self) -> str:
        return f"{parent_name(self.project, self.location)}/batchPredictionJobs/{self.id}"

    @property
    def has_ended(self) -> bool:
        return self.state in ENDS

    @property
    def model(self) -> str:
        """Its id alone, by which engines know it."""
        return str(self.asked["model"]).partition("/models/")[2]

    @property
    def input_uri(self) -> str:
        return str(self.asked["inputConfig"]["gcsSource"]["uris"][0])

    @property
    def output_prefix(self) -> str:
        return str(self.asked["outputConfig"]["gcsDestination"]["outputUriPrefix"]).rstrip("/")


def parent_name(project: str, location: str) -> str:
    return f"projects/{number_of(project)}/locations/{location}"


def number_of(project: str) -> str:
    """A project's number, which names in answers have in the place of its id: always the same for an id."""
    if project.isdecimal():
        return project
    return str(10**11 + int(hashlib.sha256(project.encode()).hexdigest()[:9], 16))


def new_job_id() -> str:
    return str(10**18 + secrets.randbelow(8 * 10**18))


def time_text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def shown(job: Job, stats: Stats | None = None) -> dict[str, object]:
    """A job in protobuf's JSON: 64-bit numbers are texts, and what is 0 or empty is left out.

    :param stats: As they are now, for a job that runs.
    """
    answer: dict[str, object] = {"name": job.name, **job.asked, "state": f"JOB_STATE_{job.state}"}
    times = {"createTime": job.created, "startTime": job.started, "endTime": job.ended, "updateTime": job.updated}
    answer |= {name: time_text(at) for name, at in times.items() if at is not None}
    if job.directory is not None:
        answer["outputInfo"] = {"gcsOutputDirectory": job.directory}
    if counts := (stats or job.stats):
        answer["completionStats"] = {f"{name}Count": str(count) for name, count in counts.model_dump().items() if count}
    if job.error is not None:
        answer["error"] = {"code": job.error[0], "message": job.error[1]}
    if job.partial_failures:
        answer["partialFailures"] = [{"code": 13, "message": each} for each in job.partial_failures]
    return answer


class Jobs:
    """All jobs, in a database of their own in the store's folder, which the store holds. Safe to use from several
    threads."""

    def __init__(self, folder: Path) -> None:
        path = folder / "vertex.sqlite"
        path.touch(mode=0o600)
        self._lock = threading.Lock()
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=NORMAL")
        self._database.executescript(_SCHEMA)

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def save(self, job: Job) -> None:
        with self._lock:
            self._database.execute(
                "INSERT INTO jobs (id, parent, ended, row) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (id) DO UPDATE SET ended = excluded.ended, row = excluded.row",
                (job.id, parent_name(job.project, job.location), job.has_ended, job.model_dump_json()),
            )

    def delete(self, job: Job) -> None:
        with self._lock:
            self._database.execute("DELETE FROM jobs WHERE id = ?", (job.id,))

    def job(self, parent: str, job_id: str) -> Job | None:
        with self._lock:
            row = self._database.execute(
                "SELECT row FROM jobs WHERE id = ? AND parent = ?", (job_id, parent)
            ).fetchone()
        return Job.model_validate_json(row[0]) if row else None

    def after(self, parent: str, seq: int | None) -> Iterator[tuple[int, Job]]:
        """Jobs of a location, newest first, with what names their place in the list; ``seq``: only those behind it."""
        while True:
            with self._lock:
                rows = self._database.execute(
                    "SELECT seq, row FROM jobs WHERE parent = ? AND (? IS NULL OR seq < ?) ORDER BY seq DESC LIMIT 100",
                    (parent, seq, seq),
                ).fetchall()
            if not rows:
                return
            for place, row in rows:
                yield place, Job.model_validate_json(row)
            seq = rows[-1][0]

    def unfinished(self) -> list[Job]:
        with self._lock:
            rows = self._database.execute("SELECT row FROM jobs WHERE NOT ended ORDER BY seq").fetchall()
        return [Job.model_validate_json(row[0]) for row in rows]
