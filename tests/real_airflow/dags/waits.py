"""DAGs of one task that waits for a batch: in the triggerer, on the worker, for somebody else's batch, and mapped."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from airflow_provider_llmbatch.operators.batch import LLMBatchCreateBatchOperator
from airflow_provider_llmbatch.sensors.batch import LLMBatchSensor

DEFAULTS = {
    "retries": 2,
    "retry_delay": timedelta(seconds=1),
    "llmbatch_conn_id": "{{ dag_run.conf['connection'] }}",
    "min_poll_interval": 0.5,
    "max_poll_interval": 0.5,
}

for dag_id, deferrable in (("deferred", True), ("on_worker", False), ("deleted", True)):
    with DAG(dag_id, schedule=None, default_args=DEFAULTS):
        LLMBatchCreateBatchOperator(
            task_id="wait", input_file_id="{{ dag_run.conf['input_file_id'] }}", deferrable=deferrable
        )

for dag_id, deferrable in (("sensor_deferred", True), ("sensor_on_worker", False)):
    with DAG(dag_id, schedule=None, default_args=DEFAULTS):
        LLMBatchSensor(
            task_id="wait", batch_id="{{ dag_run.conf['batch_id'] }}", deferrable=deferrable, poke_interval=0.5
        )

with DAG("mapped", schedule=None, default_args=DEFAULTS):
    LLMBatchCreateBatchOperator.partial(task_id="wait", deferrable=True).expand(
        input_file_id=[f"{{{{ dag_run.conf['input_file_ids'][{index}] }}}}" for index in range(2)]
    )
