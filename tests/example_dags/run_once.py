"""Loads the examples as Airflow does, runs each once with ``dag.test()``; started by the tests as a process of its own.

Writes a JSON file: what was loaded, and how the runs and their tasks ended.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from airflow.dag_processing.dagbag import DagBag
from airflow.utils.db import initdb

if __name__ == "__main__":
    folder, confs, answer = sys.argv[1:]
    initdb()
    bag = DagBag(folder)
    told: dict[str, object] = {"import_errors": bag.import_errors, "dags": sorted(bag.dags)}
    for dag_id, conf in json.loads(confs).items() if not bag.import_errors else ():
        dag = bag.dags[dag_id]
        of_dag = {
            "upstream": {task.task_id: sorted(task.upstream_task_ids) for task in dag.tasks},
            "schedule": dag.schedule,
            "catchup": dag.catchup,
            "retries": sorted({task.retries for task in dag.tasks}),
        }
        for task in dag.tasks:
            task.retries = 0  # an error is to be seen now
            if task.is_mapped:
                task.partial_kwargs["deferrable"] = False  # ten deferrals take a minute here, and tell no more than one
        run = dag.test(run_conf=conf)
        of_dag |= {"run_id": run.run_id, "state": str(run.state)}
        # Of a mapped task all instances, by name.
        states = {(ti.task_id, ti.map_index): str(ti.state) for ti in run.get_task_instances()}
        of_dag |= {
            "tasks": {name if index < 0 else f"{name}_{index}": state for (name, index), state in states.items()}
        }
        labels = [ti.rendered_map_index for ti in run.get_task_instances() if ti.map_index >= 0]
        told[dag_id] = of_dag | {"labels": sorted(map(str, labels))}
    Path(answer).write_text(json.dumps(told))
