"""What servers that call themselves OpenAI-compatible send instead: it costs no row, and breaks no wait."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import msgspec
import pytest
from airflow.sdk.exceptions import AirflowFailException
from structlog.testing import capture_logs
from support.fault_proxy import Answer, FaultProxy, fault_proxy
from support.task import adapters_closed, connect, context_of

from airflow_provider_llmbatch.errors import LostAnswerError, UnexpectedAnswerError
from airflow_provider_llmbatch.hooks.batch import LLMBatchHook
from airflow_provider_llmbatch.operators.batch import LLMBatchDownloadResultsOperator
from airflow_provider_llmbatch.triggers.batch import LLMBatchTrigger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pydantic import JsonValue

FAR = 4_000_000_000.0
CHAT = "/v1/chat/completions"
BODY: dict[str, JsonValue] = {"choices": [{"message": {"content": "yes"}}]}
BATCH: dict[str, JsonValue] = {
    "id": "batch_1",
    "object": "batch",
    "status": "completed",
    "endpoint": CHAT,
    "input_file_id": "in",
    "output_file_id": "out",
    "error_file_id": "err",
    "created_at": 1_700_000_000,
    "request_counts": {"total": 2, "completed": 1, "failed": 1},
}
ENDED = [{"status": "ended", "batch_id": "batch_1", "deadline": FAR, "error": None}]
PAGE = b"<!doctype html>\n<html><body>Please log in</body></html>\n"
HTML = {"Content-Type": "text/html; charset=utf-8"}


class OddServer:
    """Answers each path as a test says, the last answer for ever."""

    def __init__(self, proxy: FaultProxy) -> None:
        self._proxy = proxy
        self.calls = proxy.calls

    def answers(self, method: str, path: str, *answers: Answer | dict[str, JsonValue]) -> None:
        for number, answer in enumerate(answers, start=1):
            canned = answer if isinstance(answer, Answer) else Answer(200, json.dumps(answer).encode())
            self._proxy.rule(method, f"{path}$", canned, times=None if number == len(answers) else 1)

    def ended(self, batch: dict[str, JsonValue], *, out: bytes = b"", err: bytes = b"", ids: str = "ab") -> None:
        """A batch that ended, with its files; the input asks for one answer for each letter of ``ids``."""
        self.answers("GET", "/batches/batch_1", batch)
        requests = b"".join(line({"custom_id": i, "method": "POST", "url": CHAT, "body": {}}) for i in ids)
        for name, content in (("in", requests), ("out", out), ("err", err)):
            self.answers("GET", f"/files/{name}/content", Answer(200, content, {"Content-Type": "application/jsonl"}))
            self.answers("GET", f"/files/{name}", {"id": name, "bytes": len(content)})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OddServer]:
    monkeypatch.setattr("airflow_provider_llmbatch.adapters.http._FIRST_DELAY", 0.0)
    with adapters_closed(monkeypatch), fault_proxy() as proxy:
        connect(monkeypatch, f"{proxy.url}/v1", "sk-odd-0123456789")
        yield OddServer(proxy)


def line(content: dict[str, JsonValue]) -> bytes:
    return json.dumps(content).encode() + b"\n"


def good(custom_id: str, body: JsonValue = None) -> bytes:
    return line({"custom_id": custom_id, "response": {"status_code": 200, "request_id": "r", "body": body or BODY}})


def succeeded(custom_id: str, request_id: str | None = "r") -> dict[str, JsonValue]:
    response: JsonValue = {"status_code": 200, "request_id": request_id, "body": BODY}
    return {"custom_id": custom_id, "outcome": "succeeded", "response": response, "error": None}


def without_answer(custom_id: str, outcome: str, code: str | None, message: str | None) -> dict[str, JsonValue]:
    error: JsonValue = {"code": code, "message": message}
    return {"custom_id": custom_id, "outcome": outcome, "response": None, "error": error}


def results() -> list[dict[str, JsonValue]]:
    return [json.loads(msgspec.json.encode(result)) for result in LLMBatchHook().results("batch_1")]


def fired() -> tuple[list[object], list[str]]:
    """What the trigger fires, and what its log says meanwhile."""
    trigger = LLMBatchTrigger("llmbatch_default", "batch_1", FAR, min_poll_interval=0.01, max_poll_interval=0.02)

    async def run() -> list[object]:
        async with asyncio.timeout(20):
            return [event.payload async for event in trigger.run()]

    with capture_logs() as lines:
        events = asyncio.run(run())
    return events, [str(entry["event"]) for entry in lines]


def download(place: Path) -> None:
    task = LLMBatchDownloadResultsOperator(task_id="download", batch_id="batch_1", destination=str(place))
    task.execute(context_of(task)[0])


def test_a_body_that_is_a_text_with_json_in_it_lands_as_what_it_holds(server: OddServer) -> None:
    refused = line(
        {"custom_id": "b", "response": {"status_code": 400, "body": '{"error": {"code": "c", "message": "m"}}'}}
    )
    server.ended(BATCH, out=good("a", json.dumps(BODY, indent=2)), err=refused)
    body: JsonValue = {"error": {"code": "c", "message": "m"}}
    assert results() == [
        succeeded("a"),
        {
            "custom_id": "b",
            "outcome": "failed",
            "response": {"status_code": 400, "request_id": None, "body": body},
            "error": {"code": "c", "message": "m"},
        },
    ]


@pytest.mark.parametrize(
    ("error", "outcome", "code", "message"),
    [
        ({"code": "batch_expired", "message": "Too late."}, "expired", "batch_expired", "Too late."),
        ({"code": 429, "message": "Slow down."}, "failed", "429", "Slow down."),
        ({"type": "server_error", "message": None}, "failed", "server_error", None),
        ("Down.", "failed", None, "Down."),
    ],
)
def test_an_error_line_without_a_response_fails_with_its_reason(
    error: JsonValue, outcome: str, code: str | None, message: str | None, server: OddServer
) -> None:
    server.ended(BATCH, out=good("a"), err=line({"custom_id": "b", "error": error}))
    assert results() == [succeeded("a"), without_answer("b", outcome, code, message)]


def test_an_empty_error_file_on_success_is_none(server: OddServer) -> None:
    server.ended(BATCH, out=good("a") + good("b"), err=b"")
    with capture_logs() as lines:
        assert results() == [succeeded("a"), succeeded("b")]
    assert lines == []


@pytest.mark.parametrize("counts", [None, {}, {"total": None, "completed": None, "failed": None}, {"total": 0}])
def test_without_counts_a_wait_ends_and_the_input_tells_what_is_missing(counts: JsonValue, server: OddServer) -> None:
    server.ended({**BATCH, "request_counts": counts, "error_file_id": None}, out=good("a"), ids="abc")
    assert fired() == (ENDED, ["Batch batch_1 is completed"])
    why = "No result that can be read names this request."
    assert results() == [succeeded("a"), *(without_answer(i, "missing", "missing", why) for i in "bc")]


@pytest.mark.parametrize("word", ["scheduling", "COMPLETED", "", None, 7, ["completed"]])
def test_a_status_that_nobody_documents_is_waited_through(word: JsonValue, server: OddServer) -> None:
    odd: dict[str, JsonValue] = {**BATCH, "status": word, "request_counts": None}
    server.answers("GET", "/batches/batch_1", odd, odd, {**BATCH, "request_counts": None})
    assert fired() == (ENDED, [f"Batch batch_1 is {word or 'unknown'}", "Batch batch_1 is completed"])


def test_ids_that_are_uuids_go_all_the_way(server: OddServer) -> None:
    file_id, batch_id = "0198c0de-1111-7000-8000-00000000000f", "0198c0de-2222-7000-8000-00000000000b"
    out_id = "0198c0de-3333-7000-8000-00000000000a"
    batch: dict[str, JsonValue] = {"id": batch_id, "status": "completed", "output_file_id": out_id}
    server.answers("POST", "/files", {"id": file_id})
    server.answers("POST", "/batches", {"id": batch_id, "status": "validating"})
    server.answers("GET", f"/batches/{batch_id}", {**batch, "request_counts": {"total": 1}})
    server.answers("GET", f"/files/{out_id}/content", Answer(200, good("a")))
    hook = LLMBatchHook()
    content = line({"custom_id": "a", "method": "POST", "url": CHAT, "body": {"model": "m"}})
    created = hook.create_batch(hook.create_file(content).id)
    [result] = hook.results(created.id)
    assert (created.id, result.custom_id, result.outcome) == (batch_id, "a", "succeeded")
    [posted] = server.calls("POST", "/batches$")
    assert json.loads(posted.body)["input_file_id"] == file_id


@pytest.mark.parametrize("usage", [{}, {"usage": None}, {"usage": {}}, {"usage": "many"}])
def test_without_usage_a_batch_ends_and_its_rows_land(usage: dict[str, JsonValue], server: OddServer) -> None:
    server.ended({**BATCH, **usage}, out=good("a") + good("b"))
    assert fired()[0] == ENDED
    assert results() == [succeeded("a"), succeeded("b")]


def test_a_bare_500_for_an_upstreams_refusal_is_waited_through(server: OddServer) -> None:
    bare = Answer(500, b"Internal Server Error", {"Content-Type": "text/plain"})
    server.answers("GET", "/batches/batch_1", bare, bare, bare, bare, {**BATCH, "request_counts": None})
    events, [outage, end] = fired()
    assert (events, end) == (ENDED, "Batch batch_1 is completed")
    assert outage == (
        "The server at 127.0.0.1 was asked to look up the batch batch_1 and answered 500: Internal Server Error. That "
        "is an outage on its side. A retry may succeed. The batch goes on at the provider; looking again, with growing "
        "pauses, until the deadline."
    )


def test_a_bare_500_for_the_cancellation_of_an_ended_batch_gives_the_batch(server: OddServer) -> None:
    server.answers("POST", "/batches/batch_1/cancel", Answer(500))
    server.answers("GET", "/batches/batch_1", BATCH)
    assert LLMBatchHook().cancel_batch("batch_1").status == "completed"


def test_a_bare_500_for_a_creation_leaves_doubt_and_is_not_repeated(server: OddServer) -> None:
    server.answers("POST", "/batches", Answer(500))
    with pytest.raises(LostAnswerError, match="the batch may exist and be billed"):
        LLMBatchHook().create_batch("in")
    assert len(server.calls("POST", "/batches$")) == 1


@pytest.mark.parametrize("headers", [HTML, {}], ids=["as HTML", "as JSON"])
def test_a_page_in_place_of_a_batch_is_waited_through(headers: dict[str, str], server: OddServer) -> None:
    page = Answer(200, PAGE, headers)
    server.answers("GET", "/batches/batch_1", page, page, {**BATCH, "request_counts": None})
    events, [outage, end] = fired()
    assert (events, end) == (ENDED, "Batch batch_1 is completed")
    assert "something else than the API answered" in outage


@pytest.mark.parametrize("headers", [HTML, {}], ids=["as HTML", "as JSON"])
@pytest.mark.parametrize("which", ["out", "err", "in"])
def test_a_page_in_place_of_a_file_lands_nothing(
    which: str, headers: dict[str, str], server: OddServer, tmp_path: Path
) -> None:
    # The first rule that fits decides.
    server.answers("GET", f"/files/{which}/content", Answer(200, PAGE, headers))
    server.ended({**BATCH, "request_counts": None}, out=good("a"), err=line({"custom_id": "b", "error": "Down."}))
    with pytest.raises(UnexpectedAnswerError, match="something else than the API answered"):
        download(tmp_path / "results.jsonl")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("errors", "reasons"),
    [
        ([{"message": "No such model."}], "No such model"),
        ({"data": [{"code": 404, "message": "No such model.", "line": "3"}]}, "line 3: 404: No such model"),
        ("No such model.", "No such model"),
        ({"data": None}, "it gave no reason"),
        (None, "it gave no reason"),
    ],
)
def test_a_refused_batch_fails_with_its_reasons_in_any_shape(
    errors: JsonValue, reasons: str, server: OddServer, tmp_path: Path
) -> None:
    server.ended({"id": "batch_1", "status": "failed", "errors": errors})
    assert fired()[0] == ENDED
    with pytest.raises(AirflowFailException) as failed:
        download(tmp_path / "results.jsonl")
    assert str(failed.value) == (
        f"BatchFailedError: OpenAI refused batch_1 before running it: {reasons}. Nothing was billed. A retry would be "
        "refused again: mend the input, and clear the tasks from the one that makes it on."
    )


@pytest.mark.parametrize("moment", ["2026-11-24T15:00:00Z", 1_700_000_000_000, 1.7e9, "", 0, True])
def test_times_in_other_units_do_not_break_a_wait(moment: JsonValue, server: OddServer) -> None:
    odd: dict[str, JsonValue] = {**BATCH, "created_at": moment, "in_progress_at": moment}
    server.answers("GET", "/batches/batch_1", {**odd, "status": "in_progress"}, odd)
    assert fired()[0] == ENDED
