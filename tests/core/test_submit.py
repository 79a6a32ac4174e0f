"""One batch, exactly once: against a real server, with answers that a proxy loses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import structlog
from support.batch_server import serving
from support.fault_proxy import Answer, LoseAnswer, fault_proxy
from support.stores import FileStore

from airflow_provider_llmbatch.adapters.openai import OpenAIAdapter, OpenAISettings
from airflow_provider_llmbatch.core.ledger import BatchRecord, Ledger, MemoryStore
from airflow_provider_llmbatch.core.submit import Attempt, BatchJob, Slot, Timing, check_metadata, submit_batch
from airflow_provider_llmbatch.errors import (
    BatchInputError,
    LedgerError,
    LostAnswerError,
    NotFoundError,
    RequestRefusedError,
)
from airflow_provider_llmbatch.server.engines.echo import EchoEngine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pydantic import JsonValue
    from support.batch_server import Client
    from support.fault_proxy import FaultProxy

    from airflow_provider_llmbatch.models import Batch

SLOT = Slot("https://airflow.test", "dag", "run", "task")
FIRST = Attempt(try_number=1, max_tries=2)
RETRY = Attempt(try_number=2, max_tries=2)
CLEARED = Attempt(try_number=3, max_tries=4, was_cleared=True)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Client]:
    with serving(tmp_path / "server", EchoEngine()) as running:
        yield running


@pytest.fixture
def proxy(server: Client) -> Iterator[FaultProxy]:
    with fault_proxy(server.url) as running:
        yield running


@pytest.fixture
def adapter(server: Client, proxy: FaultProxy) -> Iterator[OpenAIAdapter]:
    running = OpenAIAdapter(OpenAISettings(api_key=server.api_key, base_url=proxy.url))
    yield running
    running.close()


@pytest.fixture
def file_id(adapter: OpenAIAdapter, tmp_path: Path) -> str:
    source = tmp_path / "requests.jsonl"
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
    source.write_text(json.dumps({"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": body}))
    with source.open("rb") as stream:
        return adapter.create_file(stream, filename="requests.jsonl").id


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger[BatchRecord]:
    return Ledger(FileStore(tmp_path / "ledger.json"), "batch", BatchRecord, durable=True)


def submit(
    adapter: OpenAIAdapter, ledger: Ledger[BatchRecord], file_id: str, attempt: Attempt, timing: Timing | None = None
) -> Batch:
    return submit_batch(
        adapter,
        ledger,
        SLOT,
        BatchJob(file_id, "/v1/chat/completions"),
        attempt=attempt,
        timing=timing or Timing(listing_lag=0.0),
        log=structlog.get_logger(),
    )


def batch_ids(adapter: OpenAIAdapter) -> list[str]:
    return [batch.id for batch in adapter.list_batches()]


def test_a_retry_returns_the_batch_of_the_first_try(
    adapter: OpenAIAdapter, ledger: Ledger[BatchRecord], file_id: str
) -> None:
    first = submit(adapter, ledger, file_id, FIRST)
    assert submit(adapter, ledger, file_id, RETRY).id == first.id
    assert batch_ids(adapter) == [first.id]


def test_a_creation_whose_answer_is_lost_is_found_and_not_repeated(
    adapter: OpenAIAdapter, proxy: FaultProxy, ledger: Ledger[BatchRecord], file_id: str
) -> None:
    proxy.rule("POST", r"/batches$", LoseAnswer())
    batch = submit(adapter, ledger, file_id, FIRST)
    assert batch_ids(adapter) == [batch.id]
    assert len(proxy.calls("POST", r"/batches$")) == 1


def test_the_key_and_the_metadata_of_the_user_travel_with_the_batch(
    adapter: OpenAIAdapter, ledger: Ledger[BatchRecord], file_id: str
) -> None:
    job = BatchJob(file_id, "/v1/chat/completions", metadata={"team": "reviews"})
    batch = submit_batch(
        adapter, ledger, SLOT, job, attempt=FIRST, timing=Timing(listing_lag=0.0), log=structlog.get_logger()
    )
    assert batch.metadata == {"team": "reviews", "llmbatch_key": SLOT.key("batch", "1", file_id)}


def test_absence_counts_only_after_a_second_look_when_the_list_has_caught_up(
    adapter: OpenAIAdapter, proxy: FaultProxy, ledger: Ledger[BatchRecord], file_id: str
) -> None:
    now = [1_000_000.0]
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    proxy.rule("POST", r"/batches$", Answer(500))
    batch = submit(adapter, ledger, file_id, FIRST, Timing(120.0, clock=lambda: now[0], sleep=sleep))
    assert slept == [120.0]
    assert batch_ids(adapter) == [batch.id]


def test_a_list_that_lags_makes_a_duplicate_that_is_cancelled_and_the_oldest_stays(
    adapter: OpenAIAdapter, proxy: FaultProxy, ledger: Ledger[BatchRecord], file_id: str
) -> None:
    empty = Answer(200, b'{"object": "list", "data": [], "has_more": false}')
    proxy.rule("POST", r"/batches$", LoseAnswer())
    proxy.rule("GET", r"/batches$", empty, times=2)
    kept = submit(adapter, ledger, file_id, FIRST)
    created = sorted(adapter.list_batches(), key=lambda batch: (batch.created_at or 0, batch.id))
    record = ledger.read()
    assert record is not None
    assert len(created) == 2
    assert (kept.id, record.batch_id) == (created[0].id, created[0].id)


def test_a_refusal_leaves_no_doubt_so_the_next_try_does_not_look(
    adapter: OpenAIAdapter, proxy: FaultProxy, ledger: Ledger[BatchRecord], file_id: str
) -> None:
    proxy.rule("POST", r"/batches$", Answer(400, b'{"error": {"message": "no", "code": "bad"}}'))
    with pytest.raises(RequestRefusedError):
        submit(adapter, ledger, file_id, FIRST)
    submit(adapter, ledger, file_id, RETRY)
    assert proxy.calls("GET", r"/batches$") == []


def test_answers_that_stay_lost_end_the_attempt_in_doubt(
    adapter: OpenAIAdapter, proxy: FaultProxy, ledger: Ledger[BatchRecord], file_id: str
) -> None:
    proxy.rule("POST", r"/batches$", Answer(503), times=3)
    with pytest.raises(LostAnswerError, match="were lost"):
        submit(adapter, ledger, file_id, FIRST)
    record = ledger.read()
    assert record is not None
    assert record.state == "intended"


def test_an_attempt_whose_intent_cannot_be_written_creates_nothing(adapter: OpenAIAdapter, file_id: str) -> None:
    class Superseded(MemoryStore):
        def set(self, key: str, value: JsonValue) -> None:
            raise ConnectionError(f"404 for {key} = {value}")

    ledger = Ledger(Superseded(), "batch", BatchRecord, durable=True)
    with pytest.raises(LedgerError, match="could not be written"):
        submit(adapter, ledger, file_id, FIRST)
    assert batch_ids(adapter) == []


def test_a_record_that_cannot_be_read_is_not_taken_for_absent(adapter: OpenAIAdapter, file_id: str) -> None:
    store = MemoryStore()
    store.set("batch", {"schema_version": 99})
    with pytest.raises(LedgerError, match="another release"):
        submit(adapter, Ledger(store, "batch", BatchRecord, durable=True), file_id, FIRST)
    assert batch_ids(adapter) == []


def test_without_a_lasting_record_a_retry_looks_and_finds_the_batch(adapter: OpenAIAdapter, file_id: str) -> None:
    def forgetful() -> Ledger[BatchRecord]:
        return Ledger(MemoryStore(), "batch", BatchRecord, durable=False)

    first = submit(adapter, forgetful(), file_id, FIRST)
    assert submit(adapter, forgetful(), file_id, RETRY).id == first.id
    assert batch_ids(adapter) == [first.id]


def test_after_a_pause_without_a_lasting_record_one_look_will_do(
    adapter: OpenAIAdapter, proxy: FaultProxy, file_id: str
) -> None:
    slept: list[float] = []
    resumed = Attempt(try_number=1, max_tries=2, resumed=True)
    forgetful = Ledger(MemoryStore(), "batch", BatchRecord, durable=False)
    batch = submit(adapter, forgetful, file_id, resumed, Timing(120.0, sleep=slept.append))
    assert (batch_ids(adapter), slept) == ([batch.id], [])
    assert len(proxy.calls("GET", r"/batches$")) == 2  # one of them is the test's own


def test_clearing_a_task_whose_batch_is_complete_pays_nothing(
    adapter: OpenAIAdapter, ledger: Ledger[BatchRecord], file_id: str
) -> None:
    first = submit(adapter, ledger, file_id, FIRST)
    assert submit(adapter, ledger, file_id, CLEARED).id == first.id


def test_clearing_a_task_whose_batch_is_gone_makes_another_and_a_retry_does_not(
    adapter: OpenAIAdapter, proxy: FaultProxy, ledger: Ledger[BatchRecord], file_id: str
) -> None:
    first = submit(adapter, ledger, file_id, FIRST)
    proxy.rule("GET", rf"/batches/{first.id}$", Answer(404, b"{}"), times=None)
    with pytest.raises(NotFoundError):
        submit(adapter, ledger, file_id, RETRY)
    second = submit(adapter, ledger, file_id, CLEARED)
    assert second.id != first.id
    assert (second.metadata or {})["llmbatch_key"] == SLOT.key("batch", "2", file_id)


def test_deployments_and_map_indexes_have_keys_of_their_own() -> None:
    slots = [
        SLOT,
        Slot("https://staging.test", "dag", "run", "task"),
        Slot("https://airflow.test", "dag", "run", "task", map_index=0),
        Slot("https://airflow.test", "dag", "run", "task", part=1),
    ]
    keys = {slot.key("batch", "1", "file-1") for slot in slots}
    assert len(keys) == len(slots)
    assert {len(key) for key in keys} == {37}


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        ({f"name{i}": "" for i in range(16)}, "it has 16 pairs; 15 are free"),
        ({"llmbatch_key": "mine"}, "belongs to the package"),
        ({"n": 1}, "is int, not a text"),
        ({"n" * 65: "v"}, "is too long"),
        ({"n": "v" * 513}, "is too long"),
    ],
)
def test_metadata_that_the_provider_would_refuse_is_refused_first(metadata: dict[str, object], problem: str) -> None:
    with pytest.raises(BatchInputError, match=problem):
        check_metadata(metadata, OpenAIAdapter.limits)
