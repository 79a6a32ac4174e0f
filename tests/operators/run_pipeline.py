"""Runs each DAG of a folder once with ``dag.test()``; started by the tests as a process of its own.

Arguments: the DAG folder. Prints a line with the state of each run.
"""

from __future__ import annotations

import sys

from airflow.dag_processing.dagbag import DagBag
from airflow.utils.db import initdb

if __name__ == "__main__":
    initdb()
    bag = DagBag(sys.argv[1])
    assert bag.import_errors == {}, bag.import_errors
    for dag_id, dag in bag.dags.items():
        print(f"{dag_id}={dag.test().state}")  # noqa: T201 - the answer to the test
