"""Before a run that may cost more than a sum, a person is asked.

    estimate -> is_dear -> approve -> classify
                        \\____________/

`estimate` reads the table once and uploads nothing. Up to `free_usd` the run goes on by itself; above, or if nobody
knows a price, it waits for a person to approve under *Required Actions*; half a day without an answer is a no. What
was approved is the cap of the run.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG, Param, TriggerRule, get_current_context, task

from airflow_provider_llmbatch.operators.estimate import LLMBatchEstimateCostOperator
from airflow_provider_llmbatch.operators.run import LLMBatchRunOperator

LLMBATCH_CONN_ID = "llmbatch_default"

WORK = {
    "source": str(Path(__file__).parent / "data" / "product_reviews.csv"),
    "prompt": "Classify the sentiment of the review as positive or negative.\n\nReview: {review}",
    "model": "smollm2-135m-instruct",
    "parameters": {"temperature": 0, "max_completion_tokens": 48},  # bounds what it can cost
    "key": "review_id",
    "columns": ["review", "truth"],
    "output": "{{ params.output }}/{{ run_id }}",
    "llmbatch_conn_id": LLMBATCH_CONN_ID,
}

with DAG(
    "approved_run",
    description="Ask a person before a run that costs more than a sum",
    schedule=None,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    params={
        "free_usd": Param(5.0, type="number", description="What a run may cost without anybody's approval"),
        "output": Param("file:///tmp/approved_run", type="string", description="Folder that all workers reach"),
    },
    tags=["example", "llmbatch"],
    doc_md=__doc__,
):
    estimate = LLMBatchEstimateCostOperator(task_id="estimate", **WORK)

    @task.branch
    def is_dear(costs: dict[str, Any]) -> str:
        free = get_current_context()["params"]["free_usd"]
        return "classify" if costs["high"] is not None and costs["high"] <= free else "approve"

    approve = ApprovalOperator(
        task_id="approve",
        subject="May reviews be classified?",
        body="{{ ti.xcom_pull('estimate', key='text') }}",
        defaults="Reject",
        response_timeout=timedelta(hours=12),
    )
    classify = LLMBatchRunOperator(
        task_id="classify",
        max_cost_usd="{{ ti.xcom_pull('estimate', key='high') or '' }}",  # not known: no cap
        deferrable=True,
        min_poll_interval=1,
        trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS,
        **WORK,
    )

    is_dear(estimate.output) >> [approve, classify]
    approve >> classify
