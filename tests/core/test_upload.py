"""One input, uploaded once: against a real server, which is asked afterwards what it has."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import pytest
import structlog
from structlog.testing import capture_logs
from support.fault_proxy import Answer, LoseAnswer, fault_proxy
from support.server import running_server

from airflow_provider_llmbatch.adapters.http import TransportSettings
from airflow_provider_llmbatch.adapters.openai import OpenAIAdapter, OpenAISettings
from airflow_provider_llmbatch.core.jsonl import check_requests
from airflow_provider_llmbatch.core.ledger import FileRecord, Ledger, MemoryStore
from airflow_provider_llmbatch.core.submit import Attempt, Slot
from airflow_provider_llmbatch.core.upload import submit_file
from airflow_provider_llmbatch.errors import LedgerError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import JsonValue
    from support.fault_proxy import FaultProxy
    from support.server import RunningServer

    from airflow_provider_llmbatch.models import File

FIRST, RETRY = Attempt(try_number=1, max_tries=2), Attempt(try_number=2, max_tries=2)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def proxy(server: RunningServer) -> Iterator[FaultProxy]:
    with fault_proxy(server.url) as running:
        yield running


@pytest.fixture
def adapter(server: RunningServer, proxy: FaultProxy) -> Iterator[OpenAIAdapter]:
    transport = TransportSettings(max_attempts=1)
    running = OpenAIAdapter(OpenAISettings(api_key=server.api_key, base_url=proxy.url, transport=transport))
    yield running
    running.close()


@pytest.fixture
def slot(request: pytest.FixtureRequest) -> Slot:
    """One of each test's own, since they share the server."""
    return Slot("https://airflow.test", "dag", "run", request.node.name)


@pytest.fixture
def ledger() -> Ledger[FileRecord]:
    return Ledger(MemoryStore(), "file", FileRecord, durable=True)


class Uploading:
    def __init__(self, adapter: OpenAIAdapter, slot: Slot, proxy: FaultProxy) -> None:
        self._adapter, self._slot, self._proxy = adapter, slot, proxy

    def __call__(
        self, ledger: Ledger[FileRecord], attempt: Attempt, *, custom_id: str = "a", filename: str | None = None
    ) -> File:
        body: JsonValue = {"model": "m", "input": "x"}
        line: JsonValue = {"custom_id": custom_id, "method": "POST", "url": "/v1/embeddings", "body": body}
        stream = io.BytesIO(json.dumps(line).encode())
        checked = check_requests(stream, name="in.jsonl", limits=self._adapter.limits)
        stream.seek(0)
        return submit_file(
            self._adapter,
            ledger,
            self._slot,
            stream,
            checked,
            filename=filename,
            attempt=attempt,
            log=structlog.get_logger(),
        )

    def count(self) -> int:
        return len(self._proxy.calls("POST", r"/files$"))


@pytest.fixture
def upload(adapter: OpenAIAdapter, slot: Slot, proxy: FaultProxy) -> Uploading:
    return Uploading(adapter, slot, proxy)


def test_a_retry_finds_the_file_by_its_record(upload: Uploading, ledger: Ledger[FileRecord]) -> None:
    first = upload(ledger, FIRST)
    with capture_logs() as lines:
        again = upload(ledger, RETRY)
    assert (again, upload.count()) == (first, 1)
    assert [line["event"] for line in lines] == [f"{first.id} has the same content already: not uploaded again"]


def test_what_was_uploaded_is_logged_with_its_size(upload: Uploading, ledger: Ledger[FileRecord]) -> None:
    with capture_logs() as lines:
        file = upload(ledger, FIRST)
    assert lines == [
        {
            "event": f"Uploaded {file.bytes} bytes as {file.id}",
            "file_id": file.id,
            "bytes": file.bytes,
            "requests": 1,
            "log_level": "info",
        }
    ]


def test_an_upload_whose_answer_was_lost_is_found_by_its_name(
    upload: Uploading, ledger: Ledger[FileRecord], proxy: FaultProxy
) -> None:
    proxy.rule("POST", r"/files$", LoseAnswer())
    with pytest.raises(UnavailableError):
        upload(ledger, FIRST)
    with capture_logs() as lines:
        found = upload(ledger, RETRY)
    assert upload.count() == 1
    assert [line["event"] for line in lines] == [f"Found {found.id}, which an earlier try uploaded: not uploaded again"]
    record = ledger.read()
    assert record is not None
    assert record.file_id == found.id


def test_without_a_record_a_retry_looks_and_a_first_try_does_not(upload: Uploading, proxy: FaultProxy) -> None:
    def forgetful() -> Ledger[FileRecord]:
        return Ledger(MemoryStore(), "file", FileRecord, durable=False)

    first = upload(forgetful(), FIRST)
    assert proxy.calls("GET", r"/files$") == []
    assert (upload(forgetful(), RETRY).id, upload.count()) == (first.id, 1)


def test_a_file_that_is_gone_is_uploaded_again(
    upload: Uploading, ledger: Ledger[FileRecord], adapter: OpenAIAdapter
) -> None:
    first = upload(ledger, FIRST)
    adapter.delete_file(first.id)
    second = upload(ledger, RETRY)
    assert (second.id != first.id, upload.count()) == (True, 2)


def test_other_content_is_another_file(upload: Uploading, ledger: Ledger[FileRecord]) -> None:
    first = upload(ledger, FIRST, custom_id="a")
    second = upload(ledger, RETRY, custom_id="b")
    assert (second.id != first.id, upload.count()) == (True, 2)


def test_a_name_of_the_users_own_is_kept_and_never_looked_for(
    upload: Uploading, ledger: Ledger[FileRecord], proxy: FaultProxy
) -> None:
    proxy.rule("POST", r"/files$", LoseAnswer())
    with pytest.raises(UnavailableError):
        upload(ledger, FIRST, filename="mine.jsonl")
    assert upload(ledger, RETRY, filename="mine.jsonl").filename == "mine.jsonl"
    assert (upload.count(), proxy.calls("GET", r"/files$")) == (2, [])


def test_a_name_of_the_users_own_does_not_make_other_content_the_same(
    upload: Uploading, ledger: Ledger[FileRecord]
) -> None:
    first = upload(ledger, FIRST, custom_id="a", filename="mine.jsonl")
    assert upload(ledger, RETRY, custom_id="b", filename="mine.jsonl").id != first.id


def test_an_outage_while_looking_uploads_nothing(
    upload: Uploading, ledger: Ledger[FileRecord], proxy: FaultProxy
) -> None:
    upload(ledger, FIRST)
    proxy.rule("GET", r"/files/", Answer(503))
    with pytest.raises(UnavailableError):
        upload(ledger, RETRY)
    assert upload.count() == 1


def test_an_attempt_whose_intent_cannot_be_written_uploads_nothing(upload: Uploading) -> None:
    class Superseded(MemoryStore):
        def set(self, key: str, value: JsonValue) -> None:
            raise ConnectionError(f"404 for {key} ({type(value).__name__})")

    with pytest.raises(LedgerError, match="could not be written"):
        upload(Ledger(Superseded(), "file", FileRecord, durable=True), FIRST)
    assert upload.count() == 0
