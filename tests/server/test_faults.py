"""Each fault that a file can order, through the package's own adapter: the error it causes, and what the server holds
afterwards."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import structlog
import uvicorn
from support.adapter_contract import CHAT
from support.batches import begun, body_of, chats, ended, uploaded

from airflow_provider_llmbatch.adapters.openai import OpenAIAdapter, OpenAISettings
from airflow_provider_llmbatch.core.ledger import BatchRecord, Ledger, MemoryStore
from airflow_provider_llmbatch.core.submit import Attempt, BatchJob, Slot, Timing, submit_batch
from airflow_provider_llmbatch.core.verdict import error_of_end
from airflow_provider_llmbatch.errors import (
    BatchExpiredError,
    BatchFailedError,
    EnqueuedTokenLimitError,
    LostAnswerError,
    NotFoundError,
    RateLimitError,
    UnavailableError,
)
from airflow_provider_llmbatch.server.app import create_app
from airflow_provider_llmbatch.server.engines.echo import EchoEngine
from airflow_provider_llmbatch.server.faults import Faults, FaultsError
from airflow_provider_llmbatch.server.faulty import FaultyApp, FaultyEngine
from airflow_provider_llmbatch.server.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY = "sk-faulty-0123456789"
CREATION = {"method": "POST", "path": "/batches$"}
LIMIT_REACHED = (
    "Enqueued token limit reached for m in organization org-7. Limit: 90,000 enqueued tokens. Please try again once "
    "some in_progress batches have been completed."
)


@contextmanager
def faulty(tmp_path: Path, *, concurrency: int = 64, **faults: Any) -> Iterator[OpenAIAdapter]:
    """A server with the engine echo that breaks things as told, in a thread, and an adapter for it."""
    store, orders = Store(tmp_path / "data"), Faults(json.dumps(faults))
    app = create_app(
        store,
        FaultyEngine(EchoEngine(), orders),
        api_key=KEY,
        concurrency=concurrency,
        completion_window=86_400.0,
        max_upload_bytes=10_000_000,
    )
    config = uvicorn.Config(FaultyApp(app, orders, store), host="127.0.0.1", port=0, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    adapter = None
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        adapter = OpenAIAdapter(OpenAISettings(KEY, base_url=f"http://127.0.0.1:{port}/v1"))
        adapter._http._sleep = lambda _seconds: None
        yield adapter
    finally:
        if adapter is not None:
            adapter.close()
        server.should_exit = True
        thread.join(timeout=10)
        store.close()


def batches(adapter: OpenAIAdapter) -> int:
    return len(list(adapter.list_batches()))


def test_a_status_with_its_headers_and_body_answers_instead_of_the_server(tmp_path: Path) -> None:
    told = {"error": {"message": "Slow down.", "type": "requests", "param": None, "code": "rate_limit_exceeded"}}
    rule = {**CREATION, "fault": "status", "status": 429, "headers": {"Retry-After": "77"}, "body": told}
    with faulty(tmp_path, calls=[rule]) as adapter:
        with pytest.raises(RateLimitError) as raised:
            begun(adapter, chats(1))
        assert (raised.value.status_code, raised.value.retry_after) == (429, 77.0)
        assert raised.value.code == "rate_limit_exceeded"
        assert "Slow down" in str(raised.value)
        assert batches(adapter) == 0


def test_a_status_that_passes_costs_an_attempt_and_nothing_else(tmp_path: Path) -> None:
    rules = [
        {"method": "POST", "path": "/files$", "fault": "status", "status": 503, "times": 2},
        {"method": "GET", "path": "/batches/", "fault": "status", "status": 500, "times": 1},
    ]
    with faulty(tmp_path, calls=rules) as adapter:
        batch, results = ended(adapter, chats(3))
        assert (batch.status, len(results), batches(adapter)) == ("completed", 3, 1)


def test_a_page_where_the_api_should_be(tmp_path: Path) -> None:
    page = {"fault": "status", "status": 404, "headers": {"Content-Type": "text/html"}, "body": "<html>Log in</html>"}
    with faulty(tmp_path, calls=[{"path": "/files/", **page}]) as adapter, pytest.raises(UnavailableError) as raised:
        adapter.retrieve_file("file-1")
    assert "something else than the API answered" in str(raised.value)


def test_a_reset_leaves_nothing_behind(tmp_path: Path) -> None:
    with faulty(tmp_path, calls=[{**CREATION, "fault": "reset", "times": 1}]) as adapter:
        with pytest.raises(LostAnswerError):  # from outside it cannot be told from an answer that was lost
            begun(adapter, chats(1))
        assert batches(adapter) == 0


def test_a_lost_answer_leaves_the_batch_behind(tmp_path: Path) -> None:
    with faulty(tmp_path, calls=[{**CREATION, "fault": "lose_answer", "times": 1}]) as adapter:
        with pytest.raises(LostAnswerError):
            begun(adapter, chats(1))
        assert batches(adapter) == 1


@pytest.mark.parametrize("fault", ["reset", "lose_answer", "truncate"])
def test_a_creation_in_doubt_is_looked_for_and_paid_once(tmp_path: Path, fault: str) -> None:
    cut = {"after_bytes": 40} if fault == "truncate" else {}
    with faulty(tmp_path, calls=[{**CREATION, "fault": fault, "times": 1, **cut}]) as adapter:
        file_id = uploaded(adapter, chats(1))
        ledger = Ledger(MemoryStore(), "batch", BatchRecord, durable=False)
        batch = submit_batch(
            adapter,
            ledger,
            Slot("https://airflow.test", "dag", "run", "task"),
            BatchJob(file_id, CHAT),
            attempt=Attempt(try_number=1, max_tries=2),
            timing=Timing(listing_lag=0.0),
            log=structlog.get_logger(),
        )
        assert [found.id for found in adapter.list_batches()] == [batch.id]


def test_a_download_that_is_cut_off_goes_on_where_it_ended(tmp_path: Path) -> None:
    rule = {"method": "GET", "path": "/content$", "fault": "truncate", "after_bytes": 700, "times": 2}
    with faulty(tmp_path, calls=[rule]) as adapter:
        batch, results = ended(adapter, chats(20))
        assert [result.outcome for result in results.values()] == ["succeeded"] * 20
        assert batch.output_file_id is not None
        content = [hashlib.sha256(b"".join(adapter.file_content(batch.output_file_id))).digest() for _ in range(2)]
        assert content[0] == content[1]


def test_a_delay_lets_an_impatient_caller_give_up_and_the_server_act(tmp_path: Path) -> None:
    with faulty(tmp_path, calls=[{**CREATION, "fault": "delay", "seconds": 0.6, "times": 1}]) as adapter:
        file_id = uploaded(adapter, chats(1))
        adapter._http._client.timeout = 0.2
        with pytest.raises(LostAnswerError):
            adapter.create_batch(file_id, endpoint=CHAT)
        adapter._http._client.timeout = 10.0
        give_up = time.monotonic() + 10
        while not batches(adapter):
            assert time.monotonic() < give_up, "the server did not act"
            time.sleep(0.02)


def test_requests_fail_by_custom_id_and_by_number(tmp_path: Path) -> None:
    rules = [
        {"custom_id": "^r1$", "fault": "status", "status": 404, "code": "model_not_found", "message": "No such model."},
        {"every": 4, "fault": "status", "status": 500},  # of those that the first rule leaves: r0, r2, r3, r4, …
        {"fault": "delay", "seconds": 0.05},
    ]
    with faulty(tmp_path, concurrency=1, requests=rules) as adapter:
        batch, results = ended(adapter, chats(10))
        failed = {name: result.response for name, result in results.items() if result.outcome == "failed"}
        assert {name: response and response.status_code for name, response in failed.items()} == {
            "r1": 404,
            "r4": 500,
            "r8": 500,
        }
        assert body_of(results["r1"]) == {
            "error": {
                "message": "No such model.",
                "type": "invalid_request_error",
                "param": None,
                "code": "model_not_found",
            }
        }
        assert (batch.status, batch.request_counts.completed, batch.request_counts.failed) == ("completed", 7, 3)


def test_a_batch_expires_after_so_many_answers(tmp_path: Path) -> None:
    rule = {"fault": "expire", "after_answers": 3, "times": 1}
    with faulty(tmp_path, concurrency=1, batches=[rule]) as adapter:
        batch, results = ended(adapter, chats(8))
        assert batch.status == "expired"
        assert isinstance(error_of_end(batch, title="OpenAI"), BatchExpiredError)
        assert [results[f"r{i}"].outcome for i in range(8)] == ["succeeded"] * 3 + ["expired"] * 5
        again, _ = ended(adapter, chats(8))
        assert again.status == "completed"


@pytest.mark.parametrize("status", [429, 400])
def test_the_token_limit_refuses_a_creation(tmp_path: Path, status: int) -> None:
    rule = {"fault": "token_limit", "at": "creation", "status": status, "organization": "org-7"}
    with faulty(tmp_path, batches=[rule]) as adapter:
        with pytest.raises(EnqueuedTokenLimitError) as raised:
            begun(adapter, chats(1))
        assert getattr(raised.value, "code", None) == "token_limit_exceeded"
        assert LIMIT_REACHED.rstrip(".") in str(raised.value)
        assert batches(adapter) == 0


def test_the_token_limit_fails_a_batch_that_was_created(tmp_path: Path) -> None:
    rule = {"fault": "token_limit", "at": "validation", "organization": "org-7", "times": 1}
    with faulty(tmp_path, batches=[rule]) as adapter:
        batch, results = ended(adapter, chats(2))
        assert batch.status == "failed"
        assert batch.errors is not None
        assert [(error.code, error.message) for error in batch.errors.data] == [("token_limit_exceeded", LIMIT_REACHED)]
        assert isinstance(error_of_end(batch, title="OpenAI"), BatchFailedError)
        assert not any(result.outcome == "succeeded" for result in results.values())
        assert batch.input_file_id is not None
        adapter.create_batch(batch.input_file_id, endpoint=CHAT)  # the same file serves again
        assert batches(adapter) == 2


def test_calls_that_no_rule_fits_are_left_alone(tmp_path: Path) -> None:
    with faulty(tmp_path, calls=[{"method": "DELETE", "path": "/files/", "fault": "status", "status": 404}]) as adapter:
        file_id = uploaded(adapter, chats(1))
        assert adapter.retrieve_file(file_id).id == file_id
        with pytest.raises(NotFoundError):
            adapter.delete_file(file_id)


def strikes(**rule: Any) -> list[int]:
    """Which of the first twelve occasions a rule strikes at."""
    seed = rule.pop("seed", 0)
    (armed,) = Faults(json.dumps({"seed": seed, "calls": [{"fault": "reset", **rule}]})).calls
    return [occasion for occasion in range(1, 13) if armed.strikes()]


def test_a_rule_counts_the_occasions_that_it_fits() -> None:
    assert strikes() == list(range(1, 13))
    assert strikes(times=2) == [1, 2]
    assert strikes(skip=3, times=2) == [4, 5]
    assert strikes(every=5) == [5, 10]
    assert strikes(skip=1, every=5) == [6, 11]


def test_chance_is_the_same_for_the_same_seed() -> None:
    assert strikes(probability=0.5, seed=1) == strikes(probability=0.5, seed=1)
    assert len({tuple(strikes(probability=0.5, seed=seed)) for seed in range(20)}) > 10
    assert strikes(probability=0.5, times=2, seed=1) == strikes(probability=0.5, seed=1)[:2]


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("{", "Invalid JSON: EOF while parsing an object at line 1 column 1"),
        ('{"call": []}', "call: Extra inputs are not permitted"),
        ('{"calls": [{}]}', "calls.0: Unable to extract tag using discriminator 'fault'"),
        (
            '{"calls": [{"fault": "reset", "path": "["}]}',
            "calls.0.reset.path: Input should be a valid regular expression",
        ),
        ('{"calls": [{"fault": "status"}]}', "calls.0.status.status: Field required"),
        (
            '{"requests": [{"fault": "status", "status": 200}]}',
            "requests.0.status.status: Input should be greater than or equal to 400",
        ),
        ('{"batches": [{"fault": "expire"}]}', "batches.0.expire.after_answers: Field required"),
        (
            '{"calls": [{"fault": "reset", "probability": 2}]}',
            "calls.0.reset.probability: Input should be less than or equal to 1",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_place(text: str, finding: str) -> None:
    with pytest.raises(FaultsError) as raised:
        Faults(text)
    assert str(raised.value) == finding
