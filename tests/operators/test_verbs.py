"""The operators that do one thing: look a batch up, list batches, cancel one, download and delete a file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from airflow.sdk.exceptions import AirflowFailException
from support.fault_proxy import Answer, LoseAnswer, Truncate, fault_proxy
from support.gated_server import GatedServer, gated_server
from support.task import TaskInstance, adapters_closed, connect, context_of

from airflow_provider_llmbatch.errors import UnavailableError
from airflow_provider_llmbatch.hooks.batch import LLMBatchHook
from airflow_provider_llmbatch.operators.batch import (
    LLMBatchCancelBatchOperator,
    LLMBatchListBatchesOperator,
    LLMBatchRetrieveBatchOperator,
)
from airflow_provider_llmbatch.operators.file import LLMBatchDeleteFileOperator, LLMBatchDownloadFileOperator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airflow.sdk import BaseOperator

LINE = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"model": "echo", "prompt": "hello"}}
REQUESTS = json.dumps(LINE).encode() + b"\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatedServer]:
    with gated_server(tmp_path_factory.mktemp("gated")) as server:
        yield server


@pytest.fixture
def hook(server: GatedServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[LLMBatchHook]:
    connect(monkeypatch, server.url, server.api_key)
    hook = LLMBatchHook()
    yield hook
    hook.adapter.close()


@pytest.fixture(autouse=True)
def closed_adapters(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with adapters_closed(monkeypatch):
        yield


def run(task: BaseOperator, *, try_number: int = 1) -> object:
    context, _ = context_of(task, TaskInstance(task_id=task.task_id, try_number=try_number))
    return task.execute(context)


def running_batch(hook: LLMBatchHook) -> str:
    file = hook.create_file(REQUESTS, filename="requests.jsonl")
    return hook.create_batch(file.id, endpoint="/v1/completions", metadata={"of": "verbs"}).id


def test_a_batch_is_returned_as_a_dict_that_xcom_can_hold(hook: LLMBatchHook) -> None:
    batch_id = running_batch(hook)
    found = run(LLMBatchRetrieveBatchOperator(task_id="look", batch_id=batch_id))
    assert isinstance(found, dict)
    assert json.loads(json.dumps(found)) == found
    assert {name: found[name] for name in ("id", "object", "endpoint", "metadata", "output_file_id")} == {
        "id": batch_id,
        "object": "batch",
        "endpoint": "/v1/completions",
        "metadata": {"of": "verbs"},
        "output_file_id": None,
    }


def test_a_batch_that_is_not_there_fails_the_task_without_a_retry(hook: LLMBatchHook) -> None:
    del hook
    with pytest.raises(AirflowFailException, match="NotFoundError"):
        run(LLMBatchRetrieveBatchOperator(task_id="look", batch_id="batch_none"))


def test_batches_are_listed_newest_first_up_to_the_limit_and_from_a_batch_on(hook: LLMBatchHook) -> None:
    made = [running_batch(hook) for _ in range(3)]
    everything = [batch.id for batch in hook.list_batches()]
    assert set(everything[:3]) == set(made)
    first = run(LLMBatchListBatchesOperator(task_id="list", limit=2))
    rest = run(LLMBatchListBatchesOperator(task_id="list_on", limit=1, after=everything[1]))
    assert isinstance(first, list)
    assert isinstance(rest, list)
    assert [batch["id"] for batch in first + rest] == everything[:3]
    assert json.loads(json.dumps(first)) == first


def test_a_limit_below_one_is_refused_when_the_dag_is_read() -> None:
    with pytest.raises(ValueError, match="limit must be at least 1, not 0"):
        LLMBatchListBatchesOperator(task_id="list", limit=0)


def test_a_running_batch_is_cancelled(hook: LLMBatchHook) -> None:
    batch_id = running_batch(hook)
    cancelled = run(LLMBatchCancelBatchOperator(task_id="cancel", batch_id=batch_id))
    assert isinstance(cancelled, dict)
    assert (cancelled["id"], cancelled["status"]) in [(batch_id, "cancelling"), (batch_id, "cancelled")]


def test_a_refused_cancellation_is_not_tried_again_when_the_batch_is_ending_already(
    hook: LLMBatchHook, server: GatedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = running_batch(hook)
    hook.cancel_batch(batch_id)
    with fault_proxy(server.url) as proxy:
        proxy.rule("POST", "/cancel$", Answer(409, b'{"error": {"message": "Cannot cancel", "code": "conflict"}}'))
        connect(monkeypatch, proxy.url, server.api_key)
        cancelled = run(LLMBatchCancelBatchOperator(task_id="cancel", batch_id=batch_id))
        assert len(proxy.calls("POST", "/cancel$")) == 1
    assert isinstance(cancelled, dict)
    assert cancelled["status"] in ("cancelling", "cancelled")


def test_a_file_is_landed_byte_for_byte_and_whole(hook: LLMBatchHook, tmp_path: Path) -> None:
    content = b"".join(json.dumps({**LINE, "custom_id": str(n)}).encode() + b"\n" for n in range(20_000))
    file = hook.create_file(content)
    destination = tmp_path / "deep" / "requests.jsonl"
    landed = run(LLMBatchDownloadFileOperator(task_id="land", file_id=file.id, destination=str(destination)))
    assert landed == str(destination)
    assert destination.read_bytes() == content


def test_a_download_that_fails_leaves_what_was_there(
    hook: LLMBatchHook, server: GatedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = hook.create_file(REQUESTS)
    destination = tmp_path / "requests.jsonl"
    destination.write_bytes(b"of yesterday")
    monkeypatch.setattr("airflow_provider_llmbatch.adapters.http._FIRST_DELAY", 0.0)
    with fault_proxy(server.url) as proxy:
        proxy.rule("GET", "/content$", Truncate(10))
        proxy.rule("GET", "/content$", Answer(503), times=None)
        connect(monkeypatch, proxy.url, server.api_key)
        with pytest.raises(UnavailableError):
            run(LLMBatchDownloadFileOperator(task_id="land", file_id=file.id, destination=str(destination)))
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("requests.jsonl", b"of yesterday")]


def test_a_file_that_is_gone_is_an_error_at_first_and_what_was_wanted_on_a_retry(hook: LLMBatchHook) -> None:
    file = hook.create_file(REQUESTS)
    task = LLMBatchDeleteFileOperator(task_id="delete", file_id=file.id)
    assert run(task) == file.id
    with pytest.raises(AirflowFailException, match="NotFoundError"):
        run(task)
    assert run(task, try_number=2) == file.id


def test_a_deletion_whose_answer_was_lost_is_no_error(
    hook: LLMBatchHook, server: GatedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = hook.create_file(REQUESTS)
    monkeypatch.setattr("airflow_provider_llmbatch.adapters.http._FIRST_DELAY", 0.0)
    with fault_proxy(server.url) as proxy:
        proxy.rule("DELETE", "/files/", LoseAnswer())
        connect(monkeypatch, proxy.url, server.api_key)
        assert run(LLMBatchDeleteFileOperator(task_id="delete", file_id=file.id)) == file.id
        assert [call.upstream_status for call in proxy.calls("DELETE", "/files/")] == [200, 404]


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (LLMBatchRetrieveBatchOperator, ("batch_id", "llmbatch_conn_id")),
        (LLMBatchListBatchesOperator, ("after", "llmbatch_conn_id")),
        (LLMBatchCancelBatchOperator, ("batch_id", "llmbatch_conn_id")),
        (LLMBatchDownloadFileOperator, ("file_id", "destination", "llmbatch_conn_id")),
        (LLMBatchDeleteFileOperator, ("file_id", "llmbatch_conn_id")),
    ],
)
def test_ids_and_places_are_templated(kind: type[BaseOperator], fields: tuple[str, ...]) -> None:
    assert kind.template_fields == fields
