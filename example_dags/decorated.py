"""Requests that are made in Python: a function yields them, and is the source of a run.

    products -> slogans -> print_slogans

The function is called when the run begins, and not again after a wait or on a retry: what it yielded lies in the run's
stage. It may yield as many requests as it likes, since nothing holds them all.
"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING

from airflow.sdk import DAG, ObjectStoragePath, Param, task

if TYPE_CHECKING:
    from collections.abc import Iterator

LLMBATCH_CONN_ID = "llmbatch_default"
MODEL = "smollm2-135m-instruct"

with DAG(
    "decorated",
    description="Ask an LLM about what a function yields",
    schedule=None,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    params={"output": Param("file:///tmp/decorated", type="string", description="Folder that all workers reach")},
    tags=["example", "llmbatch"],
    doc_md=__doc__,
):

    @task
    def products() -> list[str]:
        return ["garden hose", "rice cooker", "reading lamp", "folding chair"]

    @task.llmbatch(
        prompt="Write a slogan in {language} for a {product}.",  # yield texts, and they are the prompts themselves
        model=MODEL,
        parameters={"max_completion_tokens": 32},
        key=["product", "language"],
        output="{{ params.output }}/{{ run_id }}",
        deferrable=True,
        min_poll_interval=1,
        llmbatch_conn_id=LLMBATCH_CONN_ID,
    )
    def slogans(products: list[str]) -> Iterator[dict[str, str]]:
        for product in products:
            for language in ("French", "German", "Spanish"):
                yield {"product": product, "language": language}

    @task
    def print_slogans(manifest_uri: str) -> None:
        manifest_path = ObjectStoragePath(manifest_uri)
        for part in json.loads(manifest_path.read_text())["parts"]:
            with (manifest_path.parent / part["uri"]).open() as rows:
                for row in map(json.loads, rows):
                    print(row["key"], row["text"])  # noqa: T201 - goes to the task's log

    print_slogans(slogans(products())["manifest"])
