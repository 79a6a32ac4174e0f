"""The embedded batch server as a process of the demo's, with a key and a port of its own, and what leads to it."""

from __future__ import annotations

import secrets
import shutil
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import httpx

from demo.environment import PYTHON, inherited
from demo.processes import pipe_of
from demo.storage import BUCKET, CloudStorage

if TYPE_CHECKING:
    from demo.environment import Environment
    from demo.processes import Processes

_LISTENING: Final = b"Listening on "
_PROJECT: Final = "llmbatch-demo"
_LOCATION: Final = "us-central1"
_JOBS: Final = f"/v1/projects/{_PROJECT}/locations/{_LOCATION}/batchPredictionJobs"


class BatchServer:
    """Starts with an empty folder; ``api_key`` is made up for this run.

    :param provider: Whose API it speaks: ``openai``, ``azure`` or ``vertex``.
    """

    def __init__(
        self, environment: Environment, processes: Processes, *, engine: str, provider: str, log: BinaryIO
    ) -> None:
        self.api_key = secrets.token_urlsafe(24)
        self._data = environment.server_data
        shutil.rmtree(self._data, ignore_errors=True)
        self._storage = CloudStorage(processes, log=log) if provider == "vertex" else None
        self.conn_type = f"llmbatch_{provider}"
        storage = ("--storage-url", self._storage.url, "--vertex-project", _PROJECT) if self._storage else ()
        process = processes.start(
            [
                *(*PYTHON, "-m", "airflow_provider_llmbatch.server", "--engine", engine, "--face", provider, *storage),
                *("--port", "0", "--data", str(self._data)),
            ],
            env={**inherited(), "LLMBATCH_SERVER_API_KEY": self.api_key},
            log=log,
        )
        self._output = pipe_of(process.stdout)

    def wait_until_listening(self) -> str | None:
        """The base URL for clients, or ``None`` if the server, or its storage, ended before it had one."""
        for line in self._output:
            if line.startswith(_LISTENING):
                if self._storage and not self._storage.make_bucket():
                    return None
                return line.removeprefix(_LISTENING).decode().strip()
        return None

    def wait_until_gone(self) -> None:
        with self._output as lines:
            for _ in lines:
                pass

    def connection(self, url: str) -> dict[str, Any]:
        """What a connection of Airflow's holds to reach the server at its base URL."""
        if self._storage is None:
            return {"conn_type": self.conn_type, "host": url, "password": self.api_key}
        extra = {
            "project": _PROJECT,
            "location": _LOCATION,
            "bucket": f"gs://{BUCKET}",
            "storage_url": self._storage.url,
            "keyfile_path": str(self._data / "service-account.json"),
        }
        return {"conn_type": self.conn_type, "host": url, "extra": extra}

    def counts(self, url: str, input_file_id: str) -> dict[str, int]:
        """``total``, ``completed`` and ``failed`` of the batch made from a file; empty while there is none."""
        path = "/batches" if self._storage is None else _JOBS
        try:
            answer = httpx.get(
                f"{url}{path}", headers={"Authorization": f"Bearer {self.api_key}"}, timeout=2.0, trust_env=False
            ).raise_for_status()
        except httpx.HTTPError:
            return {}  # only the bar: the DAG tells by itself what goes wrong
        found = answer.json()
        return _counts(found, input_file_id) if self._storage is None else _job_counts(found, input_file_id)


def _counts(listed: dict[str, Any], input_file_id: str) -> dict[str, int]:
    for batch in listed["data"]:
        if batch["input_file_id"] == input_file_id:
            return dict(batch["request_counts"] or {})
    return {}


def _job_counts(listed: dict[str, Any], uri: str) -> dict[str, int]:
    for job in listed.get("batchPredictionJobs", ()):
        if job["inputConfig"]["gcsSource"]["uris"] == [uri] and (stats := job.get("completionStats")):
            done, failed, left = (int(stats.get(f"{name}Count", 0)) for name in ("successful", "failed", "incomplete"))
            return {"total": done + failed + left, "completed": done, "failed": failed}
    return {}
