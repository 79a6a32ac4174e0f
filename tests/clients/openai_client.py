"""OpenAI's own client, as it is, over every call of files and batches; prints all answers as one JSON object.

Run in a process of its own, with ``OPENAI_BASE_URL`` and ``OPENAI_API_KEY`` set: ``openai_client.py INPUT LONG_INPUT``.
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

    from openai.types import Batch


def ended(client: openai.OpenAI, batch_id: str) -> Batch:
    for _ in range(1_000):
        batch = client.batches.retrieve(batch_id)
        if batch.status in ("completed", "failed", "expired", "cancelled"):
            return batch
        time.sleep(0.02)
    raise AssertionError(f"{batch_id} is still {batch.status}")


def refusal(call: Callable[[], object]) -> dict[str, object]:
    """What the client makes of a call that must fail."""
    try:
        call()
    except openai.APIStatusError as error:
        return {"class": type(error).__name__, "status": error.status_code, "code": error.code, "body": error.body}
    raise AssertionError("the call was not refused")


def main(path: Path, long_path: Path) -> dict[str, object]:
    # Strict: the client checks each answer against its own models instead of taking it as it comes.
    client = openai.OpenAI(_strict_response_validation=True, max_retries=0)
    hour = {"anchor": "created_at", "seconds": 3_600}
    with path.open("rb") as stream:
        file = client.files.create(file=stream, purpose="batch", expires_after=hour)
    batch = client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"team": "search"},
        output_expires_after=hour,
    )
    done = ended(client, batch.id)
    long_file = client.files.create(file=long_path, purpose="batch")
    long_batch = client.batches.create(
        input_file_id=long_file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    cancelling = client.batches.cancel(long_batch.id)
    cancelled = ended(client, long_batch.id)
    other = client.files.create(file=("notes.txt", b"hello"), purpose="user_data")
    return {
        "version": openai.__version__,
        "file": file.to_dict(),
        "retrieved_file": client.files.retrieve(file.id).to_dict(),
        "processed_file": client.files.wait_for_processing(file.id).to_dict(),
        "content": client.files.content(file.id).text,
        "batch": batch.to_dict(),
        "done": done.to_dict(),
        "output": client.files.content(done.output_file_id or "").text,
        "error": client.files.content(done.error_file_id or "").text,
        "output_file": client.files.retrieve(done.output_file_id or "").to_dict(),
        "cancelling": cancelling.to_dict(),
        "cancelled": cancelled.to_dict(),
        "cancelled_lines": sum(
            client.files.content(file_id).text.count("\n")
            for file_id in (cancelled.output_file_id, cancelled.error_file_id)
            if file_id
        ),
        "batches_page": [each.id for each in client.batches.list(limit=1).data],
        "batches": [each.id for each in client.batches.list(limit=1)],
        "batches_after": [each.id for each in client.batches.list(after=long_batch.id)],
        "files": [each.id for each in client.files.list(purpose="batch", limit=1, order="asc")],
        "user_data": [each.to_dict() for each in client.files.list(purpose="user_data")],
        "other": other.to_dict(),
        "deleted": client.files.delete(other.id).to_dict(),
        "gone": refusal(lambda: client.files.retrieve(other.id)),
        "no_batch": refusal(lambda: client.batches.retrieve("batch_unknown")),
        "cancelled_late": refusal(lambda: client.batches.cancel(done.id)),
        "no_key": refusal(client.with_options(api_key="sk-wrong").batches.list),
        "no_file": refusal(
            lambda: client.batches.create(
                input_file_id="file-unknown", endpoint="/v1/chat/completions", completion_window="24h"
            )
        ),
    }


if __name__ == "__main__":
    json.dump(main(Path(sys.argv[1]), Path(sys.argv[2])), sys.stdout)
