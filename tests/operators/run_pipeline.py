"""Runs create file, create batch and download once with ``dag.test()``; started by the tests as a process of its own.

Arguments: the DAG folder. Prints the state of the run in its last line.
"""

from __future__ import annotations

import sys

from airflow.dag_processing.dagbag import DagBag
from airflow.utils.db import initdb

if __name__ == "__main__":
    initdb()
    bag = DagBag(sys.argv[1])
    assert bag.import_errors == {}, bag.import_errors
    run = bag.dags["pipeline"].test()
    print(f"state={run.state}")  # noqa: T201 - the answer to the test
