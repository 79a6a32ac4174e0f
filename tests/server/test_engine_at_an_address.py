"""The batch server, a process of its own, in front of an engine at an address: no line is lost, and none is asked twice
without need."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from support.adapter_contract import until_ended
from support.batches import adapter_of, begun, body_of, chats, ended, landed
from support.engine_server import EngineServer, Reply, engine_server, free_port
from support.server import running_server

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

ENGINE_KEY = "sk-engine-0123456789"


def until(condition: Callable[[], object]) -> None:
    give_up = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up, "it did not happen"
        time.sleep(0.01)


ANSWERED: list[tuple[str, dict[str, object], dict[str, object]]] = [
    (
        "/v1/chat/completions",
        chats(1)[0],
        {"choices": [{"message": {"role": "assistant", "content": "word-0"}}]},
    ),
    ("/v1/embeddings", {"model": "m", "input": "word"}, {"data": [{"index": 0, "embedding": [0.5]}]}),
    (
        "/v1/responses",
        {"model": "m", "input": "word"},
        {"output": [{"type": "message", "content": [{"type": "output_text", "text": "word"}]}]},
    ),
]


def test_every_endpoint_of_the_engine_gets_a_batch_api(tmp_path: Path) -> None:
    with (
        engine_server() as engine,
        running_server(tmp_path, engine=engine.url) as server,
        adapter_of(server) as adapter,
    ):
        for endpoint, body, answered in ANSWERED:
            batch, results = ended(adapter, [body], endpoint=endpoint)
            assert (batch.status, batch.model, batch.request_counts.completed) == ("completed", "m", 1)
            assert answered.items() <= body_of(results["r0"]).items()
        assert engine.paths == [endpoint for endpoint, _, _ in ANSWERED]


def test_concurrency_is_reached_and_bounds_all_batches_together(tmp_path: Path) -> None:
    with (
        engine_server(seconds=0.1) as engine,
        running_server(tmp_path, engine=engine.url, extra_args=("--concurrency", "5")) as server,
        adapter_of(server) as adapter,
    ):
        batches = [begun(adapter, chats(20, word=word)) for word in ("a", "b", "c")]
        assert [until_ended(adapter, batch.id).request_counts.completed for batch in batches] == [20, 20, 20]
        assert engine.most_under_way == 5
        assert set(engine.asked.values()) == {1}


def test_what_fails_for_good_stands_in_the_error_file_in_the_engines_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLMBATCH_ENGINE_API_KEY", ENGINE_KEY)
    arguments = ("--concurrency", "1", "--engine-attempts", "2")
    with (
        engine_server() as engine,
        running_server(tmp_path, engine=engine.url, extra_args=arguments) as server,
        adapter_of(server) as adapter,
    ):
        refusal = b'{"error": {"message": "No %s.", "type": "x", "param": null, "code": "bad"}}' % ENGINE_KEY.encode()
        engine.replies.extend([Reply(400, refusal), Reply(500), Reply(500), Reply(429, headers={"Retry-After": "0"})])
        batch, results = ended(adapter, chats(3))

        assert (batch.status, batch.request_counts.completed, batch.request_counts.failed) == ("completed", 1, 2)
        assert {name: result.outcome for name, result in results.items()} == {
            "r0": "failed",
            "r1": "failed",
            "r2": "succeeded",
        }
        assert body_of(results["r0"]) == {"error": {"message": "No ***.", "type": "x", "param": None, "code": "bad"}}
        assert body_of(results["r1"])["error"] == {"message": "as told", "type": "test", "param": None, "code": "told"}
        assert engine.asked == {"word-0": 1, "word-1": 2, "word-2": 2}
        assert engine.keys == {f"Bearer {ENGINE_KEY}"}
        kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert ENGINE_KEY.encode() not in kept
    assert ENGINE_KEY not in "".join(capfd.readouterr())


def test_an_engine_that_is_down_when_the_batch_begins_is_waited_for(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    with running_server(tmp_path, engine=f"http://127.0.0.1:{port}/v1") as server, adapter_of(server) as adapter:
        batch = begun(adapter, chats(40))
        until(lambda: adapter.retrieve_batch(batch.id).status == "in_progress")
        time.sleep(0.5)
        assert adapter.retrieve_batch(batch.id).request_counts.done == 0
        with engine_server(port=port) as engine:
            assert until_ended(adapter, batch.id).request_counts.completed == 40
            assert set(engine.asked.values()) == {1}
    said = capfd.readouterr().err
    assert said.count("cannot be reached") == 1
    assert said.count("is back after") == 1


def test_an_engine_that_goes_down_in_the_middle_costs_no_line(tmp_path: Path) -> None:
    port = free_port()
    with (
        running_server(tmp_path, engine=f"http://127.0.0.1:{port}/v1", extra_args=("--concurrency", "4")) as server,
        adapter_of(server) as adapter,
    ):
        with engine_server(port=port, seconds=0.1) as before:
            batch = begun(adapter, chats(30))
            until(lambda: before.asked.total() > 8)
        with engine_server(port=port) as after:
            assert until_ended(adapter, batch.id).request_counts.completed == 30
    assert set(before.asked) | set(after.asked) == {f"word-{i}" for i in range(30)}
    assert (before.asked + after.asked).total() <= 30 + 4


def test_a_batch_expires_when_the_engine_never_comes(tmp_path: Path) -> None:
    address = f"http://127.0.0.1:{free_port()}/v1"
    arguments = ("--completion-window-seconds", "1.5")
    with running_server(tmp_path, engine=address, extra_args=arguments) as server, adapter_of(server) as adapter:
        batch, results = ended(adapter, chats(30))
        assert batch.status == "expired"
        assert {result.outcome for result in results.values()} == {"expired"}
        assert len(results) == 30


def test_a_batch_that_waits_for_its_engine_can_be_cancelled(tmp_path: Path) -> None:
    address = f"http://127.0.0.1:{free_port()}/v1"
    with running_server(tmp_path, engine=address) as server, adapter_of(server) as adapter:
        batch = begun(adapter, chats(30))
        until(lambda: adapter.retrieve_batch(batch.id).status == "in_progress")
        adapter.cancel_batch(batch.id)
        batch, results = landed(adapter, batch)
        assert batch.status == "cancelled"
        assert [result.outcome for result in results.values()] == ["cancelled"] * 30


def test_after_a_kill_only_what_was_in_flight_is_asked_again(tmp_path: Path) -> None:
    with engine_server(seconds=0.1) as engine:
        arguments = ("--concurrency", "4")
        with running_server(tmp_path, engine=engine.url, extra_args=arguments) as server, adapter_of(server) as adapter:
            batch = begun(adapter, chats(40))
            until(lambda: engine.asked.total() > 12)
        before = engine.asked.total()  # leaving the block killed it
        assert before < 40
        with running_server(tmp_path, engine=engine.url, extra_args=arguments) as server, adapter_of(server) as adapter:
            batch, results = landed(adapter, batch)
    assert (batch.status, batch.request_counts.completed, len(results)) == ("completed", 40, 40)
    assert_each_asked(engine, 40, twice_at_most=4)


def assert_each_asked(engine: EngineServer, count: int, *, twice_at_most: int) -> None:
    assert set(engine.asked) == {f"word-{i}" for i in range(count)}
    assert set(engine.asked.values()) <= {1, 2}
    assert engine.asked.total() - count <= twice_at_most
