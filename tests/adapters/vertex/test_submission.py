"""One file and one job exactly once on Vertex AI: its own filter finds what a lost answer made."""

from __future__ import annotations

import io
import uuid
from typing import TYPE_CHECKING

import pytest
import structlog
from support.adapter_contract import CHAT, chat_line
from support.fault_proxy import Answer, FaultProxy, LoseAnswer, fault_proxy
from support.vertex import BUCKET

from airflow_provider_llmbatch.core.jsonl import check_requests
from airflow_provider_llmbatch.core.ledger import BatchRecord, FileRecord, Ledger, MemoryStore
from airflow_provider_llmbatch.core.submit import KEY_NAME, Attempt, BatchJob, Slot, Timing, submit_batch
from airflow_provider_llmbatch.core.upload import submit_file
from airflow_provider_llmbatch.errors import BatchInputError, LostAnswerError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from adapters.conftest import ConnectVertex
    from support.server import RunningServer

    from airflow_provider_llmbatch.adapters.vertex.adapter import VertexAdapter
    from airflow_provider_llmbatch.models import Batch, File

FIRST, RETRY = Attempt(try_number=1, max_tries=2), Attempt(try_number=2, max_tries=2)
JOBS = "/batchPredictionJobs$"


@pytest.fixture
def proxy(vertex_server: RunningServer) -> Iterator[FaultProxy]:
    with fault_proxy(vertex_server.url) as running:
        yield running


@pytest.fixture
def adapter(connect_vertex: ConnectVertex, proxy: FaultProxy) -> VertexAdapter:
    return connect_vertex(proxy.url, bucket=f"gs://{BUCKET}/{uuid.uuid4().hex}")


@pytest.fixture
def slot() -> Slot:
    """One of each test's own, since they share the server."""
    return Slot("https://airflow.test", "dag", uuid.uuid4().hex, "task")


@pytest.fixture
def ledger() -> Ledger[BatchRecord]:
    return Ledger(MemoryStore(), "batch", BatchRecord, durable=True)


def upload(adapter: VertexAdapter, slot: Slot, ledger: Ledger[FileRecord], attempt: Attempt = FIRST) -> File:
    stream = io.BytesIO(chat_line("a", "hello"))
    checked = check_requests(stream, name="in.jsonl", limits=adapter.limits, line_check=adapter.line_check())
    stream.seek(0)
    return submit_file(adapter, ledger, slot, stream, checked, attempt=attempt, log=structlog.get_logger())


@pytest.fixture
def file_id(adapter: VertexAdapter, slot: Slot) -> str:
    return upload(adapter, slot, Ledger(MemoryStore(), "file", FileRecord, durable=True)).id


def submit(
    adapter: VertexAdapter,
    ledger: Ledger[BatchRecord],
    slot: Slot,
    file_id: str,
    attempt: Attempt = FIRST,
    metadata: Mapping[str, str] | None = None,
) -> Batch:
    job = BatchJob(file_id, CHAT, metadata=metadata or {})
    timing = Timing(listing_lag=0.0)
    return submit_batch(adapter, ledger, slot, job, attempt=attempt, timing=timing, log=structlog.get_logger())


def made(adapter: VertexAdapter, slot: Slot, file_id: str) -> list[str]:
    """The jobs with our key."""
    return [batch.id for batch in adapter.list_batches_with(KEY_NAME, slot.key("batch", "1", file_id))]


def test_a_creation_whose_answer_is_lost_is_found_by_one_filtered_list_and_not_repeated(
    adapter: VertexAdapter, proxy: FaultProxy, ledger: Ledger[BatchRecord], slot: Slot, file_id: str
) -> None:
    proxy.rule("POST", JOBS, LoseAnswer())
    batch = submit(adapter, ledger, slot, file_id)
    assert (len(proxy.calls("POST", JOBS)), len(proxy.calls("GET", JOBS))) == (1, 1)
    assert "filter=labels.llmbatch_key" in proxy.calls("GET", JOBS)[0].path
    assert made(adapter, slot, file_id) == [batch.id]
    assert (batch.metadata, batch.input_file_id) == ({KEY_NAME: slot.key("batch", "1", file_id)}, file_id)


def test_a_retry_after_answers_that_stayed_lost_looks_first(
    adapter: VertexAdapter, proxy: FaultProxy, ledger: Ledger[BatchRecord], slot: Slot, file_id: str
) -> None:
    proxy.rule("POST", JOBS, LoseAnswer())
    proxy.rule("POST", JOBS, Answer(503), times=2)
    proxy.rule("GET", JOBS, Answer(200, b"{}"), times=8)  # the list lags for as long as the first try looks
    with pytest.raises(LostAnswerError):
        submit(adapter, ledger, slot, file_id)
    proxy._rules.clear()
    batch = submit(adapter, ledger, slot, file_id, RETRY)
    assert (made(adapter, slot, file_id), len(proxy.calls("POST", JOBS))) == ([batch.id], 3)


def test_a_list_that_lags_makes_a_duplicate_that_is_cancelled_and_the_oldest_stays(
    adapter: VertexAdapter, proxy: FaultProxy, ledger: Ledger[BatchRecord], slot: Slot, file_id: str
) -> None:
    proxy.rule("POST", JOBS, LoseAnswer())
    proxy.rule("GET", JOBS, Answer(200, b"{}"), times=2)
    kept = submit(adapter, ledger, slot, file_id)
    listed = adapter.list_batches_with(KEY_NAME, slot.key("batch", "1", file_id))
    by_age = sorted(listed, key=lambda batch: (batch.created_at or 0, batch.id))
    record = ledger.read()
    assert record is not None
    assert (len(by_age), kept.id, record.batch_id) == (2, by_age[0].id, by_age[0].id)


def test_without_a_lasting_record_a_retry_finds_the_job(adapter: VertexAdapter, slot: Slot, file_id: str) -> None:
    def forgetful() -> Ledger[BatchRecord]:
        return Ledger(MemoryStore(), "batch", BatchRecord, durable=False)

    first = submit(adapter, forgetful(), slot, file_id)
    assert submit(adapter, forgetful(), slot, file_id, RETRY).id == first.id
    assert made(adapter, slot, file_id) == [first.id]


def test_metadata_that_cannot_be_labels_send_nothing(
    adapter: VertexAdapter, proxy: FaultProxy, ledger: Ledger[BatchRecord], slot: Slot
) -> None:
    with pytest.raises(BatchInputError, match="'Team' cannot be the name of a label"):
        submit(adapter, ledger, slot, "gs://bucket/in.jsonl", metadata={"Team": "search"})
    assert proxy.requests == []


def test_an_upload_whose_record_was_lost_is_found_by_its_name_though_its_size_is_another(
    adapter: VertexAdapter, slot: Slot
) -> None:
    first = upload(adapter, slot, Ledger(MemoryStore(), "file", FileRecord, durable=True))
    again = upload(adapter, slot, Ledger(MemoryStore(), "file", FileRecord, durable=True), RETRY)
    assert (again, [file.id for file in adapter.list_files()]) == (first, [first.id])
