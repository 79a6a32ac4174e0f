"""Every night: label a table of product reviews with an LLM, through the provider's batch API, at half the price.

    build_requests -> create_file -> classify -> bill
                                              -> download -> join

`LLMBATCH_CONN_ID` picks the provider and `MODEL` the model: the same DAG runs on the batch server of this package
(`llmbatch-server --engine local`) and on OpenAI (a connection with your key, and for example "gpt-4.1-mini").
"""

from __future__ import annotations

import csv
import json
from datetime import timedelta
from pathlib import Path

import pendulum
from airflow.sdk import DAG, ObjectStoragePath, Param, task

from airflow_provider_llmbatch.core.costs.comparison import compared
from airflow_provider_llmbatch.core.costs.wording import said
from airflow_provider_llmbatch.hooks.batch import LLMBatchHook
from airflow_provider_llmbatch.operators.batch import LLMBatchCreateBatchOperator, LLMBatchDownloadResultsOperator
from airflow_provider_llmbatch.operators.file import LLMBatchCreateFileOperator

LLMBATCH_CONN_ID = "llmbatch_default"
MODEL = "smollm2-135m-instruct"
COMPARED_MODEL = "gpt-5-mini"  # what the same tokens would cost there, since a model of your own costs nothing

REVIEWS = Path(__file__).parent / "data" / "product_reviews.csv"
LABELS = ["positive", "negative"]
COLUMNS = ["review_id", "review", "truth", "label", "outcome", "prompt_tokens", "completion_tokens"]
RUN_FOLDER = "{{ params.output }}/{{ run_id }}"


def request_line(row: dict[str, str]) -> dict[str, object]:
    """One line of the batch: OpenAI's format, on every provider."""
    prompt = f"Classify the sentiment of the review as positive or negative.\n\nReview: {row['review']}"
    schema = {
        "type": "object",
        "properties": {"sentiment": {"type": "string", "enum": LABELS}},
        "required": ["sentiment"],
        "additionalProperties": False,
    }
    return {
        "custom_id": row["review_id"],
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {
            "model": MODEL,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_completion_tokens": 48,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "sentiment", "strict": True, "schema": schema},
            },
        },
    }


def labelled_row(row: dict[str, str], result: dict | None) -> dict[str, object]:
    """A review beside what came back for it; without a usable label the outcome says why."""
    outcome = result["outcome"] if result else "missing"
    body = ((result or {}).get("response") or {}).get("body") or {}
    label = None
    if outcome == "succeeded":
        try:
            label = json.loads(body["choices"][0]["message"]["content"])["sentiment"]
        except (KeyError, IndexError, TypeError, ValueError):  # refused, cut off, or no JSON
            label = None
        if label not in LABELS:
            label, outcome = None, "invalid"
    usage = body.get("usage") or {}
    tokens = {name: usage.get(name, 0) for name in ("prompt_tokens", "completion_tokens")}
    return {name: row[name] for name in COLUMNS[:3]} | {"label": label, "outcome": outcome} | tokens


with DAG(
    "nightly_batch_inference",
    description="Label product reviews with an LLM, in one batch a night",
    schedule="0 1 * * *",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    params={
        "output": Param(
            "file:///tmp/nightly_batch_inference",
            type="string",
            description="Folder or prefix that all workers reach, such as s3://conn_id@bucket/reviews",
        )
    },
    tags=["example", "llmbatch"],
    doc_md=__doc__,
):

    @task
    def build_requests(folder: str) -> str:
        ObjectStoragePath(folder).mkdir(parents=True, exist_ok=True)
        requests = ObjectStoragePath(folder) / "requests.jsonl"
        with REVIEWS.open(newline="") as table, requests.open("w") as lines:
            for row in csv.DictReader(table):
                lines.write(json.dumps(request_line(row)) + "\n")
        return str(requests)

    create_file = LLMBatchCreateFileOperator(
        task_id="create_file",
        source=build_requests(RUN_FOLDER),
        llmbatch_conn_id=LLMBATCH_CONN_ID,
    )

    classify = LLMBatchCreateBatchOperator(
        task_id="classify",
        input_file_id=create_file.output,
        deferrable=True,  # waits in the triggerer, for up to a day, without a worker
        min_poll_interval=1,  # a small batch ends soon; looks get rarer as a batch gets older
        llmbatch_conn_id=LLMBATCH_CONN_ID,
    )

    @task
    def bill(batch_id: str) -> str:
        costs = LLMBatchHook(LLMBATCH_CONN_ID).batch_cost(batch_id)
        return compared(costs, COMPARED_MODEL) if costs.total_usd is None else said(costs)

    bill(classify.output)

    download = LLMBatchDownloadResultsOperator(
        task_id="download",
        batch_id=classify.output,
        destination=f"{RUN_FOLDER}/results.jsonl",
        llmbatch_conn_id=LLMBATCH_CONN_ID,
    )

    @task
    def join(results: str, folder: str) -> str:
        with ObjectStoragePath(results).open() as lines:
            by_id = {result["custom_id"]: result for result in map(json.loads, lines)}
        labelled = ObjectStoragePath(folder) / "reviews_labelled.csv"
        with REVIEWS.open(newline="") as table, labelled.open("w", newline="") as out:
            writer = csv.DictWriter(out, COLUMNS)
            writer.writeheader()
            writer.writerows(labelled_row(row, by_id.get(row["review_id"])) for row in csv.DictReader(table))
        return str(labelled)

    join(download.output, RUN_FOLDER)
