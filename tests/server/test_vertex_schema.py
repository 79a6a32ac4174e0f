"""What Vertex AI's face answers and writes passes Google's official schema: Prism judges by its discovery document, and
the message classes of its own client refuse every field that they do not know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from support.batch_server import jsonl
from support.prism import running_prism
from support.vertex import ENDS, PARENT, Vertex, gemini_line, good, running_vertex, wanted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.gcs import RunningStorage
    from support.server import RunningServer

_SCHEMA = Path(__file__).parents[3] / "shared" / "specs" / "vertex-batchPredictionJobs.openapi.yaml"
_FAULTS = {
    "requests": [
        {"fault": "delay", "custom_id": "row=slow", "seconds": 0.2},
        {"fault": "status", "custom_id": "row=rude", "status": 400, "code": "content_filter"},
        {"fault": "status", "custom_id": "row=busy", "status": 429},
    ],
    "batches": [
        {"fault": "expire", "after_answers": 1, "times": 1},
        {"fault": "lose_rows", "rows": 1, "skip": 1, "times": 1},
    ],
}


@pytest.fixture(scope="module")
def server(face_storage: RunningStorage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Its first job expires, and the second one's output loses a row."""
    folder = tmp_path_factory.mktemp("schema")
    (file := folder / "faults.json").write_text(json.dumps(_FAULTS))
    options = ("--faults", str(file), "--concurrency", "1", "--vertex-queue-seconds", "0.1")
    with running_vertex(folder / "data", face_storage, extra_args=options) as server:
        yield server


def _answers(vertex: Vertex) -> Iterator[tuple[str, httpx.Response]]:
    """Answers of every call, on jobs in every state, and the message that each holds."""
    lines = jsonl([gemini_line("slow"), *(gemini_line(row) for row in ("good", "rude", "busy"))])
    ids = []
    for more in (
        {"labels": {"team": "search"}},
        {},
        {"inputConfig": wanted("gs://no-such-bucket/in")["inputConfig"]},
        {},
    ):
        created = vertex.create(vertex.put(lines), **more)
        yield "BatchPredictionJob", created
        ids.append(name := created.json()["name"])
        if len(ids) == 4:
            vertex.until({"name": name}, "RUNNING")
            yield "Empty", vertex.cancel({"name": name})
            yield "BatchPredictionJob", vertex.http.get(f"/v1/{name}")
        vertex.until({"name": name}, *ENDS)
        yield "BatchPredictionJob", vertex.http.get(f"/v1/{name}")
    yield "ListBatchPredictionJobsResponse", vertex.http.get(PARENT, params={"pageSize": 3})
    yield "ListBatchPredictionJobsResponse", vertex.http.get(PARENT, params={"filter": "labels.team=nobody"})
    yield "Operation", vertex.http.delete(f"/v1/{ids[0]}")


def test_googles_schema_accepts_every_answer(server: RunningServer, gcs: RunningStorage) -> None:
    from google.cloud import aiplatform_v1
    from google.cloud.aiplatform_v1.types import job_service
    from google.longrunning import operations_pb2
    from google.protobuf import empty_pb2, json_format

    violations = []
    states = []
    headers = {"Authorization": f"Bearer {server.api_key}"}
    with (
        running_prism(_SCHEMA, server.url) as prism,
        httpx.Client(base_url=prism, headers=headers, timeout=30, trust_env=False) as http,
    ):
        for kind, answer in _answers(Vertex(http, gcs, server.data_dir)):
            body = good(answer)
            violations += [
                (answer.request.method, kind, each) for each in json.loads(answer.headers.get("sl-violations", "[]"))
            ]
            if kind == "BatchPredictionJob":
                aiplatform_v1.BatchPredictionJob.from_json(answer.text, ignore_unknown_fields=False)
                states.append(body["state"].removeprefix("JOB_STATE_"))
            elif kind == "ListBatchPredictionJobsResponse":
                job_service.ListBatchPredictionJobsResponse.from_json(answer.text, ignore_unknown_fields=False)
            else:
                parsed = {"Operation": operations_pb2.Operation, "Empty": empty_pb2.Empty}[kind]()
                json_format.Parse(answer.text, parsed)
    assert violations == []
    assert states == [
        *("QUEUED", "EXPIRED"),
        *("QUEUED", "PARTIALLY_SUCCEEDED"),
        *("QUEUED", "FAILED"),
        *("QUEUED", "CANCELLING", "CANCELLED"),
    ]


def test_googles_own_messages_accept_what_stands_in_an_output(vertex: Vertex) -> None:
    from google.cloud import aiplatform_v1

    tool = {"functionDeclarations": [{"name": "f", "parameters": {"type": "OBJECT"}}]}
    call = {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {"a": 1}}}]}
    lines = [
        gemini_line("plain"),
        gemini_line("config", generationConfig={"topP": 0.5, "stopSequences": ["x"], "responseMimeType": "text/plain"}),
        gemini_line("tools", tools=[tool], system_instruction={"parts": [{"text": "Be kind."}]}),
        {"request": {"contents": [{"parts": [{"text": "x"}]}, call], "labels": {"row": "call"}, "tools": tool}},
        gemini_line("failed", None),
    ]
    rows = vertex.rows(vertex.run(jsonl(lines)))
    assert len(rows) == len(lines)
    for row in rows:
        aiplatform_v1.GenerateContentRequest.from_json(json.dumps(row["request"]), ignore_unknown_fields=False)
        aiplatform_v1.GenerateContentResponse.from_json(json.dumps(row["response"]), ignore_unknown_fields=False)
    assert {row["request"]["labels"]["row"]: row["status"] == "" for row in rows} == {
        **dict.fromkeys(("plain", "config", "tools", "call"), True),
        "failed": False,
    }
