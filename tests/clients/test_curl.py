"""The four lines that LiteLLM's documentation shows for curl, as they stand there but for the port."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.server import RunningServer

CREATE_FILE = """\
curl http://localhost:4000/v1/files -H "Authorization: Bearer sk-1234" -F purpose="batch" -F file="@mydata.jsonl"
"""
CREATE_BATCH = """\
curl http://localhost:4000/v1/batches -H "Authorization: Bearer sk-1234" -H "Content-Type: application/json" \
-d '{"input_file_id": "file-abc123", "endpoint": "/v1/chat/completions", "completion_window": "24h"}'
"""
RETRIEVE_BATCH = """\
curl http://localhost:4000/v1/batches/batch_abc123 -H "Authorization: Bearer sk-1234" \
-H "Content-Type: application/json"
"""
LIST_BATCHES = """\
curl http://localhost:4000/v1/batches -H "Authorization: Bearer sk-1234" -H "Content-Type: application/json"
"""


@pytest.fixture
def curl(
    server: RunningServer,
    client_environment: dict[str, str],
    requests: bytes,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> Callable[[str], dict[str, Any]]:
    """Run a line in a shell, in a folder with ``mydata.jsonl``; gives curl's output."""
    if not shutil.which("curl"):
        assert os.environ.get("CI") != "true", "curl must be there in CI"
        pytest.skip("curl is not installed")
    version = subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True).stdout
    record_property("client", " ".join(version.split()[:2]))
    (tmp_path / "mydata.jsonl").write_bytes(requests)

    def run(line: str) -> dict[str, Any]:
        there = line.replace(":4000/", f":{urlsplit(server.url).port}/")
        done = subprocess.run(
            ["sh", "-c", there], cwd=tmp_path, env=client_environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    return run


def test_the_lines_for_curl_get_a_batch_done(curl: Callable[[str], dict[str, Any]], requests: bytes) -> None:
    file = curl(CREATE_FILE)
    assert file == {
        "id": file["id"],
        "object": "file",
        "bytes": len(requests),
        "created_at": file["created_at"],
        "expires_at": file["expires_at"],
        "filename": "mydata.jsonl",
        "purpose": "batch",
        "status": "processed",
        "status_details": None,
    }
    created = curl(CREATE_BATCH.replace("file-abc123", file["id"]))
    asked = {
        "id": created["id"],
        "object": "batch",
        "endpoint": "/v1/chat/completions",
        "input_file_id": file["id"],
        "completion_window": "24h",
        "errors": None,
    }
    assert created.items() >= {**asked, "status": "validating"}.items()
    retrieve = RETRIEVE_BATCH.replace("batch_abc123", created["id"])
    deadline = time.monotonic() + 20
    while (batch := curl(retrieve))["status"] != "completed":
        assert time.monotonic() < deadline, batch
    assert batch.items() >= asked.items()
    assert batch["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    assert curl(LIST_BATCHES) == {
        "object": "list",
        "data": [batch],
        "first_id": batch["id"],
        "last_id": batch["id"],
        "has_more": False,
    }


@pytest.mark.parametrize(
    ("line", "param"), [(CREATE_BATCH, "input_file_id"), (RETRIEVE_BATCH, "batch_id")], ids=["create", "retrieve"]
)
def test_the_made_up_ids_of_the_lines_are_refused_in_openais_shape(
    curl: Callable[[str], dict[str, Any]], line: str, param: str
) -> None:
    error = curl(line)["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert "abc123" in error["message"]
