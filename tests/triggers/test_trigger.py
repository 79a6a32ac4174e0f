"""The trigger under asyncio, against the batch server and the proxy that breaks things in front of it."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from structlog.testing import capture_logs
from support.fault_proxy import Answer, Delay, FaultProxy, fault_proxy
from support.gated_server import GatedServer, gated_server
from support.server import running_server
from support.task import adapters_closed, connect

from airflow_provider_llmbatch.hooks.batch import LLMBatchHook
from airflow_provider_llmbatch.triggers.batch import LLMBatchTrigger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airflow.sdk import Connection
    from airflow.triggers.base import BaseTrigger
    from support.server import RunningServer

    from airflow_provider_llmbatch.adapters.base import Adapter

FAR = 4_000_000_000.0
WRONG_KEY = "sk-wrong-0987654321"


def requests(count: int) -> bytes:
    body = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}
    lines = (
        {"custom_id": f"r-{n}", "method": "POST", "url": "/v1/chat/completions", "body": body} for n in range(count)
    )
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def new_batch(count: int = 1) -> str:
    hook = LLMBatchHook()
    return hook.create_batch(hook.create_file(requests(count)).id).id


def status_of(server: GatedServer, batch_id: str, monkeypatch: pytest.MonkeyPatch) -> str:
    connect(monkeypatch, server.url, server.api_key)
    return LLMBatchHook().retrieve_batch(batch_id).status


def completed_batch() -> str:
    hook, batch_id = LLMBatchHook(), new_batch()
    for _ in range(200):
        if hook.retrieve_batch(batch_id).is_terminal:
            return batch_id
        time.sleep(0.02)
    raise AssertionError(f"{batch_id} did not end")


def trigger_of(batch_id: str, *, deadline: float = FAR) -> LLMBatchTrigger:
    return LLMBatchTrigger("llmbatch_default", batch_id, deadline, min_poll_interval=0.05, max_poll_interval=0.1)


async def fired(trigger: BaseTrigger) -> list[object]:
    """All that a trigger fires, as what the database keeps of it."""
    async with asyncio.timeout(20):
        return [json.loads(json.dumps(event.payload)) async for event in trigger.run()]


async def until(asked: FaultProxy, calls: int) -> None:
    while len(asked.calls("GET", "/batches/")) < calls:  # noqa: ASYNC110 - the proxy has an event loop of its own
        await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def closed_adapters(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with adapters_closed(monkeypatch):
        yield


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GatedServer]:
    with gated_server(tmp_path / "gated") as server:
        yield server


@pytest.fixture
def proxy(server: GatedServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """In front of the server, and what the connection leads to."""
    with fault_proxy(server.url) as proxy:
        connect(monkeypatch, proxy.url, server.api_key)
        yield proxy


def test_it_fires_once_when_the_batch_has_ended_and_logs_each_change_once(
    server: GatedServer, proxy: FaultProxy
) -> None:
    async def two_steps(batch_id: str) -> list[object]:
        firing = asyncio.create_task(fired(trigger_of(batch_id)))
        await until(proxy, 4)
        server.let_pass(1)
        await asyncio.sleep(0.3)  # several looks that see nothing new
        server.let_pass(1)
        return await firing

    batch_id = new_batch(2)
    with capture_logs() as lines:
        events = asyncio.run(two_steps(batch_id))
    assert events == [{"status": "ended", "batch_id": batch_id, "deadline": FAR, "error": None}]
    progress = [str(line["event"]) for line in lines if "/2 done" in str(line["event"])]
    assert len(progress) == len(set(progress))
    assert [next(line for line in progress if f" {done}/2 done, 0 failed" in line) for done in range(3)] == progress[:3]
    assert len(progress) <= 4  # finalizing may have been seen
    assert len(proxy.calls("GET", "/batches/")) > len(progress)


def test_at_the_deadline_it_says_so_and_cancels_nothing(
    server: GatedServer, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id, deadline = new_batch(), time.time() + 0.3
    events = asyncio.run(fired(trigger_of(batch_id, deadline=deadline)))
    assert events == [{"status": "out_of_time", "batch_id": batch_id, "deadline": deadline, "error": None}]
    assert time.time() >= deadline
    assert proxy.calls("POST", "/cancel$") == []
    assert status_of(server, batch_id, monkeypatch) == "in_progress"


def test_a_deadline_that_passed_while_no_triggerer_ran_still_gives_a_batch_that_ended(proxy: FaultProxy) -> None:
    batch_id = new_batch()
    proxy.rule("GET", "/batches/", Answer(200, json.dumps({"id": batch_id, "status": "completed"}).encode()))
    events = asyncio.run(fired(trigger_of(batch_id, deadline=1.0)))
    assert events == [{"status": "ended", "batch_id": batch_id, "deadline": 1.0, "error": None}]


def test_a_wrong_key_is_given_up_after_three_refusals_and_nothing_is_cancelled(
    server: GatedServer, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = new_batch()
    connect(monkeypatch, proxy.url, WRONG_KEY)
    [event] = asyncio.run(fired(trigger_of(batch_id)))
    assert isinstance(event, dict)
    error = event.pop("error")
    assert event == {"status": "given_up", "batch_id": batch_id, "deadline": FAR}
    assert f"was asked to look up the batch {batch_id} and answered 401 invalid_api_key" in error
    assert WRONG_KEY not in error
    assert len(proxy.calls("GET", f"/batches/{batch_id}$")) == 3
    assert proxy.calls("POST", "/cancel$") == []
    assert status_of(server, batch_id, monkeypatch) == "in_progress"


def test_a_key_that_is_rotated_while_it_waits_is_picked_up(
    server: GatedServer, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = new_batch()
    server.let_pass(1)
    connect(monkeypatch, proxy.url, WRONG_KEY)

    async def rotated() -> list[object]:
        firing = asyncio.create_task(fired(trigger_of(batch_id)))
        await until(proxy, 1)
        connect(monkeypatch, proxy.url, server.api_key)
        return await firing

    assert asyncio.run(rotated()) == [{"status": "ended", "batch_id": batch_id, "deadline": FAR, "error": None}]
    keys = [call.headers["authorization"].removeprefix("Bearer ") for call in proxy.calls("GET", "/batches/")]
    assert WRONG_KEY in keys
    assert keys[-1] == server.api_key


def test_a_connection_that_was_deleted_is_given_up_at_once(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_LLMBATCH_DEFAULT")
    [event] = asyncio.run(fired(trigger_of("batch_1")))
    assert event == {
        "status": "given_up",
        "batch_id": "batch_1",
        "deadline": FAR,
        "error": "The connection 'llmbatch_default' does not exist any more, so its batch cannot be looked at. The "
        "batch goes on at the provider. Add the connection again and clear the task, which then waits on.",
    }
    assert proxy.requests == []


def test_a_server_that_goes_down_and_comes_back_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_server(tmp_path / "data") as server:
        connect(monkeypatch, server.url, server.api_key)
        batch_id, port = completed_batch(), str(urlsplit(server.url).port)

    async def outage() -> list[object]:
        firing = asyncio.create_task(fired(trigger_of(batch_id)))
        await asyncio.sleep(0.3)
        assert not firing.done()
        again = running_server(tmp_path / "data", extra_args=("--port", port))
        await asyncio.to_thread(again.__enter__)
        try:
            return await firing
        finally:
            await asyncio.to_thread(again.__exit__, None, None, None)

    with capture_logs() as lines:
        events = asyncio.run(outage())
    assert events == [{"status": "ended", "batch_id": batch_id, "deadline": FAR, "error": None}]
    told = [line["event"] for line in lines if line["log_level"] == "warning"]
    assert len(told) == 1
    assert told[0].endswith(
        "A retry may succeed. The batch goes on at the provider; looking again, with growing pauses, until the "
        "deadline."
    )


def test_its_sockets_are_closed_when_it_is_cancelled(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Adapter] = []
    make = LLMBatchHook.adapter_of

    def remembered(connection: Connection, *, looking: bool = False) -> Adapter:
        made.append(make(connection, looking=looking))
        return made[-1]

    batch_id = new_batch()
    monkeypatch.setattr(LLMBatchHook, "adapter_of", staticmethod(remembered))

    async def cancelled() -> list[bool]:
        firing = asyncio.create_task(fired(trigger_of(batch_id)))
        await until(proxy, 2)
        open_before = made[0]._http._client.is_closed  # type: ignore[attr-defined]
        firing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await firing
        return [open_before, made[0]._http._client.is_closed]  # type: ignore[attr-defined]

    assert asyncio.run(cancelled()) == [False, True]
    assert len(made) == 1


def test_twenty_waits_on_a_server_that_answers_after_two_seconds_leave_the_event_loop_free(
    echo_server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def longest_lag(triggers: list[LLMBatchTrigger]) -> tuple[float, list[list[object]]]:
        longest = 0.0

        async def pulse() -> None:
            nonlocal longest
            while True:
                due = time.monotonic() + 0.005
                await asyncio.sleep(0.005)
                longest = max(longest, time.monotonic() - due)

        pulsing = asyncio.create_task(pulse())
        events = await asyncio.gather(*map(fired, triggers))
        pulsing.cancel()
        return longest, events

    connect(monkeypatch, echo_server.url, echo_server.api_key)
    batch_id = completed_batch()
    with fault_proxy(echo_server.url) as slow:
        slow.rule("GET", "/batches/", Delay(2.0), times=None)
        connect(monkeypatch, slow.url, echo_server.api_key)
        # Another process may take the processor from any round; a loop that is blocked lags two seconds in each.
        for _ in range(6):
            lag, events = asyncio.run(longest_lag([trigger_of(batch_id) for _ in range(20)]))
            assert events == [[{"status": "ended", "batch_id": batch_id, "deadline": FAR, "error": None}]] * 20
            if lag < 0.05:
                break
    assert lag < 0.05


def test_it_serializes_to_plain_json_without_a_secret_and_back_to_itself(
    server: GatedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(monkeypatch, server.url, server.api_key)
    name, kwargs = LLMBatchTrigger("nightly", "batch_1", 1_800_000_000.5, 1.0, 2.0, cancel_on_kill=True).serialize()
    assert (name, json.loads(json.dumps(kwargs))) == (
        "airflow_provider_llmbatch.triggers.batch.LLMBatchTrigger",
        {
            "llmbatch_conn_id": "nightly",
            "batch_id": "batch_1",
            "deadline": 1_800_000_000.5,
            "min_poll_interval": 1.0,
            "max_poll_interval": 2.0,
            "cancel_on_kill": True,
        },
    )
    assert LLMBatchTrigger(**kwargs).serialize() == (name, kwargs)  # type: ignore[arg-type] # as Airflow makes it
