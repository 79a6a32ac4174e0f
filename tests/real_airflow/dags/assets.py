"""A DAG that publishes a set as an asset and tells of it, and one that starts when it is there."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Asset, Context, task

from airflow_provider_llmbatch.operators.run import LLMBatchRunOperator

SETS = Asset("sets")


def tell(context: Context) -> None:
    with Path(context["dag_run"].conf["told"]).open("a") as lines:
        lines.write(context["llmbatch"].message + "\n")


with DAG("publishes", schedule=None):
    LLMBatchRunOperator(
        task_id="classify",
        retries=2,
        retry_delay=timedelta(seconds=1),
        source="{{ dag_run.conf['source'] }}",
        output="{{ dag_run.conf['output'] }}",
        prompt="{text}",
        model="m",
        deferrable=True,
        min_poll_interval=0.5,
        max_poll_interval=0.5,
        outlets=[SETS],
        on_batch_event=tell,
        llmbatch_conn_id="{{ dag_run.conf['connection'] }}",
    )

with DAG("reads", schedule=[SETS], is_paused_upon_creation=False):

    @task
    def read(triggering_asset_events: Any) -> list[dict[str, Any]]:
        return [event.extra for event in triggering_asset_events[SETS]]

    read()
