"""A worker is really killed when the job is there and nothing says so yet: the retry finds it at Vertex AI."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING

from crash.test_killed_worker import STEPS, WORKER
from support.vertex import BUCKET

from airflow_provider_llmbatch.adapters.vertex.adapter import VertexAdapter
from airflow_provider_llmbatch.adapters.vertex.credentials import Identity
from airflow_provider_llmbatch.adapters.vertex.settings import VertexSettings

if TYPE_CHECKING:
    from pathlib import Path

    from support.gcs import RunningStorage
    from support.server import RunningServer

AFTER_THE_CREATION = STEPS - 2  # before the id is recorded


def test_a_kill_between_the_creation_and_its_record_leaves_one_file_and_one_job(
    vertex_server: RunningServer, gcs: RunningStorage, tmp_path: Path
) -> None:
    source = tmp_path / "requests.jsonl"
    body = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}
    line = {"custom_id": "r-1", "method": "POST", "url": "/v1/chat/completions", "body": body}
    source.write_text(json.dumps(line) + "\n")
    bucket, key = f"gs://{BUCKET}/{uuid.uuid4().hex}", str(vertex_server.data_dir / "service-account.json")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(WORKER.parents[1]), os.environ.get("PYTHONPATH", "")]),
        "WORKER_BUCKET": bucket,
        "WORKER_STORAGE": gcs.url,
    }

    def work(try_number: int, kill_at: int) -> subprocess.CompletedProcess[str]:
        what = [str(tmp_path / "ledger.json"), str(source), str(try_number), str(kill_at)]
        command = [sys.executable, str(WORKER), vertex_server.url, key, *what]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)

    killed = work(1, AFTER_THE_CREATION)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    retried = work(2, 0)
    assert retried.returncode == 0, retried.stderr
    assert "nothing is paid again" in retried.stderr

    settings = VertexSettings(
        "us-central1", bucket, "analytics", Identity(key_path=key), endpoint=vertex_server.url, storage_url=gcs.url
    )
    adapter = VertexAdapter(settings)
    files = [file.id for file in adapter.list_files()]
    batches = [batch.id for batch in adapter.list_batches() if batch.input_file_id in files]
    adapter.close()
    assert (len(files), batches) == (1, [retried.stdout.split()[0]]), retried.stderr
