"""A provider in memory, whose batches end when and how a test says, on the test's own clock."""

from __future__ import annotations

import io
import itertools
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from airflow_provider_llmbatch.adapters.base import Adapter, Limits
from airflow_provider_llmbatch.errors import NotFoundError
from airflow_provider_llmbatch.models import Batch, File

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import BinaryIO

    from airflow_provider_llmbatch.models import BatchStatus


@dataclass
class Clock:
    """Time that passes only when somebody sleeps."""

    now: float = 1_800_000_000.0
    slept: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def succeeds(_custom_id: str) -> str:
    return "succeeded"


class MemoryProvider(Adapter):
    """:param clock: What tells it when its batches are created.

    ``calls`` holds the name of each verb that was used. ``refuse`` holds errors for the next creations, ``None`` for
    one that goes well. ``lag`` is how many seconds pass before a new batch is shown. With ``die_after_creation`` the
    process ends in the next creation, after the batch is made.
    """

    provider: ClassVar[str] = "memory"
    title: ClassVar[str] = "The provider"
    limits: ClassVar[Limits] = Limits(max_requests=1_000, max_file_bytes=1_000_000)
    worst_case_hours: ClassVar[float] = 24.0

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.files: dict[str, tuple[str, bytes]] = {}
        self.batches: dict[str, Batch] = {}
        self.submitted: list[list[str]] = []
        self.calls: list[str] = []
        self._numbers = itertools.count(1)
        self.refuse: list[Exception | None] = []
        self.lag = 0.0
        self.die_after_creation = False

    def lines_of(self, batch_id: str) -> list[str]:
        """The custom ids of a batch."""
        content = self.files[self.batches[batch_id].input_file_id or ""][1]
        return [json.loads(line)["custom_id"] for line in content.splitlines()]

    @property
    def live(self) -> list[str]:
        return [batch.id for batch in self.batches.values() if not batch.is_terminal]

    def end(
        self, batch_id: str, outcome: Callable[[str], str] = succeeds, *, status: BatchStatus = "completed", **more: Any
    ) -> None:
        """End a batch: each request ``succeeded``, ``missing``, or failed with the code that is given for it."""
        output, errors = [], []
        for custom_id in self.lines_of(batch_id):
            end = outcome(custom_id)
            if end == "succeeded":
                output.append(_answer(custom_id))
            elif end != "missing":
                errors.append({"custom_id": custom_id, "response": None, "error": {"code": end, "message": end}})
        ids = {}
        for kind, lines in (("output", output), ("error", errors)):
            if lines:
                ids[f"{kind}_file_id"] = self._stored(f"{batch_id}_{kind}.jsonl", _jsonl(lines))
        self.change(batch_id, status=status, **{f"{status}_at": int(self.clock.now)}, **ids, **more)

    def refuse_whole(self, batch_id: str, code: str, message: str) -> None:
        """Fail a batch before any of it runs."""
        self.change(
            batch_id,
            status="failed",
            failed_at=int(self.clock.now),
            errors={"data": [{"code": code, "message": message}]},
        )

    def change(self, batch_id: str, **fields: Any) -> None:
        batch = self.batches[batch_id]
        self.batches[batch_id] = Batch.model_validate({**batch.model_dump(), **fields})

    def _stored(self, name: str, content: bytes) -> str:
        file_id = f"file-{next(self._numbers)}"
        self.files[file_id] = (name, content)
        return file_id

    @override
    def create_file(
        self, stream: BinaryIO, *, filename: str, purpose: str = "batch", expires_after: int | None = None
    ) -> File:
        self.calls.append("create_file")
        content = stream.read()
        return File(id=self._stored(filename, content), bytes=len(content), filename=filename)

    @override
    def retrieve_file(self, file_id: str) -> File:
        self.calls.append("retrieve_file")
        name, content = self._file(file_id)
        return File(id=file_id, bytes=len(content), filename=name)

    @override
    def list_files(self, *, purpose: str | None = None, limit: int | None = None) -> Iterator[File]:
        self.calls.append("list_files")
        for file_id, (name, content) in list(self.files.items()):
            yield File(id=file_id, bytes=len(content), filename=name)

    @override
    def delete_file(self, file_id: str) -> None:
        self.calls.append("delete_file")
        self._file(file_id)
        del self.files[file_id]

    @override
    def file_content(self, file_id: str) -> Iterator[bytes]:
        self.calls.append("file_content")
        stream = io.BytesIO(self._file(file_id)[1])
        while block := stream.read(65_536):
            yield block

    @override
    def create_batch(
        self,
        input_file_id: str,
        *,
        endpoint: str,
        completion_window: str = "24h",
        metadata: Mapping[str, str] | None = None,
        output_expires_after: int | None = None,
    ) -> Batch:
        self.calls.append("create_batch")
        refusal = self.refuse.pop(0) if self.refuse else None
        if refusal is not None:
            raise refusal
        batch_id = f"batch-{len(self.batches) + 1}"
        self.batches[batch_id] = Batch(
            id=batch_id,
            status="in_progress",
            endpoint=endpoint,
            input_file_id=input_file_id,
            metadata=dict(metadata or {}),
            created_at=int(self.clock.now),
        )
        self.submitted.append(self.lines_of(batch_id))
        if self.die_after_creation:
            raise SystemExit
        return self.batches[batch_id]

    @override
    def retrieve_batch(self, batch_id: str) -> Batch:
        self.calls.append("retrieve_batch")
        if batch_id not in self.batches or not self._shows(self.batches[batch_id]):
            raise NotFoundError(f"No batch {batch_id}.", status_code=404)
        return self.batches[batch_id]

    @override
    def list_batches(self, *, after: str | None = None, limit: int | None = None) -> Iterator[Batch]:
        self.calls.append("list_batches")
        yield from reversed([batch for batch in self.batches.values() if self._shows(batch)])

    @override
    def batch_pages(self) -> Iterator[list[Batch]]:
        yield list(self.list_batches())

    @override
    def cancel_batch(self, batch_id: str) -> Batch:
        self.calls.append("cancel_batch")
        if not self.retrieve_batch(batch_id).is_terminal:
            self.change(batch_id, status="cancelling", cancelling_at=int(self.clock.now))
        return self.batches[batch_id]

    @override
    def console_url(self, batch_id: str) -> str | None:
        return None

    @override
    def ping(self) -> str:
        return "It is there."

    @override
    def close(self) -> None: ...

    def _shows(self, batch: Batch) -> bool:
        return (batch.created_at or 0) + self.lag <= self.clock.now

    def _file(self, file_id: str) -> tuple[str, bytes]:
        if file_id not in self.files:
            raise NotFoundError(f"No file {file_id}.", status_code=404)
        return self.files[file_id]


def _answer(custom_id: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": f"answer {custom_id}"}
    body = {
        "model": "m-1",
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }
    return {"custom_id": custom_id, "response": {"status_code": 200, "request_id": "r", "body": body}, "error": None}


def _jsonl(lines: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(line) + "\n" for line in lines).encode()
