"""Runs tasks as a worker does, each in a process of its own, without a scheduler: started by tests as a process.

Airflow's own supervisor forks the task's process, which reads the DAG file, runs the task and sends what it has to
tell; only the API server is played here, in memory. A task that defers is resumed at once, in another process.

Argument: a JSON file ``{"dag_file", "dag_id", "tasks": [...], "logs", "traceparent"}``; ``logs`` is a folder.
Prints, in its last line, the states of all tasks in JSON.
"""

from __future__ import annotations

import json
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
from airflow.sdk.api.client import Client
from airflow.sdk.api.datamodels._generated import BundleInfo, TaskInstance
from airflow.sdk.execution_time import supervisor
from airflow.sdk.serde import serialize

RUN_ID = "manual"
MOMENT = "2026-01-01T00:00:00Z"


@dataclass
class ApiServer:
    """What of Airflow's API a task needs; states, XComs and what tasks keep live as long as this process."""

    dag_id: str
    task_id: str = ""
    ends: dict[str, dict[str, Any]] = field(default_factory=dict)
    xcoms: dict[str, Any] = field(default_factory=dict)
    kept: dict[str, Any] = field(default_factory=dict)

    def answer(self, request: httpx.Request) -> httpx.Response:
        path = unquote(request.url.path).lstrip("/")
        content = json.loads(request.content) if request.content else None
        if path.startswith("xcoms/"):
            return self._stored(self.xcoms, request.method, path, content, {"key": path.rpartition("/")[2]})
        if path.startswith("store/"):
            return self._stored(self.kept, request.method, path, content and content["value"], {})
        if path.endswith("/run"):
            return httpx.Response(200, json=self._context())
        if path.endswith("/state"):
            self.ends[self.task_id] = content
        return httpx.Response(200, json={})

    def _context(self) -> dict[str, Any]:
        run = {"dag_id": self.dag_id, "run_id": RUN_ID, "run_type": "manual", "state": "running"}
        moments = dict.fromkeys(("logical_date", "start_date", "run_after"), MOMENT)
        unknown = dict.fromkeys(("data_interval_start", "data_interval_end", "end_date", "partition_key"))
        dag_run = {**run, **moments, **unknown, "consumed_asset_events": []}
        context: dict[str, Any] = {"dag_run": dag_run, "max_tries": 0, "should_retry": False}
        before = self.ends.get(self.task_id)
        if before is not None:
            event = {"status": "ended", "error": None, "batch_id": "", "deadline": 0.0}
            context |= {"next_method": before["next_method"], "next_kwargs": {"event": serialize(event)}}
        return context

    @staticmethod
    def _stored(
        values: dict[str, Any], method: str, path: str, value: object, more: dict[str, object]
    ) -> httpx.Response:
        if method != "GET":
            values[path] = value
            return httpx.Response(200, json={})
        if path not in values:
            return httpx.Response(404, json={"detail": {"reason": "not_found", "message": "not there"}})
        return httpx.Response(200, json={**more, "value": values[path]})


class Worker:
    def __init__(self, told: dict[str, Any]) -> None:
        self._told = told
        self._server = ApiServer(told["dag_id"])
        # From 3.3 on it has a new name.
        self._supervise = getattr(supervisor, "supervise_task", None) or supervisor.supervise

    def run(self, task_id: str) -> str:
        self._server.task_id = task_id
        instance = TaskInstance(
            id=uuid.uuid4(),
            task_id=task_id,
            dag_id=self._told["dag_id"],
            run_id=RUN_ID,
            try_number=1,
            dag_version_id=uuid.uuid4(),
            context_carrier={"traceparent": self._told["traceparent"]},
        )
        process = 0
        while True:
            process += 1
            self._supervise(
                ti=instance,
                bundle_info=BundleInfo(name="dags-folder"),
                dag_rel_path=self._told["dag_file"],
                token="",
                client=Client(
                    base_url=None, token="", dry_run=True, transport=httpx.MockTransport(self._server.answer)
                ),
                log_path=str(Path(self._told["logs"]) / f"{task_id}-{process}.log"),
            )
            state = str(self._server.ends[task_id].get("state"))
            if state != "deferred":
                return state


if __name__ == "__main__":
    worker = Worker(json.loads(Path(sys.argv[1]).read_text()))
    print(json.dumps({task_id: worker.run(task_id) for task_id in worker._told["tasks"]}))  # noqa: T201
