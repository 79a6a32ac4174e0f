"""A triggerer looks at jobs and never pays for what only a worker needs: Google's own clients, which take seconds."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from support.adapter_contract import CHAT, chat_line, unique_name, until_ended
from support.vertex import BUCKET

if TYPE_CHECKING:
    from adapters.conftest import ConnectVertex
    from support.gcs import RunningStorage
    from support.server import RunningServer

LOOK = """
import json, os, sys
from airflow.sdk import Connection
from airflow_provider_llmbatch.hooks.batch import LLMBatchHook

connection = Connection(conn_id="vertex", **json.loads(os.environ["LOOKED_THROUGH"]))
adapter = LLMBatchHook.adapter_of(connection, looking=True)
status = adapter.retrieve_batch(os.environ["LOOKED_AT"]).status
adapter.close()
print(json.dumps({"status": status, "modules": sorted(sys.modules)}))
"""


def test_looking_at_a_job_imports_no_client_of_googles(
    connect_vertex: ConnectVertex, vertex_server: RunningServer, gcs: RunningStorage
) -> None:
    adapter = connect_vertex()
    file = adapter.create_file(io.BytesIO(chat_line("a", "x")), filename=unique_name())
    batch = until_ended(adapter, adapter.create_batch(file.id, endpoint=CHAT).id)
    extra = {
        "project": "analytics",
        "location": "us-central1",
        "bucket": f"gs://{BUCKET}",
        "keyfile_path": str(vertex_server.data_dir / "service-account.json"),
        "storage_url": gcs.url,
    }
    connection = {"conn_type": "llmbatch_vertex", "host": vertex_server.url, "extra": json.dumps(extra)}
    environment = {**os.environ, "LOOKED_THROUGH": json.dumps(connection), "LOOKED_AT": batch.id}
    looked = subprocess.run(
        [sys.executable, "-c", LOOK], capture_output=True, text=True, check=True, timeout=60, env=environment
    )
    told = json.loads(looked.stdout.splitlines()[-1])
    assert told["status"] == "completed"
    heavy = ("google.cloud.", "google.api_core", "google.protobuf", "grpc", "proto", "requests", "google_crc32c")
    ours = "airflow_provider_llmbatch.adapters.vertex."
    of_lines = tuple(ours + name for name in ("preflight", "requests", "responses"))
    assert [name for name in told["modules"] if name.startswith((*heavy, *of_lines))] == []
    assert f"{ours}adapter" in told["modules"]
