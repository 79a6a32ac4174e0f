"""From rows to one result set against a real server that fails some of them: staged, sent, landed, sent again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import structlog
from support.adapter_contract import until_ended
from support.batches import adapter_of
from support.landed_again import landed_again
from support.server import running_server

from airflow_provider_llmbatch.core.run.answers import land
from airflow_provider_llmbatch.core.run.manifest import AttemptEntry, Fingerprints, RunFacts, RunIdentity
from airflow_provider_llmbatch.core.run.publish import publish
from airflow_provider_llmbatch.core.run.requests import RequestTemplate
from airflow_provider_llmbatch.core.run.shape import shape_of
from airflow_provider_llmbatch.core.run.sources import given_records
from airflow_provider_llmbatch.core.run.stage import SplitLimits, Stage, write_stage
from airflow_provider_llmbatch.core.storage import Folder

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_llmbatch.adapters.openai import OpenAIAdapter
    from airflow_provider_llmbatch.core.run.answers import Landed
    from airflow_provider_llmbatch.core.run.stage import StagePart

FAULTS = {
    "requests": [
        {"custom_id": "^3$", "fault": "status", "status": 503, "code": "server_error", "times": 1},
        {"custom_id": "^7$", "fault": "status", "status": 429, "code": "rate_limit_exceeded", "times": 1},
        {"custom_id": "^5$", "fault": "status", "status": 400, "code": "content_filter", "message": "Refused."},
    ]
}
SCHEMA = {"type": "object", "properties": {"label": {"enum": ["good", "bad"]}}, "required": ["label"]}


def attempted(
    adapter: OpenAIAdapter, stage: Stage, part: StagePart, attempt: int, unresolved: Landed | None
) -> tuple[AttemptEntry, Landed]:
    if unresolved is not None:
        stage.write_subset(part, attempt, unresolved.unresolved)
    with stage.requests(part, attempt) as stream:
        file = adapter.create_file(stream, filename=f"{part.number}-{attempt}.jsonl")
    batch = until_ended(adapter, adapter.create_batch(file.id, endpoint=part.endpoint).id)
    found = land(
        adapter,
        batch,
        part=part.number,
        attempt=attempt,
        ordinals=stage.ordinals(part, attempt),
        folder=stage.folder,
        shape=shape_of(SCHEMA),
        log=structlog.get_logger(),
    )
    assert found == landed_again(stage.folder, part.number, attempt)
    entry = AttemptEntry(attempt=attempt, batch_id=batch.id, outcomes=dict(found.outcomes), usage=found.usage)
    return entry, found


def test_each_row_ends_with_its_best_answer_of_all_attempts(tmp_path: Path) -> None:
    (tmp_path / "faults.json").write_text(json.dumps(FAULTS))
    texts = ['{"label": "good"}', "so so", '{"label":"bad"}']
    records: list[dict[str, Any]] = [{"id": f"r{n}", "n": n * 1.5, "say": texts[n % 3]} for n in range(10)]
    template = RequestTemplate(prompt="{say}", model="echo", key="id", columns=("n",))
    stage = write_stage(
        Folder(tmp_path / "out" / "_llmbatch", private=True),
        template.rows(given_records(records, name="records")),
        limits=SplitLimits(max_rows=6, max_bytes=10**6),
        log=structlog.get_logger(),
    )
    attempts: dict[int, list[AttemptEntry]] = {}
    with (
        running_server(tmp_path / "server", extra_args=("--faults", str(tmp_path / "faults.json"))) as server,
        adapter_of(server) as adapter,
    ):
        for part in stage.parts:
            entry, found = attempted(adapter, stage, part, 1, None)
            attempts[part.number] = [entry]
            assert list(found.unresolved) == [{0: 3, 1: 7}[part.number]]
            entry, found = attempted(adapter, stage, part, 2, found)
            attempts[part.number].append(entry)
            assert list(found.unresolved) == []
    manifest = publish(
        stage,
        Folder(tmp_path / "out"),
        answers=stage.folder,
        attempts=attempts,
        facts=RunFacts(
            run=RunIdentity(key="llmb-1"),
            provider="openai",
            source="records",
            fingerprints=Fingerprints(rows=stage.rows_sha256, parameters=template.parameters_sha256),
            started_at=1,
        ),
        publish_id="p-1",
        published_at=2,
    )
    files = [tmp_path / "out" / part.uri for part in manifest.parts]
    rows = [json.loads(line) for file in files for line in file.read_bytes().splitlines()]
    assert [row["key"] for row in rows] == [record["id"] for record in records]
    assert [row["input"] for row in rows] == [{"n": record["n"]} for record in records]
    expected = ["invalid" if n % 3 == 1 else "failed" if n == 5 else "succeeded" for n in range(10)]
    assert [(row["outcome"], row["attempt"]) for row in rows] == [
        (outcome, 2 if n in (3, 7) else 1) for n, outcome in enumerate(expected)
    ]
    assert [row["parsed"] for row in rows[:4]] == [{"label": "good"}, None, {"label": "bad"}, {"label": "good"}]
    assert rows[5]["error"] == {"code": "content_filter", "message": "Refused."}
    assert manifest.outcomes == {"succeeded": 6, "invalid": 3, "failed": 1}
    assert [entry.outcomes for entry in attempts[1]] == [{"succeeded": 3, "failed": 1}, {"invalid": 1}]
    assert manifest.usage.total_tokens == sum(row["usage"]["total_tokens"] for row in rows if row["usage"])
