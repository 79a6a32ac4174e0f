"""Loads the examples as Airflow does, and runs them with ``dag.test()``; started by the tests as a process of its own.

Arguments: the DAG folder; a JSON list of pairs, each a default connection and what to run with it (from a DAG's id to
its conf); and a path. There goes a JSON list: for each pair what was loaded, and how the runs and their tasks ended.
Whatever a run asks people, somebody approves through Airflow's REST API.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import threading
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.dag_processing.dagbag import DagBag
from airflow.utils.db import initdb

if TYPE_CHECKING:
    from collections.abc import Iterator

PEOPLE_ASKED = ("approved_run",)


@contextmanager
def somebody_approves() -> Iterator[None]:
    """The API in this process, since a server of its own takes longer to start than all examples to run."""
    over = threading.Event()
    person = threading.Thread(target=approve, args=(over,), name="person")
    person.start()
    try:
        yield
    finally:
        over.set()
        person.join()


def approve(over: threading.Event) -> None:
    from airflow.api_fastapi.app import create_app
    from fastapi.testclient import TestClient

    with TestClient(create_app(apps="core")) as client:
        client.headers["Authorization"] = f"Bearer {client.get('/auth/token').json()['access_token']}"
        while not over.wait(0.3):
            asked = client.get("/api/v2/dags/~/dagRuns/~/hitlDetails", params={"response_received": False}).json()
            for detail in asked["hitl_details"]:
                of = detail["task_instance"]
                path = f"/api/v2/dags/{of['dag_id']}/dagRuns/{of['dag_run_id']}/taskInstances/{of['task_id']}"
                answer = {"chosen_options": ["Approve"]}
                client.patch(f"{path}/{of['map_index']}/hitlDetails", json=answer).raise_for_status()


def run(bag: DagBag, confs: dict[str, Any]) -> dict[str, object]:
    told: dict[str, object] = {"import_errors": bag.import_errors, "dags": sorted(bag.dags)}
    for dag_id, conf in confs.items() if not bag.import_errors else ():
        dag = bag.dags[dag_id]
        of_dag = {
            "upstream": {task.task_id: sorted(task.upstream_task_ids) for task in dag.tasks},
            "schedule": dag.schedule if isinstance(dag.schedule, str) else [each.name for each in dag.schedule or ()],
            "catchup": dag.catchup,
            "retries": sorted({task.retries for task in dag.tasks}),
        }
        for task in dag.tasks:
            task.retries = 0  # an error is to be seen now
            if task.is_mapped:
                task.partial_kwargs["deferrable"] = False  # ten deferrals take a minute here, and tell no more than one
        with somebody_approves() if dag_id in PEOPLE_ASKED else nullcontext():
            run = dag.test(run_conf=conf)
        of_dag |= {"run_id": run.run_id, "state": str(run.state)}
        if dag_id == "count_labels":
            of_dag["counted"] = run.get_task_instance("count").xcom_pull("count")
        # Of a mapped task all instances, by name.
        states = {(ti.task_id, ti.map_index): str(ti.state) for ti in run.get_task_instances()}
        of_dag |= {
            "tasks": {name if index < 0 else f"{name}_{index}": state for (name, index), state in states.items()}
        }
        labels = [ti.rendered_map_index for ti in run.get_task_instances() if ti.map_index >= 0]
        told[dag_id] = of_dag | {"labels": sorted(map(str, labels))}
    return told


def end_at_once() -> None:
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(0)


if __name__ == "__main__":
    folder, pairs, answer = sys.argv[1:]
    initdb()
    told = []
    for connection, confs in json.loads(pairs):
        os.environ["AIRFLOW_CONN_LLMBATCH_DEFAULT"] = json.dumps(connection)
        told.append(run(DagBag(folder), confs))
    Path(answer).write_text(json.dumps(told))
    # OpenLineage tells of runs in a process that is forked off this one with its threads, and that now and then hangs.
    patience = threading.Timer(20, end_at_once)
    patience.daemon = True
    patience.start()
