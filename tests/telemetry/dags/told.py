"""A run and the single steps of a pipeline, for tests that listen to what their tasks tell."""

from __future__ import annotations

import os

from airflow.sdk import DAG

from airflow_provider_llmbatch.operators.batch import LLMBatchCreateBatchOperator, LLMBatchDownloadResultsOperator
from airflow_provider_llmbatch.operators.file import LLMBatchCreateFileOperator
from airflow_provider_llmbatch.operators.run import LLMBatchRunOperator
from airflow_provider_llmbatch.sensors.batch import LLMBatchSensor

FOLDER = os.environ["TOLD_FOLDER"]
QUICK = {"min_poll_interval": 0.05, "max_poll_interval": 0.05}

with DAG("told"):
    LLMBatchRunOperator(
        task_id="classify",
        source=f"{FOLDER}/reviews.jsonl",
        output=f"{FOLDER}/out",
        prompt="Say again: {text}",
        model="echo",
        key="id",
        max_rows_per_batch=2,
        deferrable=True,
        **QUICK,
    )
    create_file = LLMBatchCreateFileOperator(task_id="create_file", source=f"{FOLDER}/requests.jsonl")
    create_batch = LLMBatchCreateBatchOperator(
        task_id="create_batch", input_file_id=create_file.output, deferrable=False, **QUICK
    )
    LLMBatchSensor(task_id="sensor", batch_id=create_batch.output, poke_interval=0.05, deferrable=False)
    LLMBatchDownloadResultsOperator(
        task_id="download", batch_id=create_batch.output, destination=f"{FOLDER}/results.jsonl"
    )
