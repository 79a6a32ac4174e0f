"""What goes wrong on the way from a file to results: each ends in a clear error, and nothing is paid twice.

Each error says what happened, whether anything was billed, and what a retry does; then the server is asked what it has.
"""

from __future__ import annotations

import json
import socket
import time
import uuid
from typing import TYPE_CHECKING

import pytest
from airflow.sdk.exceptions import AirflowFailException
from support.fault_proxy import Answer, Drop, FaultProxy, Truncate, fault_proxy
from support.task import TaskInstance, adapters_closed, connect, context_of

from airflow_provider_llmbatch.errors import RateLimitError, UnavailableError, UnexpectedAnswerError
from airflow_provider_llmbatch.hooks.batch import LLMBatchHook
from airflow_provider_llmbatch.operators.batch import LLMBatchCreateBatchOperator, LLMBatchDownloadResultsOperator
from airflow_provider_llmbatch.operators.file import LLMBatchCreateFileOperator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airflow.sdk import BaseOperator
    from support.server import RunningServer

WRONG_KEY = "sk-wrong-0987654321"
PAGE = Answer(200, b"<html><body>Please log in</body></html>", {"Content-Type": "text/html"})


def line(custom_id: str, model: str = "echo") -> bytes:
    body = {"model": model, "messages": [{"role": "user", "content": f"hello {custom_id}"}]}
    request = {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(request).encode() + b"\n"


GOOD = line("a") + line("b")


class AtServer:
    """What the server has more than at the beginning, asked past the proxy."""

    def __init__(self, server: RunningServer) -> None:
        key = json.dumps({"conn_type": "llmbatch_openai", "host": server.url, "password": server.api_key})
        from airflow.sdk import Connection

        self.adapter = LLMBatchHook.adapter_of(Connection.from_json(key, conn_id="direct"))
        self._before = self._now()

    def _now(self) -> tuple[int, int]:
        return len(list(self.adapter.list_files(purpose="batch"))), len(list(self.adapter.list_batches()))

    def new(self) -> dict[str, int]:
        (files, batches), (files_before, batches_before) = self._now(), self._before
        return {"files": files - files_before, "batches": batches - batches_before}


@pytest.fixture
def at_server(echo_server: RunningServer) -> Iterator[AtServer]:
    at_server = AtServer(echo_server)
    yield at_server
    at_server.adapter.close()


@pytest.fixture
def proxy(echo_server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    monkeypatch.setattr("airflow_provider_llmbatch.adapters.http._FIRST_DELAY", 0.0)
    with adapters_closed(monkeypatch), fault_proxy(echo_server.url) as proxy:
        connect(monkeypatch, proxy.url, echo_server.api_key)
        yield proxy


@pytest.fixture
def source(tmp_path: Path) -> str:
    (tmp_path / "requests.jsonl").write_bytes(GOOD)
    return str(tmp_path / "requests.jsonl")


def instance_of(task: BaseOperator) -> TaskInstance:
    """Of a run of its own: a file of the same content and run would be found at the server, and not uploaded."""
    return TaskInstance(task_id=task.task_id, run_id=str(uuid.uuid4()))


def run(task: BaseOperator) -> object:
    return task.execute(context_of(task, instance_of(task))[0])


def create_file(source: str) -> LLMBatchCreateFileOperator:
    return LLMBatchCreateFileOperator(task_id="create_file", source=source)


def create_batch(file_id: str) -> LLMBatchCreateBatchOperator:
    return LLMBatchCreateBatchOperator(
        task_id="create_batch", input_file_id=file_id, min_poll_interval=0.02, deferrable=False
    )


NOTHING = "Nothing was uploaded or billed."
MEND = NOTHING + " A retry would find the same: mend the input."


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "{source} is empty. A batch needs at least one request. " + NOTHING),
        (
            b"\xef\xbb\xbf" + GOOD,
            "{source} begins with a byte order mark (BOM). Save it as UTF-8 without one. " + NOTHING,
        ),
        (
            GOOD + b"{'a': 1}\n" + line("c"),
            "Line 3 of {source} is not JSON: JSON is malformed: object keys must be strings (byte 1). " + MEND,
        ),
        (GOOD + line("a"), 'Line 3 of {source} has custom_id "a", which line 1 has too. ' + MEND),
        (
            GOOD + line("c", "other"),
            'Line 3 of {source} asks for the model "other", but line 1 for "echo". ' + MEND,
        ),
    ],
    ids=["empty", "BOM", "no JSON", "duplicate id", "mixed models"],
)
def test_an_input_that_breaks_a_rule_is_refused_before_anything_is_sent(
    content: bytes, said: str, source: str, tmp_path: Path, proxy: FaultProxy, at_server: AtServer
) -> None:
    (tmp_path / "requests.jsonl").write_bytes(content)
    with pytest.raises(AirflowFailException) as refused:
        run(create_file(source))
    assert str(refused.value) == "BatchInputError: " + said.format(source=source)
    assert proxy.requests == []
    assert at_server.new() == {"files": 0, "batches": 0}


