"""Creating a file: uploaded once, told in the log, and found again by retries."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs
from support.fault_proxy import FaultProxy, LoseAnswer, fault_proxy
from support.task import HAS_STATE_STORE, TaskInstance, adapters_closed, connect, context_of

from airflow_provider_llmbatch.errors import UnavailableError
from airflow_provider_llmbatch.hooks.batch import LLMBatchHook
from airflow_provider_llmbatch.operators.file import LLMBatchCreateFileOperator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airflow.sdk import Context
    from support.server import RunningServer

BODY = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}
LINE = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": BODY}
REQUESTS = json.dumps(LINE).encode() + b"\n"


@pytest.fixture
def proxy(echo_server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    monkeypatch.setattr("airflow_provider_llmbatch.adapters.http._FIRST_DELAY", 0.0)
    with adapters_closed(monkeypatch), fault_proxy(echo_server.url) as proxy:
        connect(monkeypatch, proxy.url, echo_server.api_key)
        yield proxy


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "requests.jsonl").write_bytes(REQUESTS)
    return tmp_path / "requests.jsonl"


def begin(task: LLMBatchCreateFileOperator) -> tuple[Context, TaskInstance]:
    return context_of(task, TaskInstance(task_id=task.task_id, run_id=str(uuid.uuid4())))


def said(lines: list[Any]) -> list[str]:
    """What the operator logged, without Airflow's own warning that no task runner called it."""
    return [str(line["event"]) for line in lines if "outside of the Task Runner" not in line["event"]]


def uploads(proxy: FaultProxy) -> int:
    return len(proxy.calls("POST", "/files$"))


def test_its_id_is_returned_and_the_log_tells_bytes_and_id(source: Path, proxy: FaultProxy) -> None:
    task = LLMBatchCreateFileOperator(task_id="create_file", source=source.as_uri())
    with capture_logs() as lines:
        file_id = str(task.execute(begin(task)[0]))
    [line] = [line for line in lines if str(line["event"]).startswith("Uploaded")]
    assert line["event"] == f"Uploaded {len(REQUESTS)} bytes as {file_id}"
    assert (line["bytes"], line["requests"]) == (len(REQUESTS), 1)
    file = LLMBatchHook().retrieve_file(file_id)
    assert (file.id, file.bytes, file.purpose) == (file_id, len(REQUESTS), "batch")
    assert b"".join(LLMBatchHook().file_content(file_id)) == REQUESTS
    assert uploads(proxy) == 1


def test_a_retry_uploads_nothing(source: Path, proxy: FaultProxy) -> None:
    task = LLMBatchCreateFileOperator(task_id="create_file", source=str(source))
    context, instance = begin(task)
    file_id = task.execute(context)
    instance.try_number = 2
    with capture_logs() as lines:
        assert task.execute(context) == file_id
    known = f"{file_id} has the same content already: not uploaded again"
    found = f"Found {file_id}, which an earlier try uploaded: not uploaded again"  # by its name, at the provider
    assert said(lines) == [known if HAS_STATE_STORE else found]
    assert uploads(proxy) == 1


def test_a_retry_after_a_deletion_at_the_provider_uploads_again(source: Path, proxy: FaultProxy) -> None:
    task = LLMBatchCreateFileOperator(task_id="create_file", source=str(source))
    context, instance = begin(task)
    file_id = str(task.execute(context))
    LLMBatchHook().delete_file(file_id)
    instance.try_number = 2
    assert task.execute(context) != file_id
    assert uploads(proxy) == 2


def test_other_content_is_uploaded_anew(source: Path, proxy: FaultProxy) -> None:
    task = LLMBatchCreateFileOperator(task_id="create_file", source=str(source))
    context, _ = begin(task)
    first = task.execute(context)
    source.write_bytes(REQUESTS.replace(b"hello", b"good bye"))
    assert task.execute(context) != first
    assert uploads(proxy) == 2


def test_an_upload_whose_answers_were_all_lost_is_found_by_the_retry(source: Path, proxy: FaultProxy) -> None:
    proxy.rule("POST", "/files$", LoseAnswer(), times=5)
    task = LLMBatchCreateFileOperator(task_id="create_file", source=str(source))
    context, instance = begin(task)
    with pytest.raises(UnavailableError, match="did not answer when asked to store the file"):
        task.execute(context)
    before = uploads(proxy)
    instance.try_number = 2
    file_id = task.execute(context)
    assert uploads(proxy) == before
    assert file_id in {file.id for file in LLMBatchHook().list_files()}


def test_a_name_and_an_expiry_of_the_users_own_reach_the_provider(source: Path, proxy: FaultProxy) -> None:
    del proxy
    task = LLMBatchCreateFileOperator(
        task_id="create_file", source=str(source), filename="reviews.jsonl", expires_after=3600
    )
    file = LLMBatchHook().retrieve_file(str(task.execute(begin(task)[0])))
    assert file.filename == "reviews.jsonl"
    assert (file.expires_at or 0) - (file.created_at or 0) == 3600


def test_a_file_of_another_purpose_is_uploaded_as_it_is(tmp_path: Path, proxy: FaultProxy) -> None:
    (tmp_path / "notes.txt").write_bytes(b"no JSON at all")
    task = LLMBatchCreateFileOperator(task_id="create_file", source=str(tmp_path / "notes.txt"), purpose="user_data")
    with capture_logs() as lines:
        file_id = task.execute(begin(task)[0])
    [sent] = proxy.calls("POST", "/files$")
    assert b'name="purpose"\r\n\r\nuser_data\r\n' in sent.body
    assert b"no JSON at all" in sent.body
    assert said(lines) == [f"Uploaded 14 bytes as {file_id}"]


def test_source_filename_and_connection_are_rendered(proxy: FaultProxy) -> None:
    del proxy
    task = LLMBatchCreateFileOperator(
        task_id="create_file", source="/data/{{ ds }}.jsonl", filename="{{ ds }}.jsonl", llmbatch_conn_id="{{ conn }}"
    )
    task.render_template_fields({"ds": "2026-11-24", "conn": "nightly"})  # type: ignore[typeddict-item, typeddict-unknown-key]
    assert (task.source, task.filename, task.llmbatch_conn_id) == (
        "/data/2026-11-24.jsonl",
        "2026-11-24.jsonl",
        "nightly",
    )
