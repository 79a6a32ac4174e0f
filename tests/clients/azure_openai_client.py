"""OpenAI's own client for Azure, as it is, over the calls of files and batches; prints all answers as one JSON object.

Run in a process of its own: ``azure_openai_client.py SHAPE KEY INPUT``, where ``SHAPE`` is an api-version of the
classic API, for ``AzureOpenAI`` with ``AZURE_OPENAI_ENDPOINT`` set, or ``v1``, for the plain client with
``OPENAI_BASE_URL`` set.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import openai

if TYPE_CHECKING:
    from collections.abc import Callable

DAY = 86_400


def client_for(shape: str, key: str) -> openai.OpenAI:
    # The plain client sends the key as a bearer token, as Microsoft's guide to v1 shows.
    if shape == "v1":
        return openai.OpenAI(api_key=key, max_retries=0)
    return openai.AzureOpenAI(api_key=key, api_version=shape, max_retries=0)


def refusal(call: Callable[[], object]) -> dict[str, object]:
    """What the client makes of a call that must fail."""
    try:
        call()
    except openai.APIStatusError as error:
        return {"class": type(error).__name__, "status": error.status_code, "code": error.code}
    raise AssertionError("the call was not refused")


def main(shape: str, key: str, path: Path) -> dict[str, object]:
    client = client_for(shape, key)
    expiry = {"anchor": "created_at", "seconds": 14 * DAY}
    with path.open("rb") as stream:
        file = client.files.create(file=stream, purpose="batch", expires_after=expiry)

    def create() -> openai.types.Batch:
        return client.batches.create(
            input_file_id=file.id,
            endpoint="/chat/completions",
            completion_window="24h",
            metadata={"team": "search"},
            output_expires_after=expiry,
        )

    too_early = refusal(create)
    processed = client.files.wait_for_processing(file.id, poll_interval=0.05)
    batch = create()
    for _ in range(1_000):
        done = client.batches.retrieve(batch.id)
        if done.status.lower() in ("completed", "failed", "expired", "cancelled"):
            break
        time.sleep(0.02)
    other = client.files.create(file=("other.jsonl", b"{}\n"), purpose="batch")
    return {
        "version": openai.__version__,
        "client": type(client).__name__,
        "file": file.to_dict(),
        "too_early": too_early,
        "processed": processed.to_dict(),
        "content": client.files.content(file.id).text,
        "batch": batch.to_dict(),
        "done": done.to_dict(),
        "output": client.files.content(done.output_file_id or "").text,
        "error": client.files.content(done.error_file_id or "").text,
        "batches": [each.id for each in client.batches.list(limit=1)],
        "files": sorted(each.id for each in client.files.list(purpose="batch")),
        "other": other.to_dict(),
        "deleted": client.files.delete(other.id).to_dict(),
        "gone": refusal(lambda: client.files.retrieve(other.id)),
        "no_batch": refusal(lambda: client.batches.retrieve("batch_unknown")),
        "cancelled_late": refusal(lambda: client.batches.cancel(done.id)),
        "wrong_key": refusal(client_for(shape, "sk-wrong").batches.list),
        "request_id": client.batches.with_raw_response.list().headers["apim-request-id"],
    }


if __name__ == "__main__":
    json.dump(main(sys.argv[1], sys.argv[2], Path(sys.argv[3])), sys.stdout)
