"""DAGs of one task that does the whole job, a batch for each of its two rows: in the triggerer and on the worker."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from airflow_provider_llmbatch.operators.run import LLMBatchRunOperator

DEFAULTS = {
    "retries": 2,
    "retry_delay": timedelta(seconds=1),
    "llmbatch_conn_id": "{{ dag_run.conf['connection'] }}",
    "min_poll_interval": 0.5,
    "max_poll_interval": 0.5,
}

for dag_id, deferrable in (("run_deferred", True), ("run_on_worker", False), ("run_uploading", False)):
    with DAG(dag_id, schedule=None, default_args=DEFAULTS):
        LLMBatchRunOperator(
            task_id="wait",
            source="{{ dag_run.conf['source'] }}",
            output="{{ dag_run.conf['output'] }}",
            prompt="{text}",
            model="m",
            key="id",
            max_rows_per_batch=1,
            deferrable=deferrable,
        )
