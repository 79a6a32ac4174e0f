"""Async tasks: many batches side by side, in one worker process and one event loop.

    write_requests -> submit -> wait -> land

Each step is a coroutine that uses the hook's async verbs: `acreate_file`, `acreate_batch`, `aretrieve_batch`,
`aresults`. It suits batches that end soon, since `wait` holds a worker. For a day's wait use
`LLMBatchCreateBatchOperator` with `deferrable=True`, which also creates its batch exactly once, whatever dies.
"""

from __future__ import annotations

import asyncio
import json

import pendulum
from airflow.sdk import DAG, ObjectStoragePath, Param, task

from airflow_provider_llmbatch.hooks.batch import LLMBatchHook

LLMBATCH_CONN_ID = "llmbatch_default"
MODEL = "smollm2-135m-instruct"

LANGUAGES = ["French", "German", "Spanish"]
PRODUCTS = ["garden hose", "rice cooker", "reading lamp", "folding chair"]
RUN_FOLDER = "{{ params.output }}/{{ run_id }}"


def request_line(language: str, product: str) -> dict[str, object]:
    prompt = f"Translate into {language}, and answer with the translation only: {product}"
    body = {"model": MODEL, "messages": [{"role": "user", "content": prompt}], "max_completion_tokens": 24}
    return {"custom_id": product, "method": "POST", "url": "/v1/chat/completions", "body": body}


with DAG(
    "async_tasks",
    description="Translate product names, one batch for each language, all at once",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    params={
        "output": Param(
            "file:///tmp/async_tasks",
            type="string",
            description="Folder or prefix that all workers reach, such as s3://conn_id@bucket/translations",
        )
    },
    tags=["example", "llmbatch"],
    doc_md=__doc__,
):

    @task
    async def write_requests(folder: str) -> dict[str, str]:
        """One file of requests for each language; returns their places."""
        ObjectStoragePath(folder).mkdir(parents=True, exist_ok=True)
        places = {}
        for language in LANGUAGES:
            place = ObjectStoragePath(folder) / f"{language}.requests.jsonl"
            place.write_text("".join(json.dumps(request_line(language, product)) + "\n" for product in PRODUCTS))
            places[language] = str(place)
        return places

    @task(retries=0)  # a second try would create, and pay, every batch a second time
    async def submit(places: dict[str, str]) -> dict[str, str]:
        hook = LLMBatchHook(LLMBATCH_CONN_ID)

        async def one(language: str, place: str) -> tuple[str, str]:
            file = await hook.acreate_file(place)
            batch = await hook.acreate_batch(file.id, metadata={"language": language})
            return language, batch.id

        return dict(await asyncio.gather(*[one(language, place) for language, place in places.items()]))

    @task
    async def wait(batch_ids: dict[str, str]) -> dict[str, str]:
        hook = LLMBatchHook(LLMBATCH_CONN_ID)

        async def one(batch_id: str) -> None:
            pause = 1.0
            while not (batch := await hook.aretrieve_batch(batch_id)).is_terminal:
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, 60.0)
            print(f"{batch.id} is {batch.status}")  # noqa: T201 - goes to the task's log

        await asyncio.gather(*[one(batch_id) for batch_id in batch_ids.values()])
        return batch_ids

    @task
    async def land(batch_ids: dict[str, str], folder: str) -> dict[str, int]:
        """One table for each language; returns how many translations came back."""
        hook = LLMBatchHook(LLMBATCH_CONN_ID)

        async def one(language: str, batch_id: str) -> tuple[str, int]:
            translations = {}
            async for result in hook.aresults(batch_id):
                if result.outcome == "succeeded" and result.response:
                    answer = json.loads(bytes(result.response.body))
                    translations[result.custom_id] = answer["choices"][0]["message"]["content"]
            table = ObjectStoragePath(folder) / f"{language}.json"
            table.write_text(json.dumps(translations, ensure_ascii=False, indent=2))
            return language, len(translations)

        return dict(await asyncio.gather(*[one(language, batch_id) for language, batch_id in batch_ids.items()]))

    land(wait(submit(write_requests(RUN_FOLDER))), RUN_FOLDER)
