"""LiteLLM's client, as it is, with its batch calls for Azure; prints all answers as JSON.

Run by the Python of an environment that has LiteLLM, with ``AZURE_API_BASE``, ``AZURE_API_KEY`` and
``AZURE_API_VERSION`` set: ``azure_litellm_client.py INPUT ANSWERS``.
"""

from __future__ import annotations

import asyncio
import json
import sys
from importlib.metadata import version
from pathlib import Path

import litellm


async def main(path: Path) -> dict[str, object]:
    with path.open("rb") as stream:
        file = await litellm.acreate_file(file=stream, purpose="batch", custom_llm_provider="azure")
    for _ in range(500):
        processed = await litellm.afile_retrieve(file_id=file.id, custom_llm_provider="azure")
        if processed.status == "processed":
            break
        await asyncio.sleep(0.02)
    batch = await litellm.acreate_batch(
        completion_window="24h",
        endpoint="/v1/chat/completions",
        input_file_id=file.id,
        custom_llm_provider="azure",
        metadata={"key1": "value1", "key2": "value2"},
    )
    for _ in range(500):
        retrieved = await litellm.aretrieve_batch(batch_id=batch.id, custom_llm_provider="azure")
        if retrieved.status == "completed":
            break
        await asyncio.sleep(0.05)
    output = await litellm.afile_content(file_id=retrieved.output_file_id, custom_llm_provider="azure")
    error = await litellm.afile_content(file_id=retrieved.error_file_id, custom_llm_provider="azure")
    listed = await litellm.alist_batches(custom_llm_provider="azure", limit=2)
    listed_at_once = await asyncio.to_thread(litellm.list_batches, custom_llm_provider="azure", limit=2)
    return {
        "version": version("litellm"),
        "file": file.model_dump(),
        "batch": batch.model_dump(),
        "retrieved": retrieved.model_dump(),
        "output": output.text,
        "error": error.text,
        "listed": [each.model_dump() for each in listed.data],
        "listed_at_once": [each.model_dump() for each in listed_at_once.data],
    }


if __name__ == "__main__":
    # Its progress notes go to standard output too, so the answers stand in a file.
    Path(sys.argv[2]).write_text(json.dumps(asyncio.run(main(Path(sys.argv[1])))))
