"""Ten partitions of a table, each a run of its own with its own batches and its own manifest.

    partitions -> summarize (ten mapped tasks) -> collect

A partition that fails or changes is run again by itself: clear its mapped task. All ten share the provider's queue of
tokens; those that do not fit yet wait, deferred, until others have ended.
"""

from __future__ import annotations

import csv
import json
from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG, ObjectStoragePath, Param, task

from airflow_provider_llmbatch.operators.run import LLMBatchRunOperator

LLMBATCH_CONN_ID = "llmbatch_default"
MODEL = "smollm2-135m-instruct"

REVIEWS = Path(__file__).parent / "data" / "product_reviews.csv"
PARTITIONS = 10

with DAG(
    "run_partitions",
    description="Ask about each partition of a table in a mapped task of its own",
    schedule=None,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    params={"output": Param("file:///tmp/run_partitions", type="string", description="Folder that all workers reach")},
    tags=["example", "llmbatch"],
    doc_md=__doc__,
):

    @task
    def partitions(folder: str) -> list[dict[str, str]]:
        """Where each partition lies, and where its results go. Here they are made first; yours will be there."""
        with REVIEWS.open(newline="") as table:
            reviews = list(csv.DictReader(table))
        places = []
        for number in range(PARTITIONS):
            partition = ObjectStoragePath(folder) / f"partition={number}"
            partition.mkdir(parents=True, exist_ok=True)
            source = partition / "reviews.jsonl"
            source.write_text("".join(json.dumps(review) + "\n" for review in reviews[number::PARTITIONS]))
            places.append({"source": str(source), "output": str(partition / "summaries")})
        return places

    summarize = LLMBatchRunOperator.partial(
        task_id="summarize",
        prompt="Summarize this review of a {product} in three words: {review}",
        model=MODEL,
        parameters={"max_completion_tokens": 16},
        key="review_id",
        columns=[],  # the key is enough to join by
        deferrable=True,
        min_poll_interval=1,
        llmbatch_conn_id=LLMBATCH_CONN_ID,
        map_index_template="{{ task.output_uri.split('/')[-2] }}",
    ).expand_kwargs(partitions("{{ params.output }}/{{ run_id }}"))

    @task
    def collect(manifests: list[str]) -> dict[str, int]:
        """One manifest for each partition: its URI, and how many rows it has."""
        return {uri: json.loads(ObjectStoragePath(uri).read_text())["rows"] for uri in manifests}

    collect(summarize.output["manifest"])
