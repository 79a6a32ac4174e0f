"""A result set as an asset: whoever needs it starts when it is there, and people hear how it went.

    classify ──► asset labelled_reviews ──► DAG count_labels

The event of each of the task's `outlets` holds counts, cost and the manifest's URI. `on_batch_event` is told of each
end of the work, once; any notifier of Airflow's fits, such as

    SlackWebhookNotifier(slack_webhook_conn_id="slack", text="{{ llmbatch.message }}")
"""

from __future__ import annotations

import logging
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pendulum
from airflow.sdk import DAG, Asset, Param
from pydantic import BaseModel

from airflow_provider_llmbatch.notifications.batch_event import LLMBatchNotifier
from airflow_provider_llmbatch.operators.run import LLMBatchRunOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

LLMBATCH_CONN_ID = "llmbatch_default"
MODEL = "smollm2-135m-instruct"

REVIEWS = Path(__file__).parent / "data" / "product_reviews.csv"
LABELLED = Asset("labelled_reviews")


class Sentiment(BaseModel):
    sentiment: Literal["positive", "negative"]


def tell(context: Context) -> None:
    """Where a message to people would be sent."""
    logging.getLogger(__name__).warning(context["llmbatch"].message)


with DAG(
    "labelled_reviews",
    description="Label product reviews with an LLM, and let the DAGs start that wait for the labels",
    schedule="0 1 * * *",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    params={
        "output": Param(
            "file:///tmp/labelled_reviews",
            type="string",
            description="Folder or prefix that all workers reach, such as s3://conn_id@bucket/reviews",
        )
    },
    tags=["example", "llmbatch"],
    doc_md=__doc__,
):
    LLMBatchRunOperator(
        task_id="classify",
        source=str(REVIEWS),
        prompt="Classify the sentiment of the review as positive or negative.\n\nReview: {review}",
        response_format=Sentiment,
        model=MODEL,
        parameters={"temperature": 0, "max_completion_tokens": 48},
        key="review_id",
        output="{{ params.output }}/{{ run_id }}",
        outlets=[LABELLED],
        on_batch_event=LLMBatchNotifier(tell, events=["partly_failed", "over_budget", "deadline", "failed"]),
        deferrable=True,
        min_poll_interval=1,
        llmbatch_conn_id=LLMBATCH_CONN_ID,
    )