def test_a_missing_file_is_named(tmp_path: Path, proxy: FaultProxy) -> None:
    missing = tmp_path / "none.jsonl"
    with pytest.raises(AirflowFailException) as refused:
        run(create_file(str(missing)))
    assert str(refused.value) == (
        f"BatchInputError: The source {missing} cannot be opened (FileNotFoundError: [Errno 2] No such file or "
        f"directory: '{missing}'). Nothing was uploaded or billed."
    )
    assert proxy.requests == []


def test_a_wrong_key_fails_both_tasks_at_once_and_leaves_nothing(
    source: str, proxy: FaultProxy, at_server: AtServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(monkeypatch, proxy.url, WRONG_KEY)
    # Said by the proxy, which reads a request to its end: the server refuses earlier, so its answer may get lost.
    refusal = {"error": {"code": "invalid_api_key", "message": f"Incorrect API key provided: {WRONG_KEY}."}}
    proxy.rule("POST", "", Answer(401, json.dumps(refusal).encode()), times=None)
    for task in (create_file(source), create_batch("file-1")):
        with pytest.raises(AirflowFailException) as refused:
            run(task)
        message = str(refused.value)
        assert message.startswith("AccessRefusedError: The server at 127.0.0.1 was asked to ")
        assert message.endswith(
            "answered 401 invalid_api_key: Incorrect API key provided: ***. Nothing was billed. A retry would be "
            "refused again: mend the key in the connection."
        )
    assert [call.method for call in proxy.requests] == ["POST", "POST"]
    assert at_server.new() == {"files": 0, "batches": 0}


def test_an_input_file_that_is_not_there_makes_no_batch(proxy: FaultProxy, at_server: AtServer) -> None:
    with pytest.raises(AirflowFailException) as refused:
        run(create_batch("file-none"))
    message = str(refused.value)
    assert "was asked to create a batch from file-none and answered 4" in message
    assert "Nothing was billed. A retry would " in message
    assert len(proxy.calls("POST", "/batches$")) == 1
    assert at_server.new() == {"files": 0, "batches": 0}


def test_a_batch_that_is_not_there_lands_nothing(tmp_path: Path, proxy: FaultProxy) -> None:
    destination = tmp_path / "out" / "results.jsonl"
    task = LLMBatchDownloadResultsOperator(task_id="download", batch_id="batch_none", destination=str(destination))
    with pytest.raises(AirflowFailException) as refused:
        run(task)
    assert str(refused.value).startswith(
        "NotFoundError: The server at 127.0.0.1 was asked to look up the batch batch_none and answered 404"
    )
    assert "Nothing was billed. A retry would not find it either" in str(refused.value)
    assert len(proxy.requests) == 1
    assert not destination.parent.exists()


def test_a_server_that_is_gone_is_worth_a_retry(
    source: str, proxy: FaultProxy, at_server: AtServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    del proxy
    with socket.create_server(("127.0.0.1", 0)) as listener:
        gone = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    connect(monkeypatch, gone, "sk-test")
    for task in (create_file(source), create_batch("file-1")):
        with pytest.raises(UnavailableError) as unavailable:
            run(task)
        assert str(unavailable.value).endswith("Nothing was sent or billed. A retry may succeed.")
        assert f"at {gone}/ did not answer when asked to " in str(unavailable.value)
        assert not unavailable.value.reached
    assert at_server.new() == {"files": 0, "batches": 0}


def test_429_with_retry_after_is_waited_for_and_then_makes_exactly_one_of_each(
    source: str, proxy: FaultProxy, at_server: AtServer
) -> None:
    slow_down = Answer(429, b'{"error": {"message": "Too fast.", "code": "rate_limit"}}', {"Retry-After": "0.2"})
    proxy.rule("POST", "/files$", slow_down)
    proxy.rule("POST", "/batches$", slow_down)
    begun = time.monotonic()
    run(create_batch(str(run(create_file(source)))))
    assert time.monotonic() - begun >= 0.4
    assert at_server.new() == {"files": 1, "batches": 1}


def test_429_for_an_hour_is_left_to_airflows_retry(source: str, proxy: FaultProxy, at_server: AtServer) -> None:
    slow_down = Answer(429, b'{"error": {"message": "Too fast.", "code": "rate_limit"}}', {"Retry-After": "3600"})
    proxy.rule("POST", "/batches$", slow_down)
    file_id = str(run(create_file(source)))
    with pytest.raises(RateLimitError) as limited:
        run(create_batch(file_id))
    assert str(limited.value) == (
        f"The server at 127.0.0.1 was asked to create a batch from {file_id} and answered 429 rate_limit: Too fast. "
        "It asks to wait for 3600 s. Nothing was billed. A retry after that may succeed."
    )
    assert at_server.new() == {"files": 1, "batches": 0}


@pytest.mark.parametrize(
    "fault",
    [Answer(500, b'{"error": {"message": "Oops."}}'), Drop(after_bytes=1), PAGE],
    ids=["500", "reset", "page"],
)
def test_a_passing_fault_in_an_upload_and_a_creation_leaves_exactly_one_of_each(
    fault: Answer | Drop, source: str, proxy: FaultProxy, at_server: AtServer
) -> None:
    proxy.rule("POST", "/files$", fault)
    proxy.rule("POST", "/batches$", fault)
    batch_id = run(create_batch(str(run(create_file(source)))))
    assert [batch.id for batch in at_server.adapter.list_batches(limit=1)] == [batch_id]
    assert at_server.new() == {"files": 1, "batches": 1}


@pytest.mark.parametrize(
    ("fault", "error", "said"),
    [
        (
            Answer(500, b'{"error": {"message": "Oops."}}'),
            UnavailableError,
            "answered 500: Oops. That is an outage on its side. A retry may succeed. Nothing was billed.",
        ),
        (
            Drop(after_bytes=1),
            UnavailableError,
            "It may have acted on the call all the same. A retry may succeed. Nothing was billed.",
        ),
        (
            PAGE,
            UnexpectedAnswerError,
            (
                "a wrong base URL. A retry helps only if that is passing; else mend the connection's base URL. Nothing "
                "was billed."
            ),
        ),
    ],
    ids=["500", "reset", "page"],
)
def test_a_lasting_fault_in_an_upload_ends_the_try_and_the_next_one_uploads_once(
    fault: Answer | Drop, error: type[UnavailableError], said: str, source: str, proxy: FaultProxy, at_server: AtServer
) -> None:
    proxy.rule("POST", "/files$", fault, times=5)
    task = create_file(source)
    context, instance = context_of(task, instance_of(task))
    with pytest.raises(UnavailableError) as failed:
        task.execute(context)
    assert (type(failed.value), str(failed.value).endswith(said)) == (error, True), str(failed.value)
    assert at_server.new() == {"files": 0, "batches": 0}
    instance.try_number = 2
    task.execute(context)
    assert at_server.new() == {"files": 1, "batches": 0}


def test_half_a_download_goes_on_where_it_ended_and_costs_nothing(
    source: str, tmp_path: Path, proxy: FaultProxy, at_server: AtServer
) -> None:
    batch_id = str(run(create_batch(str(run(create_file(source))))))
    proxy.rule("GET", "/content$", Truncate(100))
    destination = tmp_path / "results.jsonl"
    run(LLMBatchDownloadResultsOperator(task_id="download", batch_id=batch_id, destination=str(destination)))
    results = [json.loads(text) for text in destination.read_text().splitlines()]
    assert sorted((result["custom_id"], result["outcome"]) for result in results) == [
        ("a", "succeeded"),
        ("b", "succeeded"),
    ]
    assert [call.headers.get("range") for call in proxy.calls("GET", "/content$")] == [None, "bytes=100-"]
    assert at_server.new() == {"files": 1, "batches": 1}


def test_a_page_instead_of_a_result_file_is_never_landed(source: str, tmp_path: Path, proxy: FaultProxy) -> None:
    batch_id = str(run(create_batch(str(run(create_file(source))))))
    proxy.rule("GET", "/content$", PAGE, times=None)
    destination = tmp_path / "out" / "results.jsonl"
    with pytest.raises(UnexpectedAnswerError, match="That is a web page or a redirect"):
        run(LLMBatchDownloadResultsOperator(task_id="download", batch_id=batch_id, destination=str(destination)))
    assert list(destination.parent.iterdir()) == []
