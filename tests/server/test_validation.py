"""What is wrong with an input, in OpenAI's codes and with line numbers: the batch fails, and nothing is asked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from support.batch_server import CHAT, Client, ScriptedEngine, Serve, chat_line, chats, jsonl

from airflow_provider_llmbatch.server.dialect import Dialect
from airflow_provider_llmbatch.server.validation import validate

if TYPE_CHECKING:
    from pathlib import Path

_GOOD = chats("a")


def _body(**more: object) -> dict[str, object]:
    return {"model": "echo", "messages": [], **more}


@pytest.mark.parametrize(
    ("content", "found"),
    [
        pytest.param(b"", [("empty_file", None, None)], id="nothing"),
        pytest.param(_GOOD + b"not json\n", [("invalid_json_line", 2, None)], id="no JSON"),
        pytest.param(_GOOD + b"\n" + chats("b"), [("invalid_json_line", 2, None)], id="blank line"),
        pytest.param(_GOOD + b"\n", [("invalid_json_line", 2, None)], id="blank line at the end"),
        pytest.param(_GOOD + chats("b")[:30], [("invalid_json_line", 2, None)], id="half line at the end"),
        pytest.param(b"\xef\xbb\xbf" + _GOOD, [("invalid_json_line", 1, None)], id="byte order mark"),
        pytest.param(_GOOD.replace(b"hello", b"h\xe4llo"), [("invalid_json_line", 1, None)], id="Latin-1"),
        pytest.param(
            _GOOD.decode().encode("utf-16"),
            [("invalid_json_line", 1, None), ("invalid_json_line", 2, None)],
            id="UTF-16",
        ),
        pytest.param(
            _GOOD + b"[" * 100_000 + b"\n" + chats("a"),
            [("invalid_json_line", 2, None), ("duplicate_custom_id", 3, "custom_id")],
            id="nested without end",
        ),
        pytest.param(_GOOD + b"[1, 2\n", [("invalid_json_line", 2, None)], id="list that is cut off"),
        pytest.param(_GOOD + b"[1, 2]\n", [("invalid_request", 2, None)], id="list"),
        pytest.param(_GOOD + b'"text"\n', [("invalid_request", 2, None)], id="text"),
        pytest.param(_GOOD + b"null\n", [("invalid_request", 2, None)], id="null"),
        pytest.param(jsonl([chat_line("a", body=[])]), [("invalid_request", 1, None)], id="body is a list"),
        pytest.param(jsonl([{**chat_line("a"), "custom_id": 7}]), [("invalid_request", 1, None)], id="numeric id"),
        pytest.param(jsonl([chat_line("")]), [("invalid_request", 1, "custom_id")], id="empty id"),
        pytest.param(
            chats("a", "b", "a", "a"),
            [("duplicate_custom_id", 3, "custom_id"), ("duplicate_custom_id", 4, "custom_id")],
            id="same id",
        ),
        pytest.param(jsonl([chat_line("a", url="/v1/embeddings")]), [("url_mismatch", 1, "url")], id="other url"),
        pytest.param(jsonl([chat_line("a", method="GET")]), [("invalid_method", 1, "method")], id="GET"),
        pytest.param(
            _GOOD + jsonl([chat_line("b", body=_body(model="other")), chat_line("c", body={"messages": []})]),
            [("model_mismatch", 2, "body.model"), ("model_mismatch", 3, "body.model")],
            id="other model",
        ),
        pytest.param(
            jsonl([chat_line("a", body=_body(stream=True))]), [("invalid_request", 1, "body.stream")], id="stream"
        ),
        pytest.param(
            jsonl([{}]),
            [("missing_required_parameter", 1, name) for name in ("custom_id", "method", "url", "body")],
            id="empty object",
        ),
    ],
)
def test_a_batch_fails_with_the_code_and_the_line_of_all_that_is_wrong(
    client: Client, content: bytes, found: list[tuple[str, int | None, str | None]]
) -> None:
    batch = client.run(content)
    assert batch["status"] == "failed"
    errors = batch["errors"]["data"]
    assert [(error["code"], error["line"], error["param"]) for error in errors] == found
    assert batch["errors"]["object"] == "list"
    assert all(error["message"] for error in errors)
    assert batch["created_at"] <= batch["failed_at"]
    unset = ("in_progress_at", "finalizing_at", "completed_at", "output_file_id", "error_file_id", "usage")
    assert [batch[name] for name in unset] == [None] * len(unset)
    assert batch["request_counts"] == {"total": 0, "completed": 0, "failed": 0}


def test_what_cannot_be_seen_in_a_line_is_said(client: Client) -> None:
    [bom] = client.run(b"\xef\xbb\xbf" + _GOOD)["errors"]["data"]
    [blank] = client.run(_GOOD + b" \n")["errors"]["data"]
    assert "byte order mark" in bom["message"]
    assert "blank" in blank["message"]


def test_a_last_line_without_a_line_end_is_a_line(client: Client) -> None:
    batch = client.run(chats("a", "b").rstrip())
    assert batch["request_counts"] == {"total": 2, "completed": 2, "failed": 0}


def test_a_batch_with_too_many_requests_fails_before_the_first_is_asked(serve: Serve) -> None:
    engine = ScriptedEngine()
    client = serve(engine, dialect=Dialect(max_requests=3))
    assert client.run(chats("a", "b", "c"))["status"] == "completed"
    refused = client.run(chats("d", "e", "f", "g"))
    assert (refused["status"], [error["code"] for error in refused["errors"]["data"]]) == ("failed", ["too_many_tasks"])
    assert sorted(engine.asked) == ["a", "b", "c"]


def test_by_default_a_batch_may_have_fifty_thousand_requests(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(jsonl(chat_line(str(n)) for n in range(50_000)))
    assert validate(path, endpoint=CHAT) == (50_000, "echo", [])
    with path.open("ab") as stream:
        stream.write(chats("one more"))
    _, _, errors = validate(path, endpoint=CHAT)
    assert [error.code for error in errors] == ["too_many_tasks"]


@pytest.mark.parametrize(
    ("inputs", "codes"),
    [
        (["one", ["two", "three"], [1, 2, 3, 4]], []),
        (["one", ["two", "three"], [[1, 2], [3]]], [("too_many_tasks", 3)]),
        ([["1", "2", "3", "4", "5"], "six"], [("too_many_tasks", 1)]),
        ([{"no": "text"}, None], []),
    ],
)
def test_the_texts_of_an_embeddings_batch_are_counted_over_all_its_requests(
    tmp_path: Path, inputs: list[Any], codes: list[tuple[str, int]]
) -> None:
    path = tmp_path / "in.jsonl"
    line = {"method": "POST", "url": "/v1/embeddings"}
    path.write_bytes(jsonl({**line, "custom_id": str(n), "body": {"input": each}} for n, each in enumerate(inputs)))
    _, _, errors = validate(path, endpoint="/v1/embeddings", dialect=Dialect(max_requests=4))
    assert [(error.code, error.line) for error in errors] == codes


def test_no_more_than_a_hundred_findings_are_kept(client: Client) -> None:
    batch = client.run(b"{}\n" * 60)
    assert len(batch["errors"]["data"]) == 100


def test_a_model_that_the_engine_does_not_serve_fails_each_line_and_asks_nothing(serve: Serve) -> None:
    engine = ScriptedEngine(model="smollm2")
    batch = (client := serve(engine)).run(chats("a", "b"))
    assert (batch["status"], batch["output_file_id"]) == ("completed", None)
    assert batch["request_counts"] == {"total": 2, "completed": 0, "failed": 2}
    lines = client.lines(batch["error_file_id"])
    assert [(line["response"]["status_code"], line["error"]) for line in lines] == [(404, None)] * 2
    assert {line["response"]["body"]["error"]["code"] for line in lines} == {"model_not_found"}
    assert engine.asked == []


def test_the_input_is_not_looked_at_before_a_batch_is_made_of_it(client: Client) -> None:
    assert client.upload(json.dumps(["no", "batch"]).encode()).json()["status"] == "processed"
