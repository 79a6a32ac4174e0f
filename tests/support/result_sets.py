"""Rows of a stage and what was answered to them, and the result set that comes of it."""

from __future__ import annotations

import io
import json
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from airflow_provider_llmbatch.core.run.answers import answers_name
from airflow_provider_llmbatch.core.run.manifest import AttemptEntry, Fingerprints, RunFacts, RunIdentity
from airflow_provider_llmbatch.core.run.publish import publish
from airflow_provider_llmbatch.core.storage import Folder
from airflow_provider_llmbatch.models import Usage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from airflow_provider_llmbatch.core.run.manifest import Manifest
    from airflow_provider_llmbatch.core.run.stage import Stage

FACTS = RunFacts(
    run=RunIdentity(key="llmb-1", dag_id="d", run_id="r", task_id="t"),
    provider="openai",
    source="in.jsonl",
    fingerprints=Fingerprints(rows="aa", parameters="bb"),
    started_at=1_700_000_000,
)


@dataclass
class Part:
    number: int
    rows: int
    model: str | None = "asked-1"
    endpoint: str = "/v1/chat/completions"


class Staged:
    """Rows by their ordinals, cut into parts."""

    def __init__(self, parts: Sequence[Mapping[int, bytes]]) -> None:
        self._parts = parts
        self.parts = [Part(number, len(rows)) for number, rows in enumerate(parts)]
        self.rows = sum(map(len, parts))

    def ordinals(self, part: Part) -> array[int]:
        return array("Q", self._parts[part.number])

    def rows_of(self, part: Part) -> BinaryIO:
        lines = [
            b'{"ordinal":%d%b}\n' % (n, b"," + head if head else b"") for n, head in self._parts[part.number].items()
        ]
        return io.BytesIO(b"".join(lines))


def answer(ordinal: int, outcome: str, attempt: int, **fields: Any) -> bytes:
    row = {"ordinal": ordinal, "again": outcome == "missing", "outcome": outcome, "text": None, "parsed": None}
    row |= {"error": None, "finish_reason": None, "usage": None, **fields}
    row |= {"provider": "openai", "model": "answering-1", "batch_id": f"batch_{attempt}", "attempt": attempt}
    return json.dumps(row, separators=(",", ":")).encode() + b"\n"


def entry(attempt: int, tokens: int = 0) -> AttemptEntry:
    return AttemptEntry(attempt=attempt, batch_id=f"batch_{attempt}", usage=Usage(total_tokens=tokens))


def published(
    tmp_path: Path,
    staged: Staged,
    answers: Mapping[tuple[int, int], bytes],
    *,
    publish_id: str = "p-1",
    output: Folder | None = None,
    **options: Any,
) -> Manifest:
    """:param answers: What each attempt at each part landed."""
    folder = Folder(tmp_path / "stage")
    (tmp_path / "stage").mkdir(exist_ok=True)
    attempts: dict[int, list[AttemptEntry]] = {}
    for (part, attempt), content in sorted(answers.items()):
        (tmp_path / "stage" / answers_name(part, attempt)).write_bytes(content)  # a folder would sync each of them
        attempts.setdefault(part, []).append(entry(attempt, 10 * attempt))
    return publish(
        cast("Stage", staged),
        output or Folder(tmp_path / "out"),
        answers=folder,
        attempts=attempts,
        facts=FACTS,
        publish_id=publish_id,
        published_at=1_700_000_100,
        **options,
    )


def rows_of(tmp_path: Path, manifest: Manifest) -> list[dict[str, Any]]:
    files = [tmp_path / "out" / part.uri for part in manifest.parts]
    return [json.loads(line) for file in files for line in file.read_bytes().splitlines()]
