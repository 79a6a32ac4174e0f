"""Every night: ask an LLM about each row of a table, whatever its size, in one task.

    classify -> report

`classify` cuts the table into batches that the provider takes, submits each exactly once, waits without a worker,
checks every answer against `Sentiment`, submits again what failed for a passing reason, and publishes one result set
with its bill. Retries and clears pay nothing twice. `LLMBATCH_CONN_ID` picks the provider, `MODEL` the model; the table
may lie in `s3://`, `gs://` or `abfs://` as well, as JSONL, CSV or Parquet.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Literal

import pendulum
from airflow.sdk import DAG, ObjectStoragePath, Param, task
from pydantic import BaseModel

from airflow_provider_llmbatch.core.costs.comparison import compared
from airflow_provider_llmbatch.operators.run import LLMBatchRunOperator

LLMBATCH_CONN_ID = "llmbatch_default"
MODEL = "smollm2-135m-instruct"
COMPARED_MODEL = "gpt-5-mini"  # what the same tokens would cost there, since a model of your own costs nothing

log = logging.getLogger(__name__)
REVIEWS = Path(__file__).parent / "data" / "product_reviews.csv"


class Sentiment(BaseModel):
    sentiment: Literal["positive", "negative"]


with DAG(
    "nightly_run",
    description="Label product reviews with an LLM, from table to table in one task",
    schedule="0 1 * * *",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    params={
        "output": Param(
            "file:///tmp/nightly_run",
            type="string",
            description="Folder or prefix that all workers reach, such as s3://conn_id@bucket/reviews",
        )
    },
    tags=["example", "llmbatch"],
    doc_md=__doc__,
):
    classify = LLMBatchRunOperator(
        task_id="classify",
        source=str(REVIEWS),
        prompt="Classify the sentiment of the review as positive or negative.\n\nReview: {review}",
        response_format=Sentiment,
        model=MODEL,
        parameters={"temperature": 0, "max_completion_tokens": 48},
        key="review_id",
        columns=["review", "truth"],
        output="{{ params.output }}/{{ run_id }}",
        on_failed_rows="succeed",  # or "fail", or 10 rows, or 0.01 of them: published in any case
        deferrable=True,  # waits in the triggerer, for up to a day, without a worker
        min_poll_interval=1,  # a small batch ends soon; looks get rarer as a batch gets older
        llmbatch_conn_id=LLMBATCH_CONN_ID,
    )

    @task
    def report(manifest_uri: str, costs: dict) -> dict[str, int]:
        """How many labels agree with the truth. Readers follow the manifest: it names the files of one whole set."""
        manifest_path = ObjectStoragePath(manifest_uri)
        manifest = json.loads(manifest_path.read_text())
        found: Counter[str] = Counter()
        for part in manifest["parts"]:
            with (manifest_path.parent / part["uri"]).open() as rows:
                for row in map(json.loads, rows):
                    if row["outcome"] != "succeeded":
                        found[row["outcome"]] += 1
                    else:
                        found["right" if row["parsed"]["sentiment"] == row["input"]["truth"] else "wrong"] += 1
        log.info(compared(costs, COMPARED_MODEL))  # such as: as gpt-5-mini: $0.0016 in a batch, $0.0032 without
        return dict(found)

    report(classify.output["manifest"], classify.output["costs"])
