"""Runs the nightly DAG once with ``dag.test()``; started by the demo as a process of its own, as a file.

It reads one JSON line from standard input when the batch server is ready (``{"connection": {…}, "output": URI}``), and
tells what happens as JSON lines on the file descriptor in its first argument. Whatever Airflow prints stays on standard
output, which the demo sends to its log file.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

from airflow import __version__
from airflow.dag_processing.dagbag import DagBag
from airflow.listeners import hookimpl
from airflow.sdk.listener import get_listener_manager
from airflow.utils.db import check_migrations, initdb

if TYPE_CHECKING:
    from typing import TextIO

    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

DAG_ID = "nightly_batch_inference"


class Reporter:
    """An Airflow listener that tells what becomes of the tasks."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def tell(self, event: str, **fields: object) -> None:
        self._stream.write(json.dumps({"event": event, **fields}) + "\n")
        self._stream.flush()

    @hookimpl
    def on_task_instance_running(self, task_instance: RuntimeTaskInstance) -> None:
        self.tell("running", task=task_instance.task_id)

    @hookimpl
    def on_task_instance_success(self, task_instance: RuntimeTaskInstance) -> None:
        value = task_instance.xcom_pull(task_ids=task_instance.task_id)
        self.tell("success", task=task_instance.task_id, value=value)

    @hookimpl
    def on_task_instance_failed(self, task_instance: RuntimeTaskInstance, error: str | BaseException | None) -> None:
        self.tell("failed", task=task_instance.task_id, error=str(error))


def main(reporter: Reporter) -> int:
    try:
        check_migrations(timeout=0)  # type: ignore[no-untyped-call] # Airflow's own lacks types
    except Exception:  # noqa: BLE001 - a new, older or broken database: initdb mends it or says why not
        initdb()
    bag = DagBag(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
    if bag.import_errors:
        reporter.tell("broken", error="\n".join(bag.import_errors.values()))
        return 1
    dag = bag.dags[DAG_ID]
    for operator in dag.tasks:
        operator.retries = 0  # somebody watches: show an error now, not in five minutes
    get_listener_manager().add_listener(reporter)  # type: ignore[no-untyped-call] # Airflow's own lacks types
    reporter.tell("ready", version=__version__)
    order = json.loads(sys.stdin.readline())
    os.environ["AIRFLOW_CONN_LLMBATCH_DEFAULT"] = json.dumps(order["connection"])
    run = dag.test(run_conf={"output": order["output"]})
    reporter.tell("ended", state=str(run.state), run_id=run.run_id)
    return 0 if run.state == "success" else 1


if __name__ == "__main__":
    with os.fdopen(int(sys.argv[1]), "w", encoding="utf-8") as events:
        sys.exit(main(Reporter(events)))
