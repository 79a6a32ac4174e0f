"""How jobs of Vertex AI's face end: cancelled, expired, partly succeeded, failed; and that neither a kill of the server
nor a fault of the storage loses one."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from support.batch_server import jsonl
from support.engine_server import engine_server
from support.fault_proxy import Answer, Drop, Truncate, fault_proxy
from support.gcs import RunningStorage
from support.vertex import ENDS, Vertex, calling, gemini_line, good, running_vertex

from airflow_provider_llmbatch.server.__main__ import main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def _rows(vertex: Vertex, job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    rows = vertex.rows(job)
    found = {row["request"]["labels"]["row"]: row for row in rows}
    assert len(found) == len(rows)
    return found


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory, face_storage: RunningStorage) -> Iterator[Vertex]:
    """Its first job expires, its second meets a full queue, and its fourth output loses a row."""
    faults = {
        "requests": [
            {"fault": "delay", "custom_id": "row=slow", "seconds": 0.3},
            {"fault": "status", "custom_id": "row=busy", "status": 429, "message": "Later."},
            {"fault": "status", "custom_id": "row=rude", "status": 400, "code": "content_filter", "message": "No."},
        ],
        "batches": [
            {"fault": "expire", "after_answers": 1, "times": 1},
            {"fault": "token_limit", "at": "validation", "times": 1},
            {"fault": "lose_rows", "rows": 1, "skip": 1, "times": 1},
        ],
    }
    folder = tmp_path_factory.mktemp("faulty")
    (file := folder / "faults.json").write_text(json.dumps(faults))
    options = ("--concurrency", "1", "--faults", str(file))
    with (
        running_vertex(folder / "data", face_storage, extra_args=options) as server,
        calling(server, face_storage) as vertex,
    ):
        yield vertex


def test_jobs_end_as_a_file_of_faults_says(faulty: Vertex) -> None:
    expired = faulty.run(jsonl(gemini_line(row) for row in "abc"))
    full = faulty.run(jsonl([gemini_line("a")]))
    lines = [gemini_line(row) for row in ("lost", "rude", "busy", "good")]
    partly = faulty.run(jsonl(lines))

    assert (expired["state"], expired["completionStats"]) == (
        "JOB_STATE_EXPIRED",
        {"successfulCount": "1", "incompleteCount": "2"},
    )
    assert _rows(faulty, expired).keys() == {"a"}
    assert (full["state"], full["error"]["code"]) == ("JOB_STATE_FAILED", 8)
    assert "Enqueued token limit reached" in full["error"]["message"]
    assert (partly["state"], partly["completionStats"]) == (
        "JOB_STATE_PARTIALLY_SUCCEEDED",
        {"successfulCount": "2", "failedCount": "1", "incompleteCount": "1"},
    )
    assert partly["partialFailures"] == [{"code": 13, "message": "1 predictions could not be written."}]
    rows = _rows(faulty, partly)
    assert rows.keys() == {"rude", "busy", "good"}
    body = {"error": {"code": 429, "message": "Later.", "status": "RESOURCE_EXHAUSTED"}}
    assert (rows["busy"]["status"], rows["busy"]["response"]) == (f"Too Many Requests: {json.dumps(body)}", {})
    feedback = {"blockReason": "PROHIBITED_CONTENT", "blockReasonMessage": "No."}
    assert (rows["rude"]["status"], rows["rude"]["response"]["promptFeedback"]) == ("", feedback)


def test_a_cancelled_job_leaves_what_was_answered_before(faulty: Vertex) -> None:
    lines = [gemini_line("quick"), gemini_line("slow"), gemini_line("third")]
    job = faulty.job(jsonl(lines))
    while faulty.now(job).get("completionStats") != {"successfulCount": "1", "incompleteCount": "2"}:
        time.sleep(0.005)
    assert faulty.now(job)["state"] == "JOB_STATE_RUNNING"
    assert good(faulty.cancel(job)) == {}
    assert faulty.now(job)["state"] == "JOB_STATE_CANCELLING"
    assert good(faulty.cancel(job)) == {}
    assert faulty.http.delete(f"/v1/{job['name']}").status_code == 400
    job = faulty.until(job, *ENDS)
    assert _rows(faulty, job).keys() == {"quick", "slow"}  # what was begun is answered
    assert (job["state"], job["completionStats"]) == (
        "JOB_STATE_CANCELLED",
        {"successfulCount": "2", "incompleteCount": "1"},
    )
    assert job["error"] == {"code": 1, "message": "The job was cancelled."}


def test_a_job_that_is_cancelled_in_the_queue_leaves_nothing(tmp_path: Path, face_storage: RunningStorage) -> None:
    options = ("--vertex-queue-seconds", "600")
    with running_vertex(tmp_path, face_storage, extra_args=options) as server, calling(server, face_storage) as vertex:
        job = vertex.job(jsonl([gemini_line("a")]))
        assert vertex.now(job)["state"] == "JOB_STATE_QUEUED"
        vertex.cancel(job)
        job = vertex.until(job, *ENDS)
    assert job["state"] == "JOB_STATE_CANCELLED"
    assert job.keys().isdisjoint({"startTime", "outputInfo", "completionStats"})


def test_a_server_that_is_killed_twice_loses_no_job_and_no_row(tmp_path: Path, face_storage: RunningStorage) -> None:
    """Killed when both jobs were only made, and in the middle of them, as one was being cancelled."""
    rows = sorted(f"r{n:03}" for n in range(150))
    with engine_server(seconds=0.01) as engine:

        @contextmanager
        def life(*, queue: str = "0") -> Iterator[Vertex]:
            options = ("--concurrency", "4", "--vertex-queue-seconds", queue)
            with (
                running_vertex(tmp_path, face_storage, engine=engine.url, extra_args=options) as server,
                calling(server, face_storage) as vertex,
            ):
                yield vertex

        with life(queue="600") as vertex:
            job = vertex.job(jsonl(map(gemini_line, rows)))
            cancelled = vertex.job(jsonl(map(gemini_line, rows)))
        with life() as vertex:
            while engine.asked.total() < 80:
                time.sleep(0.005)
            vertex.cancel(cancelled)
        with life() as vertex:
            job, cancelled = vertex.until(job, *ENDS), vertex.until(cancelled, *ENDS)
            assert _rows(vertex, job).keys() == set(rows)
            assert _rows(vertex, cancelled).keys() < set(rows)
    assert (job["state"], job["completionStats"]) == ("JOB_STATE_SUCCEEDED", {"successfulCount": "150"})
    assert cancelled["state"] == "JOB_STATE_CANCELLED"
    # What the server kept of the requests and the answers is gone; they stand in the storage.
    kept = {path.name for path in (tmp_path / "files").iterdir()} | {path.name for path in tmp_path.glob("uploads/*")}
    assert kept == set()


def test_a_job_waits_for_a_storage_that_is_away_or_breaks_off(tmp_path: Path, face_storage: RunningStorage) -> None:
    with fault_proxy(face_storage.url) as proxy:
        proxy.rule("GET", "/o/", Answer(503), times=1)
        proxy.rule("GET", "/o/", Drop(), times=1)
        proxy.rule("GET", "/o/", Truncate(100), times=1)
        proxy.rule("POST", "/upload/", Answer(503), times=1)
        proxy.rule("POST", "/upload/", Drop(), times=1)
        away = RunningStorage(proxy.url, face_storage.pid)
        with running_vertex(tmp_path, away) as server, calling(server, face_storage) as vertex:
            rows = [f"r{n}" for n in range(20)]
            job = vertex.run(jsonl(map(gemini_line, rows)))
            assert _rows(vertex, job).keys() == set(rows)
    assert job["state"] == "JOB_STATE_SUCCEEDED"


def test_a_server_that_waits_for_its_storage_or_reads_a_long_input_ends_when_it_is_told_to(
    tmp_path: Path, face_storage: RunningStorage
) -> None:
    with fault_proxy(face_storage.url) as proxy:
        away = RunningStorage(proxy.url, face_storage.pid)
        with running_vertex(tmp_path, away) as server, calling(server, face_storage) as vertex:
            waited_for = vertex.put(jsonl([gemini_line("a")]))
            proxy.rule("GET", waited_for.rpartition("/")[2], Answer(503), times=None)
            long = vertex.put(jsonl([gemini_line("a")]) * 200_000)
            for uri in (waited_for, long):
                vertex.until(good(vertex.create(uri)), "PENDING")
            os.kill(server.pid, signal.SIGTERM)
            assert server.process.wait(10) == 0
    assert list((tmp_path / "files").iterdir()) == []  # it did not read on to the end first


@pytest.mark.parametrize(
    ("options", "faults", "words"),
    [
        (["--face", "vertex"], {}, "reads and writes Cloud Storage: give an emulator's address"),
        (
            ["--face", "vertex"],
            {"batches": [{"fault": "token_limit", "at": "creation"}]},
            "a rule for calls can answer with a status and a body",
        ),
        (["--face", "azure"], {"batches": [{"fault": "lose_rows", "rows": 1}]}, "that needs --face vertex"),
    ],
)
def test_options_that_do_not_go_together_are_told(
    options: list[str],
    faults: dict[str, object],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    (file := tmp_path / "faults.json").write_text(json.dumps(faults))
    assert main(["--engine", "echo", "--data", str(tmp_path / "data"), "--faults", str(file), *options]) == 2
    assert words in capsys.readouterr().err
