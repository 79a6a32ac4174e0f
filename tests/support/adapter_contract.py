"""What every adapter must do, against a real server: subclass it, name the server's adapter and what differs.

::

    class TestOpenAI(AdapterContract):
        @pytest.fixture
        def adapter(self, echo_server): ...
"""

from __future__ import annotations

import io
import json
import time
import uuid
from itertools import islice
from typing import TYPE_CHECKING, ClassVar

import pytest
import structlog
from typing_extensions import override

from airflow_provider_llmbatch.core.results import merge_results
from airflow_provider_llmbatch.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_llmbatch.adapters.base import Adapter
    from airflow_provider_llmbatch.models import Batch, BatchStatus, File

CHAT = "/v1/chat/completions"
_LARGEST_READ = 1024 * 1024
_PATIENCE = 30.0


def chat_line(custom_id: str, text: str | None, model: str = "echo") -> bytes:
    """A request line with its line end; without a text one that a server refuses when it runs it."""
    messages = [{"role": "user", "content": text}] if text is not None else []
    body = {"model": model, "messages": messages}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body}).encode() + b"\n"


def unique_name() -> str:
    return f"{uuid.uuid4().hex}.jsonl"


def until_ended(adapter: Adapter, batch_id: str) -> Batch:
    give_up = time.monotonic() + _PATIENCE
    while not (batch := adapter.retrieve_batch(batch_id)).is_terminal:
        assert time.monotonic() < give_up, f"{batch_id} is still {batch.status}"
        time.sleep(0.02)
    return batch


