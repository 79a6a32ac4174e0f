"""What Azure OpenAI answers, as its guide shows it rather than as its reference says."""

from __future__ import annotations

import json

from support.fault_proxy import Answer

# As in Microsoft's own guide: a capital, ISO times, counts that are null, ids that are empty, an endpoint that is null.
GUIDES: dict[str, object] = {
    "id": "batch_1",
    "object": "batch",
    "status": "Validating",
    "endpoint": None,
    "input_file_id": "file-1",
    "output_file_id": "",
    "error_file_id": "",
    "completion_window": "24h",
    "created_at": "2023-11-14T22:13:20.123456+00:00",
    "expires_at": "2023-11-15T22:13:20Z",
    "cancelled_at": None,
    "errors": None,
    "metadata": None,
    "request_counts": {"total": None, "completed": None, "failed": None},
}
PROCESSED = Answer(200, b'{"id": "file-1", "status": "processed"}')


def answer(body: object, status: int = 200, **headers: str) -> Answer:
    return Answer(status, json.dumps(body).encode(), headers)
