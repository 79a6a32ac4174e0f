"""Google's own clients, as they are, over batch prediction jobs; prints all answers as one JSON object.

Run in a process of its own, with ``GOOGLE_APPLICATION_CREDENTIALS`` set: ``vertex_google_clients.py CLIENT URL INPUT
OUTPUT``, where ``CLIENT`` is ``genai`` for google-genai in its Vertex mode, or ``aiplatform`` for the job client of
google-cloud-aiplatform, which speaks REST here.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from typing import Any

PROJECT, LOCATION = "analytics", "us-central1"
MODEL = "gemini-2.5-flash"


def with_genai(url: str, uri: str, output: str) -> dict[str, object]:
    from google import genai
    from google.genai import errors, types

    options = types.HttpOptions(base_url=url, api_version="v1")
    client = genai.Client(vertexai=True, project=PROJECT, location=LOCATION, http_options=options)
    config = types.CreateBatchJobConfig(display_name="night", dest=output)
    created = client.batches.create(model=MODEL, src=uri, config=config)
    done = created
    while not done.done:
        time.sleep(0.02)
        done = client.batches.get(name=created.name or "")
    other = client.batches.create(model=MODEL, src="gs://no-such-bucket/in.jsonl", config=config)
    while not other.done:
        time.sleep(0.02)
        other = client.batches.get(name=other.name or "")
    listed = [job.name for job in client.batches.list(config={"page_size": 1})]
    deleted = client.batches.delete(name=other.name or "")
    refused: dict[str, object] = {}
    try:
        client.batches.get(name=other.name or "")
    except errors.ClientError as error:
        refused = {"code": error.code, "status": error.status}
    return {
        "version": version("google-genai"),
        "created": created.model_dump(mode="json", exclude_none=True),
        "done": done.model_dump(mode="json", exclude_none=True),
        "other": other.model_dump(mode="json", exclude_none=True),
        "listed": listed,
        "deleted": deleted.model_dump(mode="json", exclude_none=True, include={"done"}),
        "refused": refused,
    }


def with_aiplatform(url: str, uri: str, output: str) -> dict[str, object]:
    from google.api_core import exceptions
    from google.cloud import aiplatform_v1

    client = aiplatform_v1.JobServiceClient(transport="rest", client_options={"api_endpoint": url})
    parent = f"projects/{PROJECT}/locations/{LOCATION}"

    def make(source: str, **labels: str) -> Any:
        return client.create_batch_prediction_job(
            parent=parent,
            batch_prediction_job={
                "display_name": "night",
                "model": f"publishers/google/models/{MODEL}",
                "input_config": {"instances_format": "jsonl", "gcs_source": {"uris": [source]}},
                "output_config": {"predictions_format": "jsonl", "gcs_destination": {"output_uri_prefix": output}},
                "labels": labels,
            },
        )

    def ended(name: str) -> Any:
        job = client.get_batch_prediction_job(name=name)
        while not job.end_time:
            time.sleep(0.02)
            job = client.get_batch_prediction_job(name=name)
        return job

    created = make(uri, llmbatch_key="llmb-a")
    done = ended(created.name)
    other = ended(make("gs://no-such-bucket/in.jsonl", llmbatch_key="llmb-b").name)
    listing = client.list_batch_prediction_jobs(request={"parent": parent, "page_size": 1})
    found = client.list_batch_prediction_jobs(request={"parent": parent, "filter": 'labels.llmbatch_key="llmb-a"'})
    refusals: dict[str, str] = {}
    try:
        client.cancel_batch_prediction_job(name=done.name)
    except exceptions.GoogleAPICallError as error:
        refusals["cancelled_late"] = type(error).__name__
    client.delete_batch_prediction_job(name=other.name).result(timeout=10)
    try:
        client.get_batch_prediction_job(name=other.name)
    except exceptions.GoogleAPICallError as error:
        refusals["gone"] = type(error).__name__
    to_dict = aiplatform_v1.BatchPredictionJob.to_dict
    return {
        "version": version("google-cloud-aiplatform"),
        "created": to_dict(created, use_integers_for_enums=False),
        "done": to_dict(done, use_integers_for_enums=False),
        "other": to_dict(other, use_integers_for_enums=False),
        "listed": [job.name for job in listing],
        "found": [job.name for job in found],
        "refusals": refusals,
    }


if __name__ == "__main__":
    clients = {"genai": with_genai, "aiplatform": with_aiplatform}
    json.dump(clients[sys.argv[1]](*sys.argv[2:]), sys.stdout)
