"""The embedded server with Vertex AI's face, beside an emulator of Cloud Storage, called as anybody may call it."""

from __future__ import annotations

import json
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from support.plain_http import NO_TLS
from support.server import RunningServer, running_server

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from support.gcs import RunningStorage

BUCKET = "llmbatch-face"
PARENT = "/v1/projects/analytics/locations/us-central1/batchPredictionJobs"
ENDS = ("SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED", "PARTIALLY_SUCCEEDED")


@contextmanager
def running_vertex(
    folder: Path, storage: RunningStorage, *, engine: str = "echo", extra_args: Sequence[str] = ()
) -> Iterator[RunningServer]:
    """A server whose jobs wait in no queue, unless ``extra_args`` say otherwise."""
    face = ("--face", "vertex", "--storage-url", storage.url, "--vertex-queue-seconds", "0", *extra_args)
    with running_server(folder, engine=engine, extra_args=face) as server:
        yield server


@dataclass(frozen=True)
class Vertex:
    """Plain calls to a face, and to the storage beside it."""

    http: httpx.Client
    storage: RunningStorage
    data_dir: Path

    def put(self, content: bytes) -> str:
        """Store an input; its URI."""
        name = f"in/{uuid.uuid4().hex}.jsonl"
        self.storage.put(BUCKET, name, content)
        return f"gs://{BUCKET}/{name}"

    def create(self, uri: str, **more: object) -> httpx.Response:
        return self.http.post(PARENT, json={**wanted(uri), **more})

    def job(self, content: bytes, **more: object) -> dict[str, Any]:
        return good(self.create(self.put(content), **more))

    def now(self, job: dict[str, Any]) -> dict[str, Any]:
        return good(self.http.get(f"/v1/{job['name']}"))

    def until(self, job: dict[str, Any], *states: str, seconds: float = 30) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while (job := self.now(job))["state"].removeprefix("JOB_STATE_") not in states:
            assert time.monotonic() < deadline, job
            time.sleep(0.01)
        return job

    def run(self, content: bytes, **more: object) -> dict[str, Any]:
        return self.until(self.job(content, **more), *ENDS)

    def cancel(self, job: dict[str, Any]) -> httpx.Response:
        return self.http.post(f"/v1/{job['name']}:cancel", json={})

    def listed(self, **query: str | int) -> list[str]:
        """Ids of jobs, newest first."""
        found = good(self.http.get(PARENT, params=query)).get("batchPredictionJobs", [])
        return [job["name"].rpartition("/")[2] for job in found]

    def outputs(self, job: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
        """The rows of each object of a job's output."""
        directory = job["outputInfo"]["gcsOutputDirectory"].removeprefix(f"gs://{BUCKET}/")
        return {
            name.removeprefix(f"{directory}/"): [
                json.loads(line) for line in self.storage.content(BUCKET, name).splitlines()
            ]
            for name in self.storage.names(BUCKET, f"{directory}/")
        }

    def rows(self, job: dict[str, Any]) -> list[dict[str, Any]]:
        """All rows that count."""
        return [row for name, rows in self.outputs(job).items() if name.startswith("predictions.jsonl") for row in rows]


@contextmanager
def calling(server: RunningServer, storage: RunningStorage) -> Iterator[Vertex]:
    headers = {"Authorization": f"Bearer {server.api_key}"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=30, trust_env=False, verify=NO_TLS) as http:
        yield Vertex(http, storage, server.data_dir)


def good(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def wanted(uri: str, **more: object) -> dict[str, object]:
    return {
        "displayName": "night",
        "model": "publishers/google/models/gemini-2.5-flash",
        "inputConfig": {"instancesFormat": "jsonl", "gcsSource": {"uris": [uri]}},
        "outputConfig": {
            "predictionsFormat": "jsonl",
            "gcsDestination": {"outputUriPrefix": f"gs://{BUCKET}/out/{uuid.uuid4().hex}/"},
        },
        **more,
    }


def gemini_line(row: str, said: str | None = "hello", **more: object) -> dict[str, Any]:
    """A request that the service refuses, without a text."""
    contents = [] if said is None else [{"role": "user", "parts": [{"text": said}]}]
    return {"request": {"contents": contents, "labels": {"row": row}, **more}}
