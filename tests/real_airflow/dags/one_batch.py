"""The smallest DAG that does the whole job: one file, one batch, waited for in the triggerer, and landed."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from airflow_provider_llmbatch.operators.batch import LLMBatchCreateBatchOperator, LLMBatchDownloadResultsOperator
from airflow_provider_llmbatch.operators.file import LLMBatchCreateFileOperator

with DAG(
    "one_batch",
    schedule=None,
    default_args={
        "retries": 2,
        "retry_delay": timedelta(seconds=1),
        "llmbatch_conn_id": "{{ dag_run.conf['connection'] }}",
    },
):
    create_file = LLMBatchCreateFileOperator(task_id="create_file", source="{{ dag_run.conf['source'] }}")
    create_batch = LLMBatchCreateBatchOperator(
        task_id="create_batch",
        input_file_id=create_file.output,
        deferrable=True,
        deadline=timedelta(hours=2),
        queue_deadline=timedelta(seconds=12),  # shorter than the first pause, so that the one try after it comes soon
        min_poll_interval=0.3,
        max_poll_interval=0.3,
    )
    LLMBatchDownloadResultsOperator(
        task_id="download",
        batch_id=create_batch.output,
        destination="{{ dag_run.conf['source'] }}.results",
    )
