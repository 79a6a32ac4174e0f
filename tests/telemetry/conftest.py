from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.server import RunningServer

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TASK_SPAN_ID = "b7ad6b7169203331"
WORKER = Path(__file__).resolve().parents[1] / "support" / "worker.py"
DAGS = Path(__file__).with_name("dags")


@dataclass(frozen=True)
class Told:
    """:param folder: Where the tasks read and wrote."""

    folder: Path
    states: dict[str, str]

    def log(self, task_id: str) -> list[dict[str, Any]]:
        """The lines of all processes that worked at a task."""
        files = sorted(self.folder.glob(f"logs/{task_id}-*.log"))
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]


@pytest.fixture(scope="session")
def run_tasks() -> Callable[..., Told]:
    return _run_tasks


@pytest.fixture(scope="session")
def trace_parent() -> tuple[str, str]:
    """Ids of the trace, and of the task's span, as the scheduler would have made them."""
    return TRACE_ID, TASK_SPAN_ID


def _run_tasks(folder: Path, server: RunningServer, tasks: list[str], settings: dict[str, str]) -> Told:
    """Run tasks of ``dags/told.py`` in a worker of their own."""
    bodies = [{"model": "echo", "messages": [{"role": "user", "content": f"secret text {n}"}]} for n in range(3)]
    lines = [
        {"custom_id": f"r-{n}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        for n, body in enumerate(bodies)
    ]
    (folder / "requests.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = [{"id": f"person-{n}", "text": f"secret text {n}"} for n in range(4)]
    (folder / "reviews.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = {
        "dag_file": "told.py",
        "dag_id": "told",
        "tasks": tasks,
        "logs": str(folder / "logs"),
        "traceparent": f"00-{TRACE_ID}-{TASK_SPAN_ID}-01",
    }
    (folder / "told.json").write_text(json.dumps(told))
    connection = {
        "conn_type": "llmbatch_openai",
        "host": server.url,
        "password": server.api_key,
        "extra": {"listing_lag": 0, "console_url": "https://console.example/{batch_id}"},
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "OTEL"))}
    done = subprocess.run(
        [sys.executable, WORKER, folder / "told.json"],
        env={
            **inherited,
            "AIRFLOW_HOME": str(folder),
            "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(folder),
            "AIRFLOW_CONN_LLMBATCH_DEFAULT": json.dumps(connection),
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            "TOLD_FOLDER": str(folder),
            **settings,
        },
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return Told(folder, json.loads(done.stdout.splitlines()[-1]))
