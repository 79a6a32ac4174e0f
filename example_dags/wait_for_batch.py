"""Wait for a batch that something else made, another team's program for example, and land what came back.

    wait -> download

Trigger it with the batch's id: `airflow dags trigger wait_for_batch --conf '{"batch_id": "batch_…"}'`. The sensor never
cancels the batch, whatever becomes of this run.
"""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG, Param

from airflow_provider_llmbatch.operators.batch import LLMBatchDownloadResultsOperator
from airflow_provider_llmbatch.sensors.batch import LLMBatchSensor

LLMBATCH_CONN_ID = "llmbatch_default"

with DAG(
    "wait_for_batch",
    description="Land the results of a batch that was made elsewhere",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    params={
        "batch_id": Param(type="string", pattern=r"\S+", description="The id of the batch at the provider"),
        "output": Param(
            "file:///tmp/wait_for_batch",
            type="string",
            description="Folder or prefix that all workers reach, such as s3://conn_id@bucket/results",
        ),
    },
    tags=["example", "llmbatch"],
    doc_md=__doc__,
):
    wait = LLMBatchSensor(
        task_id="wait",
        batch_id="{{ params.batch_id }}",
        deferrable=True,  # waits in the triggerer, without a worker
        llmbatch_conn_id=LLMBATCH_CONN_ID,
    )

    LLMBatchDownloadResultsOperator(
        task_id="download",
        batch_id=wait.output,
        destination="{{ params.output }}/{{ params.batch_id }}.jsonl",
        llmbatch_conn_id=LLMBATCH_CONN_ID,
    )
