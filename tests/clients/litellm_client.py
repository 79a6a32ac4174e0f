"""LiteLLM's client, as it is, with the calls that its documentation shows for batches; prints all answers as JSON.

Run by the Python of an environment that has LiteLLM, with ``OPENAI_BASE_URL`` and ``OPENAI_API_KEY`` set:
``litellm_client.py INPUT ANSWERS``.
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
        file = await litellm.acreate_file(file=stream, purpose="batch", custom_llm_provider="openai")
    batch = await litellm.acreate_batch(
        completion_window="24h",
        endpoint="/v1/chat/completions",
        input_file_id=file.id,
        custom_llm_provider="openai",
        metadata={"key1": "value1", "key2": "value2"},
    )
    for _ in range(500):
        retrieved = await litellm.aretrieve_batch(batch_id=batch.id, custom_llm_provider="openai")
        if retrieved.status == "completed":
            break
        await asyncio.sleep(0.05)
    content = await litellm.afile_content(file_id=file.id, custom_llm_provider="openai")
    output = await litellm.afile_content(file_id=retrieved.output_file_id, custom_llm_provider="openai")
    error = await litellm.afile_content(file_id=retrieved.error_file_id, custom_llm_provider="openai")
    listed = await asyncio.to_thread(litellm.list_batches, custom_llm_provider="openai", limit=2)
    return {
        "version": version("litellm"),
        "file": file.model_dump(),
        "batch": batch.model_dump(),
        "retrieved": retrieved.model_dump(),
        "content": content.text,
        "output": output.text,
        "error": error.text,
        "listed": [each.model_dump() for each in listed.data],
    }


if __name__ == "__main__":
    # Its progress notes go to standard output too, so the answers stand in a file.
    Path(sys.argv[2]).write_text(json.dumps(asyncio.run(main(Path(sys.argv[1])))))
