"""The demo in the web interface, in real processes, as a newcomer looks at it.

Measured on two idle cores: 40 s, half of it Airflow's start.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil

CHECKOUT = Path(__file__).resolve().parents[2]
RUN_SECONDS = 120.0


def test_the_web_demo_runs_the_dag_and_leaves_no_process_and_no_port(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "demo.web", "--engine", "echo", "--home", str(tmp_path / "home")],
        cwd=CHECKOUT,
        env={name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
        | {"PYTHONIOENCODING": "utf-8", "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )
    assert process.stdout is not None
    try:
        told: list[str] = []
        for line in process.stdout:
            told.append(line)
            if "Ctrl-C" in line:
                break
        text = "".join(told)
        found = re.search(r"http://127\.0\.0\.1:(\d+)/dags/(nightly_batch_inference)/runs/(\S+)", text)
        assert found, text
        port, dag_id, run_id = found.groups()
        assert _end_of(f"http://127.0.0.1:{port}", dag_id, run_id) == "success"
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(30) == 130, rest
        assert "Stopped. Nothing is left running." in rest
        assert len(children) >= 5
        assert [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE] == []
        for closed in (int(port), int(re.findall(r"127\.0\.0\.1:(\d+)/v1", text)[0])):
            with socket.socket() as client:
                assert client.connect_ex(("127.0.0.1", closed)) != 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _end_of(url: str, dag_id: str, run_id: str) -> str:
    with httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
        token = client.get("/auth/token").raise_for_status().json()["access_token"]
        deadline = time.monotonic() + RUN_SECONDS
        while time.monotonic() < deadline:
            answer = client.get(f"/api/v2/dags/{dag_id}/dagRuns/{run_id}", headers={"Authorization": f"Bearer {token}"})
            state: str = answer.raise_for_status().json()["state"]
            if state in ("success", "failed"):
                return state
            time.sleep(0.5)
    raise AssertionError(f"{run_id} did not end in {RUN_SECONDS:.0f} s")
