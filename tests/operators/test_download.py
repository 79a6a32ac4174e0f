"""Landing what came back of a batch: whole lines, at any kind of place, and nothing there if it fails."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import fsspec
import pytest
from airflow.sdk.exceptions import AirflowFailException
from airflow.sdk.io import store
from support.fault_proxy import Answer, FaultProxy, Truncate
from support.task import context_of

from airflow_provider_llmbatch.errors import UnavailableError
from airflow_provider_llmbatch.hooks.batch import LLMBatchHook
from airflow_provider_llmbatch.operators.batch import LLMBatchDownloadResultsOperator

if TYPE_CHECKING:
    from pathlib import Path

    from support.gated_server import GatedServer


def line(custom_id: str, body: dict[str, object]) -> bytes:
    request = {"custom_id": custom_id, "method": "POST", "url": "/v1/completions", "body": body}
    return json.dumps(request).encode() + b"\n"


REQUESTS = line("a", {"model": "echo", "prompt": "hello"}) + line("b", {"model": "echo", "prompt": "good bye"})


def running_batch() -> str:
    hook = LLMBatchHook()
    return hook.create_batch(hook.create_file(REQUESTS).id, endpoint="/v1/completions").id


@pytest.fixture
def batch_id(server: GatedServer, proxy: FaultProxy) -> str:
    """A batch that completed."""
    del proxy
    server.let_pass(2)
    batch_id = running_batch()
    while not LLMBatchHook().retrieve_batch(batch_id).is_terminal:
        time.sleep(0.01)
    return batch_id


def download(batch_id: str, destination: str) -> object:
    task = LLMBatchDownloadResultsOperator(task_id="download", batch_id=batch_id, destination=destination)
    return task.execute(context_of(task)[0])


def results_of(content: bytes) -> dict[str, dict[str, object]]:
    results = [json.loads(text) for text in content.splitlines()]
    assert len({result["custom_id"] for result in results}) == len(results)
    return {result["custom_id"]: result for result in results}


def answered(custom_id: str, prompt: str, result: dict[str, object]) -> dict[str, object]:
    """The whole line that is expected for a request; ids that the server makes up are taken from the line itself."""
    response = result["response"]
    assert isinstance(response, dict)
    words = len(prompt.split())
    return {
        "custom_id": custom_id,
        "outcome": "succeeded",
        "response": {
            "status_code": 200,
            "request_id": response["request_id"],
            "body": {
                "id": response["body"]["id"],
                "object": "text_completion",
                "created": 1_700_000_000,
                "model": "echo",
                "system_fingerprint": "echo",
                "choices": [{"index": 0, "text": prompt, "logprobs": None, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": words, "completion_tokens": words, "total_tokens": 2 * words},
            },
        },
        "error": None,
    }


@pytest.mark.parametrize("kind", ["path", "file URI"])
def test_results_land_as_whole_lines_in_a_local_file(kind: str, batch_id: str, tmp_path: Path) -> None:
    place = tmp_path / "out" / "results.jsonl"
    destination = str(place) if kind == "path" else place.as_uri()
    assert download(batch_id, destination) == destination
    results = results_of(place.read_bytes())
    assert results == {
        "a": answered("a", "hello", results["a"]),
        "b": answered("b", "good bye", results["b"]),
    }
    assert [path.name for path in place.parent.iterdir()] == ["results.jsonl"]


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> fsspec.AbstractFileSystem:
    """Object storage that Airflow knows under the scheme ``memory``."""
    storage = fsspec.filesystem("memory")
    monkeypatch.setattr(store, "_STORE_CACHE", {})
    store.attach("memory", fs=storage)
    return storage


def test_results_land_in_object_storage(batch_id: str, memory: fsspec.AbstractFileSystem) -> None:
    destination = "memory://bucket/deep/results.jsonl"
    assert download(batch_id, destination) == destination
    [name] = [name for name in memory.find("/") if name.endswith("results.jsonl")]
    assert sorted(results_of(memory.cat(name))) == ["a", "b"]
    memory.rm(name)


@pytest.mark.parametrize(
    ("scheme", "reason"),
    [("nowhere", "Unsupported filesystem: 'nowhere'"), ("memory", "No filesystem registered for scheme memory")],
    ids=["unknown", "not installed"],
)
def test_a_scheme_without_a_file_system_is_told_before_anything_is_downloaded(
    scheme: str, reason: str, batch_id: str, proxy: FaultProxy
) -> None:
    with pytest.raises(AirflowFailException) as refused:
        download(batch_id, f"{scheme}://bucket/results.jsonl")
    assert str(refused.value) == (
        f"BatchInputError: Nothing was read or written at {scheme}://bucket/results.jsonl, since Airflow has no file "
        f"system for {scheme}:// ({reason}). Install the provider that brings it: "
        "apache-airflow-providers-amazon for s3://, -google for gs://, -microsoft-azure for abfs://."
    )
    assert proxy.calls("GET", "/content$") == []


def test_half_a_download_is_taken_up_where_it_ended(batch_id: str, proxy: FaultProxy, tmp_path: Path) -> None:
    download(batch_id, str(tmp_path / "whole.jsonl"))
    before = len(proxy.calls("GET", "/content$"))
    proxy.rule("GET", "/content$", Truncate(200))
    download(batch_id, str(tmp_path / "resumed.jsonl"))
    assert (tmp_path / "resumed.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert [call.headers.get("range") for call in proxy.calls("GET", "/content$")[before:]] == [None, "bytes=200-"]


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize("place", ["local", "memory"])
def test_what_was_there_stays_when_a_download_fails(
    place: str, batch_id: str, proxy: FaultProxy, tmp_path: Path
) -> None:
    proxy.rule("GET", "/content$", Truncate(200))
    proxy.rule("GET", "/content$", Answer(503), times=None)
    storage = fsspec.filesystem("memory" if place == "memory" else "file")
    path = "/bucket/yesterday.jsonl" if place == "memory" else str(tmp_path / "yesterday.jsonl")
    storage.pipe(path, b"of yesterday")
    with pytest.raises(UnavailableError, match="A retry may succeed"):
        download(batch_id, f"memory:/{path}" if place == "memory" else path)
    assert storage.cat(path) == b"of yesterday"
    assert [name for name in map(str, tmp_path.rglob("*")) if name.endswith(".part")] == []
    storage.rm(path)


def test_a_batch_that_has_not_ended_has_no_results(proxy: FaultProxy, tmp_path: Path) -> None:
    del proxy
    batch_id = running_batch()
    with pytest.raises(AirflowFailException) as refused:
        download(batch_id, str(tmp_path / "out" / "results.jsonl"))
    assert str(refused.value).startswith(f"BatchInputError: {batch_id} is ")
    assert str(refused.value).endswith(
        ": it has no results yet. Nothing was written. Wait for it first, with "
        "LLMBatchCreateBatchOperator(wait=True) or LLMBatchSensor."
    )
    assert not (tmp_path / "out").exists()


def test_a_failed_batch_without_results_fails_with_its_reason(proxy: FaultProxy, tmp_path: Path) -> None:
    errors = {"data": [{"code": "empty_file", "message": "The input file is empty."}]}
    batch = {"id": "batch_1", "status": "failed", "errors": errors}
    proxy.rule("GET", "/batches/", Answer(200, json.dumps(batch).encode()))
    with pytest.raises(
        AirflowFailException, match=r"^BatchFailedError: .*empty_file: The input file is empty\. Nothing"
    ):
        download("batch_1", str(tmp_path / "out" / "results.jsonl"))
    assert not (tmp_path / "out").exists()


def test_its_templated_fields_are_rendered() -> None:
    task = LLMBatchDownloadResultsOperator(
        task_id="download", batch_id="{{ b }}", destination="/out/{{ ds }}.jsonl", llmbatch_conn_id="{{ c }}"
    )
    task.render_template_fields({"b": "batch_9", "ds": "2026-11-24", "c": "nightly"})  # type: ignore[typeddict-item, typeddict-unknown-key]
    assert (task.batch_id, task.destination, task.llmbatch_conn_id) == ("batch_9", "/out/2026-11-24.jsonl", "nightly")
