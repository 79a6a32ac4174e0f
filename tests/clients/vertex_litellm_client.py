"""LiteLLM's client, as it is, with its batch calls for Vertex AI; writes all answers as JSON.

Run by the Python of an environment that has LiteLLM and google-auth, with ``GOOGLE_APPLICATION_CREDENTIALS``,
``GCS_BUCKET_NAME`` and ``GCS_PATH_SERVICE_ACCOUNT`` set: ``vertex_litellm_client.py INPUT ANSWERS``.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path

import litellm

PLACE = {"vertex_project": "analytics", "vertex_location": "us-central1", "custom_llm_provider": "vertex_ai"}


async def main(path: Path) -> dict[str, object]:
    litellm.user_url_validation = False  # it would look up Google's hosts, which a proxy stands for here
    with path.open("rb") as stream:
        file = await litellm.acreate_file(file=stream, purpose="batch", **PLACE)
    # Its id of the file is the object's without the last part, the generation, which the emulator's ids lack.
    uri = f"gs://{os.environ['GCS_BUCKET_NAME']}/{file.filename}"
    batch = await litellm.acreate_batch(
        completion_window="24h", endpoint="/v1/chat/completions", input_file_id=uri, **PLACE
    )
    for _ in range(500):
        retrieved = await litellm.aretrieve_batch(batch_id=batch.id, **PLACE)
        if retrieved.status in ("completed", "failed"):
            break
        await asyncio.sleep(0.05)
    output = await litellm.afile_content(file_id=retrieved.output_file_id, **PLACE)
    listed = await litellm.alist_batches(limit=2, **PLACE)
    return {
        "version": version("litellm"),
        "file": file.model_dump(),
        "batch": batch.model_dump(),
        "retrieved": retrieved.model_dump(),
        "output": output.text,
        "listed": [each["id"] if isinstance(each, dict) else each.id for each in listed["data"]],
    }


if __name__ == "__main__":
    # Its progress notes go to standard output too, so the answers stand in a file.
    Path(sys.argv[2]).write_text(json.dumps(asyncio.run(main(Path(sys.argv[1])))))