class WatchedStream(io.BytesIO):
    """Remembers how much was asked for at a time."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.reads: list[int | None] = []

    @override
    def read(self, size: int | None = -1, /) -> bytes:
        self.reads.append(size)
        return super().read(size)


class AdapterContract:
    statuses: ClassVar[Mapping[str, BatchStatus]]
    """Every status word of the provider, and ours for it."""

    unknown_file_id: ClassVar[str]
    unknown_batch_id: ClassVar[str]

    @pytest.fixture
    def adapter(self) -> Adapter:
        raise NotImplementedError

    @pytest.fixture
    def pages_of_two(self) -> None:
        """Make the adapter ask for two items at a time, so that listings have several pages."""
        raise NotImplementedError

    def batch_with_status(self, word: str) -> Batch:
        """What the adapter makes of a batch with a provider's status word."""
        raise NotImplementedError

    def failing_line(self, custom_id: str) -> bytes:
        """A line that can be uploaded, and fails when it is run."""
        return chat_line(custom_id, None)

    def upload(self, adapter: Adapter, *lines: bytes) -> File:
        return adapter.create_file(io.BytesIO(b"".join(lines)), filename=unique_name())

    def create(self, adapter: Adapter, *lines: bytes, metadata: Mapping[str, str] | None = None) -> Batch:
        file = self.upload(adapter, *(lines or (chat_line("a", "hello"),)))
        return adapter.create_batch(file.id, endpoint=CHAT, metadata=metadata)

    def test_an_upload_is_read_in_small_blocks_and_described_by_its_answer(self, adapter: Adapter) -> None:
        content = b"".join(chat_line(f"r{n}", "x" * 10_000) for n in range(200))
        stream = WatchedStream(content)
        file = adapter.create_file(stream, filename=(name := unique_name()))
        assert (file.bytes, file.filename, file.purpose, file.provider) == (
            len(content),
            name,
            "batch",
            adapter.provider,
        )
        assert len(stream.reads) > 2
        assert all(size is not None and 0 < size <= _LARGEST_READ for size in stream.reads)

    def test_an_upload_begins_where_the_stream_stands(self, adapter: Adapter) -> None:
        stream = io.BytesIO(b"not this\n" + chat_line("a", "this"))
        stream.seek(len(b"not this\n"))
        file = adapter.create_file(stream, filename=unique_name())
        assert b"".join(adapter.file_content(file.id)) == chat_line("a", "this")

    def test_content_comes_back_byte_for_byte(self, adapter: Adapter) -> None:
        content = chat_line("ä-日本-\u2028", "--\r\n\r\n--boundary--\r\n\x7f") + chat_line("b", "x" * 3_000_000)[:-1]
        assert b"".join(adapter.file_content(self.upload(adapter, content).id)) == content

    def test_a_retrieved_file_is_the_one_that_was_created(self, adapter: Adapter) -> None:
        file = self.upload(adapter, chat_line("a", "hello"))
        assert adapter.retrieve_file(file.id) == file

    @pytest.mark.usefixtures("pages_of_two")
    def test_files_are_listed_beyond_one_page_and_up_to_the_limit(self, adapter: Adapter) -> None:
        ids = [self.upload(adapter, chat_line("a", str(n))).id for n in range(5)]
        listed = [file.id for file in adapter.list_files()]
        assert set(ids) <= set(listed)
        assert len(listed) == len(set(listed))
        assert [file.id for file in adapter.list_files(limit=3)] == listed[:3]

    def test_files_are_listed_by_purpose(self, adapter: Adapter) -> None:
        self.create(adapter)
        assert {file.purpose for file in adapter.list_files(purpose="batch")} == {"batch"}

    def test_a_deleted_file_is_gone(self, adapter: Adapter) -> None:
        file = self.upload(adapter, chat_line("a", "hello"))
        adapter.delete_file(file.id)
        with pytest.raises(NotFoundError):
            adapter.retrieve_file(file.id)
        assert file.id not in {listed.id for listed in adapter.list_files()}

    def test_unknown_ids_are_not_found(self, adapter: Adapter) -> None:
        with pytest.raises(NotFoundError):
            adapter.retrieve_file(self.unknown_file_id)
        with pytest.raises(NotFoundError):
            b"".join(adapter.file_content(self.unknown_file_id))
        with pytest.raises(NotFoundError):
            adapter.delete_file(self.unknown_file_id)
        with pytest.raises(NotFoundError):
            adapter.retrieve_batch(self.unknown_batch_id)
        with pytest.raises(NotFoundError):
            adapter.cancel_batch(self.unknown_batch_id)

    def test_a_batch_keeps_what_it_was_created_with(self, adapter: Adapter) -> None:
        metadata = {"team": "search", "llmbatch_key": "llmb-" + "a2" * 16}
        file = self.upload(adapter, chat_line("a", "hello"))
        created = adapter.create_batch(file.id, endpoint=CHAT, metadata=metadata)
        batch = adapter.retrieve_batch(created.id)
        for seen in (created, batch):
            assert (seen.id, seen.input_file_id, seen.endpoint) == (created.id, file.id, CHAT)
            assert (seen.completion_window, seen.metadata, seen.provider) == ("24h", metadata, adapter.provider)
        assert created.created_at is not None
        assert abs(created.created_at - time.time()) < 60

    def test_a_batch_ends_with_one_outcome_for_each_request(self, adapter: Adapter) -> None:
        good = [chat_line(f"good-{n}", f"say {n}") for n in range(5)]
        batch = until_ended(adapter, self.create(adapter, *good[:3], self.failing_line("bad"), *good[3:]).id)
        assert (batch.status, batch.request_counts.model_dump()) == (
            "completed",
            {"total": 6, "completed": 5, "failed": 1},
        )
        results = list(merge_results(adapter, batch, log=structlog.get_logger()))
        assert {r.custom_id: r.outcome for r in results} == {
            **{f"good-{n}": "succeeded" for n in range(5)},
            "bad": "failed",
        }
        assert len(results) == 6

    def test_results_hold_the_endpoints_own_answer(self, adapter: Adapter) -> None:
        batch = until_ended(adapter, self.create(adapter, chat_line("a", "say this")).id)
        [result] = merge_results(adapter, batch, log=structlog.get_logger())
        assert result.response is not None
        body = json.loads(bytes(result.response.body))
        assert body["choices"][0]["message"]["content"] == "say this"
        assert result.error is None

    @pytest.mark.usefixtures("pages_of_two")
    def test_batches_are_listed_beyond_one_page(self, adapter: Adapter) -> None:
        ids = [self.create(adapter).id for _ in range(5)]
        listed = [batch.id for batch in adapter.list_batches()]
        assert set(ids) <= set(listed)
        assert len(listed) == len(set(listed))

    @pytest.mark.usefixtures("pages_of_two")
    def test_a_listing_of_batches_begins_after_a_batch_and_ends_at_its_limit(self, adapter: Adapter) -> None:
        for _ in range(5):
            self.create(adapter)
        listed = [batch.id for batch in adapter.list_batches()]
        assert [batch.id for batch in adapter.list_batches(limit=3)] == listed[:3]
        assert [batch.id for batch in adapter.list_batches(after=listed[1], limit=3)] == listed[2:5]
        assert list(adapter.list_batches(limit=0)) == []

    def test_a_listing_stops_asking_when_nobody_reads_on(self, adapter: Adapter) -> None:
        created = self.create(adapter)
        assert created.id in [batch.id for batch in islice(adapter.list_batches(), 20)]

    def test_a_cancelled_batch_keeps_an_outcome_for_each_request(self, adapter: Adapter) -> None:
        lines = [chat_line(f"r{n}", "hello") for n in range(20_000)]
        batch = self.create(adapter, *lines)
        assert adapter.cancel_batch(batch.id).status in ("cancelling", "cancelled")
        ended = until_ended(adapter, batch.id)
        results = list(merge_results(adapter, ended, log=structlog.get_logger()))
        assert ended.status == "cancelled"
        assert {r.custom_id for r in results} == {f"r{n}" for n in range(20_000)}
        assert len(results) == 20_000
        assert "cancelled" in {r.outcome for r in results} <= {"cancelled", "succeeded"}

    def test_cancelling_a_batch_that_ended_returns_it_as_it_is(self, adapter: Adapter) -> None:
        ended = until_ended(adapter, self.create(adapter).id)
        assert adapter.cancel_batch(ended.id) == ended

    def test_the_connection_test_says_what_it_found(self, adapter: Adapter) -> None:
        self.create(adapter)
        assert "accepts the key" in adapter.ping()

    def test_every_status_of_the_provider_has_one_of_ours(self) -> None:
        assert {word: self.batch_with_status(word).status for word in self.statuses} == dict(self.statuses)

    def test_a_status_that_no_table_knows_is_unknown_and_not_an_end(self) -> None:
        batch = self.batch_with_status("paused_by_new_feature")
        assert (batch.status, batch.provider_status, batch.is_terminal) == ("unknown", "paused_by_new_feature", False)
