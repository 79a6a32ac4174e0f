"""From created to ended: statuses, times, counts, and which line stands in which file."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from support.batch_server import CHAT, Client, ScriptedEngine, Serve, chat_line, chats, jsonl

from airflow_provider_llmbatch.server import run
from airflow_provider_llmbatch.server.answers import Answers
from airflow_provider_llmbatch.server.engines.base import Answer, refusal

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_USED = (
    b'{"usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10, "prompt_tokens_details":'
    b' {"cached_tokens": 2}, "completion_tokens_details": {"reasoning_tokens": 1}}}'
)


def _answer(custom_id: str) -> Answer:
    return refusal(429, "rate_limit_exceeded", "Slow down.") if "bad" in custom_id else Answer(200, _USED)


def _ids(lines: Iterable[dict[str, Any]]) -> list[str]:
    return sorted(line["custom_id"] for line in lines)


def _wait_for(engine: ScriptedEngine, requests: int) -> None:
    deadline = time.monotonic() + 20
    while len(engine.asked) < requests:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_batch_is_shown_on_its_way_and_at_its_end(serve: Serve) -> None:
    engine = ScriptedEngine(_answer)
    engine.closed.set()
    client = serve(engine, completion_window=3600.0)
    created = client.batch(chats("a", "b", "bad"), metadata={"team": "search"})
    _wait_for(engine, 3)
    running = client.now(created)
    engine.closed.clear()
    ended = client.ended(created)

    never = dict.fromkeys(("errors", "failed_at", "expired_at", "cancelling_at", "cancelled_at"))
    assert created == {
        "id": created["id"],
        "object": "batch",
        "status": "validating",
        "endpoint": CHAT,
        "input_file_id": created["input_file_id"],
        "completion_window": "24h",
        "model": None,
        "output_file_id": None,
        "error_file_id": None,
        "created_at": created["created_at"],
        "in_progress_at": None,
        "expires_at": created["created_at"] + 3600,
        "finalizing_at": None,
        "completed_at": None,
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
        "usage": None,
        "metadata": {"team": "search"},
        **never,
    }
    assert running == {
        **created,
        "status": "in_progress",
        "model": "echo",
        "in_progress_at": running["in_progress_at"],
        "request_counts": {"total": 3, "completed": 0, "failed": 0},
    }
    assert ended == {
        **running,
        "status": "completed",
        "output_file_id": ended["output_file_id"],
        "error_file_id": ended["error_file_id"],
        "finalizing_at": ended["finalizing_at"],
        "completed_at": ended["completed_at"],
        "request_counts": {"total": 3, "completed": 2, "failed": 1},
        "usage": {
            "input_tokens": 14,
            "input_tokens_details": {"cached_tokens": 4},
            "output_tokens": 6,
            "output_tokens_details": {"reasoning_tokens": 2},
            "total_tokens": 20,
        },
    }
    in_order = ["created_at", "in_progress_at", "finalizing_at", "completed_at", "expires_at"]
    assert [ended[name] for name in in_order] == sorted(ended[name] for name in in_order)
    assert _ids(client.lines(ended["output_file_id"])) == ["a", "b"]
    [bad] = client.lines(ended["error_file_id"])
    assert bad == {
        "id": bad["id"],
        "custom_id": "bad",
        "response": {
            "status_code": 429,
            "request_id": bad["response"]["request_id"],
            "body": {
                "error": {
                    "message": "Slow down.",
                    "type": "invalid_request_error",
                    "param": None,
                    "code": "rate_limit_exceeded",
                }
            },
        },
        "error": None,
    }
    assert bad["id"].startswith("batch_req_")


@pytest.mark.parametrize(
    ("custom_ids", "files"), [(("a", "b"), (True, False)), (("bad 1", "bad 2"), (False, True))], ids=["all", "none"]
)
def test_a_result_file_without_lines_is_none(
    serve: Serve, custom_ids: tuple[str, ...], files: tuple[bool, bool]
) -> None:
    batch = (client := serve(ScriptedEngine(_answer))).run(chats(*custom_ids))
    assert batch["status"] == "completed"
    assert (batch["output_file_id"] is not None, batch["error_file_id"] is not None) == files
    listed = client.http.get("/files", params={"purpose": "batch_output"}).json()["data"]
    assert [file["id"] for file in listed] == [batch["output_file_id"] or batch["error_file_id"]]


def test_what_had_not_begun_when_the_window_closes_has_expired(serve: Serve) -> None:
    engine = ScriptedEngine()
    engine.closed.set()
    client = serve(engine, completion_window=1.0, concurrency=2)
    batch = client.batch(chats("a", "b", "c", "d", "e"))
    _wait_for(engine, 2)
    time.sleep(max(0.0, batch["expires_at"] - time.time()))
    engine.closed.clear()
    batch = client.ended(batch)
    assert batch["status"] == "expired"
    assert batch["created_at"] <= batch["in_progress_at"] <= batch["expires_at"] <= batch["expired_at"]
    assert (batch["completed_at"], batch["cancelled_at"], batch["errors"]) == (None, None, None)
    assert batch["request_counts"] == {"total": 5, "completed": 2, "failed": 0}
    assert _ids(client.lines(batch["output_file_id"])) == sorted(engine.asked)
    expired = client.lines(batch["error_file_id"])
    assert sorted(_ids(expired) + engine.asked) == ["a", "b", "c", "d", "e"]
    message = "This request could not be executed before the completion window expired."
    for line in expired:
        assert line["response"] is None
        assert line["error"] == {"code": "batch_expired", "message": message}


def test_a_cancelled_batch_waits_for_what_is_in_flight_and_begins_no_more(serve: Serve) -> None:
    engine = ScriptedEngine(_answer)
    engine.closed.set()
    client = serve(engine, concurrency=2)
    batch = client.batch(chats("a", "bad", "c", "d"))
    _wait_for(engine, 2)
    cancelling = client.cancel(batch).json()
    again = client.cancel(batch)
    assert (again.status_code, again.json()) == (200, cancelling)
    assert client.now(batch) == cancelling
    engine.closed.clear()
    cancelled = client.ended(batch)
    assert (cancelling["status"], cancelled["status"]) == ("cancelling", "cancelled")
    assert cancelled["in_progress_at"] <= cancelled["cancelling_at"] <= cancelled["cancelled_at"]
    assert (cancelled["finalizing_at"], cancelled["completed_at"]) == (None, None)
    assert cancelled["request_counts"] == {"total": 4, "completed": 1, "failed": 1}
    assert cancelled["usage"]["total_tokens"] == 10
    assert _ids(client.lines(cancelled["output_file_id"])) == ["a"]
    lines = client.lines(cancelled["error_file_id"])
    errors = {line["custom_id"]: line["error"] and line["error"]["code"] for line in lines}
    assert errors == {"bad": None, "c": "batch_cancelled", "d": "batch_cancelled"}
    assert engine.asked == ["a", "bad"]


def test_a_cancel_does_not_wait_for_a_place_that_another_batch_has(serve: Serve) -> None:
    engine = ScriptedEngine()
    engine.closed.set()
    client = serve(engine, concurrency=1)
    first = client.batch(chats("first"))
    _wait_for(engine, 1)
    second = client.until(client.batch(chats("second")), "in_progress")
    client.cancel(second)
    assert client.until(second, "cancelled", seconds=5)["request_counts"]["completed"] == 0
    engine.closed.clear()
    assert client.ended(first)["status"] == "completed"
    assert engine.asked == ["first"]


def test_batches_share_the_places_evenly(serve: Serve) -> None:
    engine = ScriptedEngine()
    engine.closed.set()
    client = serve(engine, concurrency=1)
    batches = [client.batch(chats(*(f"{name}{n}" for n in range(20)))) for name in "xy"]
    _wait_for(engine, 1)
    client.until(batches[1], "in_progress")
    engine.closed.clear()
    for batch in batches:
        client.ended(batch)
    assert {name[0] for name in engine.asked[1:7]} == {"x", "y"}


@pytest.mark.parametrize("content", [chats("a", "b"), b"not json\n"], ids=["good", "bad"])
def test_a_batch_cancelled_while_it_is_checked_asks_for_nothing(
    serve: Serve, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked, may_go_on = run.validate, threading.Event()

    def slowly(*given: Any, **more: Any) -> Any:
        may_go_on.wait(20)
        return checked(*given, **more)

    monkeypatch.setattr(run, "validate", slowly)
    client = serve(engine := ScriptedEngine())
    batch = client.batch(content)
    cancelling = client.cancel(batch).json()
    assert cancelling["status"] == "cancelling"
    may_go_on.set()
    batch = client.ended(batch)
    assert engine.asked == []
    assert batch["in_progress_at"] is None
    if content.startswith(b"{"):
        assert batch["status"] == "cancelled"
        assert batch["request_counts"] == {"total": 2, "completed": 0, "failed": 0}
        lines = client.lines(batch["error_file_id"])
        assert [(line["custom_id"], line["error"]["code"]) for line in lines] == [
            ("a", "batch_cancelled"),
            ("b", "batch_cancelled"),
        ]
    else:
        assert (batch["status"], batch["errors"]["data"][0]["code"]) == ("failed", "invalid_json_line")


@pytest.mark.parametrize("content", [chats("a"), b""], ids=["completed", "failed"])
def test_a_batch_that_has_ended_cannot_be_cancelled(client: Client, content: bytes) -> None:
    batch = client.run(content)
    refused = client.cancel(batch)
    assert refused.status_code == 409
    assert refused.json()["error"]["message"] == f"Cannot cancel a batch with status '{batch['status']}'."
    assert client.now(batch) == batch


def test_a_batch_whose_input_is_deleted_meanwhile_goes_on_even_after_a_restart(serve: Serve, tmp_path: Path) -> None:
    engine = ScriptedEngine()
    engine.closed.set()
    client = serve(engine, concurrency=1)
    batch = client.batch(chats("a", "b", "c"))
    _wait_for(engine, 1)
    assert client.http.delete(f"/files/{batch['input_file_id']}").status_code == 200
    assert client.http.get(f"/files/{batch['input_file_id']}").status_code == 404
    client = serve()
    batch = client.ended(batch)
    assert batch["request_counts"] == {"total": 3, "completed": 3, "failed": 0}
    kept = [path.name for path in (tmp_path / "data" / "files").iterdir()]
    assert kept == [batch["output_file_id"]]  # nobody reads the input any more
    assert client.create(batch["input_file_id"]).status_code == 400


@pytest.mark.parametrize(
    ("answer", "status", "kept"),
    [
        (Answer(200, b"<html>"), 502, {"error"}),
        (Answer(200, b'{"cut": "o'), 502, {"error"}),
        (Answer(200, b'{"a": "\xff"}'), 502, {"error"}),
        (Answer(200, b"[" * 100_000), 502, {"error"}),
        (Answer(500, b"Internal Server Error"), 500, {"error"}),
        (Answer(404, b'{"error":\r\n {"code": "model_not_found"}}'), 404, {"error"}),
        (Answer(200, b'{"usage": "none",\n "choices": []}'), 200, {"usage", "choices"}),
        (Answer(200, b'{"usage": {"prompt_tokens": 1.5}}'), 200, {"usage"}),
    ],
)
def test_whatever_an_engine_answers_is_one_line_of_json(
    serve: Serve, answer: Answer, status: int, kept: set[str]
) -> None:
    batch = (client := serve(ScriptedEngine(lambda _: answer))).run(chats("a"))
    [line] = client.lines(batch["output_file_id"] or batch["error_file_id"])
    assert (line["response"]["status_code"], line["error"]) == (status, None)
    assert line["response"]["body"].keys() == kept
    assert (batch["output_file_id"] is not None) == (status == 200)


def test_an_engine_that_breaks_costs_one_request_and_not_the_batch(serve: Serve) -> None:
    def break_on(custom_id: str) -> Answer:
        if custom_id == "b":
            raise ZeroDivisionError
        return Answer(200, b"{}")

    batch = (client := serve(ScriptedEngine(break_on))).run(chats("a", "b", "c"))
    assert batch["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
    [line] = client.lines(batch["error_file_id"])
    assert (line["custom_id"], line["response"]["status_code"]) == ("b", 500)


def test_a_batch_that_stopped_for_want_of_its_disk_can_be_cancelled(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    client = serve(ScriptedEngine(), concurrency=2)
    with monkeypatch.context() as broken:
        broken.setattr(Answers, "add", full)
        batch = client.until(client.batch(chats("a", "b", "c", "d", "e")), "in_progress")
        time.sleep(0.2)
        assert client.now(batch)["status"] == "in_progress"
    assert client.cancel(batch).json()["status"] == "cancelling"
    assert client.ended(batch)["status"] == "cancelled"
    assert client.run(jsonl([chat_line("later")]))["status"] == "completed"
