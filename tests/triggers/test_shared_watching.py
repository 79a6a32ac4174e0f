"""Many triggers on one connection: few calls at each provider, one end each; real servers, real connections."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from support.fault_proxy import Answer, FaultProxy, fault_proxy
from support.task import adapters_closed
from support.vertex import BUCKET

from airflow_provider_llmbatch.hooks.batch import LLMBatchHook
from airflow_provider_llmbatch.triggers.batch import LLMBatchTrigger
from airflow_provider_llmbatch.triggers.run import LLMBatchRunTrigger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow.triggers.base import BaseTrigger
    from support.gcs import RunningStorage

FAR = 4_000_000_000.0
LIST = r"/(batches|batchPredictionJobs)(\?|$)"
SINGLE = r"/(batches|batchPredictionJobs)/[^/?]+(\?|$)"


@pytest.fixture(params=["openai", "azure", "vertex"])
def proxy(request: pytest.FixtureRequest, gcs: RunningStorage, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """In front of a server with each face; the default connection leads through it."""
    face: str = request.param
    server = request.getfixturevalue({"openai": "echo_server"}.get(face, f"{face}_server"))
    with ExitStack() as stack:
        stack.enter_context(adapters_closed(monkeypatch))
        proxy = stack.enter_context(fault_proxy(server.url))
        connection: dict[str, Any] = {"conn_type": f"llmbatch_{face}", "host": proxy.url, "password": server.api_key}
        if face == "vertex":
            connection["extra"] = {
                "project": "analytics",
                "location": "us-central1",
                "bucket": f"gs://{BUCKET}/watching",
                "keyfile_path": str(server.data_dir / "service-account.json"),
                "storage_url": gcs.url,
            }
        monkeypatch.setenv("AIRFLOW_CONN_LLMBATCH_DEFAULT", json.dumps(connection))
        yield proxy


def ended_batches(count: int) -> list[str]:
    hook = LLMBatchHook()
    body = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    file_id = hook.create_file(json.dumps(line).encode() + b"\n").id
    batch_ids = [hook.create_batch(file_id).id for _ in range(count)]
    deadline = time.monotonic() + 20
    while not all(hook.retrieve_batch(batch_id).is_terminal for batch_id in batch_ids):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return batch_ids


async def fired(trigger: BaseTrigger) -> list[Any]:
    async with asyncio.timeout(20):
        return [event.payload async for event in trigger.run()]


async def all_fired(triggers: list[LLMBatchTrigger | LLMBatchRunTrigger]) -> list[list[Any]]:
    return await asyncio.gather(*map(fired, triggers))


def test_one_call_of_the_list_serves_all_triggers(proxy: FaultProxy) -> None:
    batch_ids = ended_batches(8)
    asked_before = len(proxy.requests)
    triggers = [LLMBatchTrigger("llmbatch_default", batch_id, FAR, 1.0, 2.0) for batch_id in batch_ids[:5]]
    run = LLMBatchRunTrigger("llmbatch_default", batch_ids[3:], FAR, min_poll_interval=1.0, max_poll_interval=2.0)
    events = asyncio.run(all_fired([*triggers, run]))
    assert [event["status"] for [event] in events] == ["ended"] * 6
    assert [event["batch_id"] for [event] in events[:5]] == batch_ids[:5]
    asked = [request for request in proxy.requests[asked_before:] if request.method == "GET"]
    assert len([request for request in asked if "/batch" in request.path]) == len(proxy.calls("GET", LIST)) == 1


def test_a_provider_whose_list_is_refused_is_asked_for_each_batch(proxy: FaultProxy) -> None:
    batch_ids = ended_batches(5)
    asked_before = len(proxy.calls("GET", SINGLE))
    proxy.rule("GET", LIST, Answer(403, b'{"error": {"code": 403, "message": "no list for you"}}'), times=None)
    triggers = [LLMBatchTrigger("llmbatch_default", batch_id, FAR, 0.2, 0.4) for batch_id in batch_ids]
    events = asyncio.run(all_fired(list(triggers)))
    assert [event["status"] for [event] in events] == ["ended"] * 5
    assert (len(proxy.calls("GET", LIST)), len(proxy.calls("GET", SINGLE)) - asked_before) == (1, 5)
