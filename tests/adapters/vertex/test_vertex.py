"""Vertex AI's adapter keeps the contract, on the real face beside a real emulator; and what differs from OpenAI's."""

from __future__ import annotations

import io
import json
import uuid
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import structlog
from support.adapter_contract import CHAT, AdapterContract, WatchedStream, chat_line, unique_name, until_ended
from support.fault_proxy import Answer, FaultProxy, fault_proxy
from support.vertex import BUCKET
from typing_extensions import override

from airflow_provider_llmbatch.adapters.vertex import adapter as vertex_adapter
from airflow_provider_llmbatch.adapters.vertex.credentials import Identity
from airflow_provider_llmbatch.adapters.vertex.jobs import batch_of
from airflow_provider_llmbatch.core.jsonl import check_requests
from airflow_provider_llmbatch.core.results import merge_results
from airflow_provider_llmbatch.errors import (
    BatchInputError,
    ConnectionSettingsError,
    NotFoundError,
    RequestRefusedError,
    UnexpectedAnswerError,
)
from airflow_provider_llmbatch.models import Batch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from adapters.conftest import ConnectVertex
    from support.gcs import RunningStorage
    from support.server import RunningServer

    from airflow_provider_llmbatch.adapters.base import Adapter
    from airflow_provider_llmbatch.adapters.vertex.adapter import VertexAdapter
    from airflow_provider_llmbatch.models import BatchStatus

JOBS = "/batchPredictionJobs$"
PARENT = "projects/analytics/locations/us-central1"
NAME = "projects/123456789012/locations/us-central1/batchPredictionJobs"
NATIVE = b'{"request": {"contents": [], "labels": {"llmbatch_id": "%s"}}}'
"""A line in Vertex AI's own format, which fails when it is run."""

ANSWER = {"candidates": [{"content": {"parts": [{"text": "x"}]}, "finishReason": "STOP"}]}


class TestVertex(AdapterContract):
    statuses: ClassVar[Mapping[str, BatchStatus]] = {
        "JOB_STATE_QUEUED": "validating",
        "JOB_STATE_PENDING": "validating",
        "JOB_STATE_RUNNING": "in_progress",
        "JOB_STATE_UPDATING": "in_progress",
        "JOB_STATE_CANCELLING": "cancelling",
        "JOB_STATE_SUCCEEDED": "completed",
        "JOB_STATE_PARTIALLY_SUCCEEDED": "completed",
        "JOB_STATE_FAILED": "failed",
        "JOB_STATE_CANCELLED": "cancelled",
        "JOB_STATE_EXPIRED": "expired",
        "JOB_STATE_PAUSED": "cancelled",
    }
    unknown_file_id: ClassVar[str] = f"gs://{BUCKET}/files/none/none.jsonl"
    unknown_batch_id: ClassVar[str] = f"{NAME}/404"

    @override
    @pytest.fixture
    def adapter(self, connect_vertex: ConnectVertex) -> VertexAdapter:
        return connect_vertex(model="echo")  # for lines that cannot name one

    @override
    @pytest.fixture
    def pages_of_two(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(vertex_adapter, "_JOBS_PER_PAGE", 2)
        monkeypatch.setattr("airflow_provider_llmbatch.adapters.vertex.storage._PER_PAGE", 2)

    @override
    def batch_with_status(self, word: str) -> Batch:
        return batch_of({"name": f"{NAME}/1", "state": word})

    @override
    def failing_line(self, custom_id: str) -> bytes:
        return NATIVE % custom_id.encode() + b"\n"

    @override
    def test_an_upload_is_read_in_small_blocks_and_described_by_its_answer(self, adapter: Adapter) -> None:
        # Its size is that of what is stored, which is in another format.
        stream = WatchedStream(b"".join(chat_line(f"r{n}", "x" * 10_000) for n in range(200)))
        file = adapter.create_file(stream, filename=(name := unique_name()))
        stored = b"".join(adapter.file_content(file.id))
        assert (file.bytes, file.filename, file.purpose, file.provider) == (len(stored), name, "batch", "vertex")
        assert len(stored) > 200 * 10_000
        assert all(size is not None and 0 < size <= 1024 * 1024 for size in stream.reads)
        assert len(stream.reads) > 2

    @override
    def test_an_upload_begins_where_the_stream_stands(self, adapter: Adapter) -> None:
        stream = io.BytesIO(b"not this\n" + chat_line("a", "this"))
        stream.seek(len(b"not this\n"))
        file = adapter.create_file(stream, filename=unique_name())
        [line] = b"".join(adapter.file_content(file.id)).splitlines()
        assert json.loads(line) == {
            "request": {"contents": [{"role": "user", "parts": [{"text": "this"}]}], "labels": {"llmbatch_id": "a"}}
        }

    @override
    def test_content_comes_back_byte_for_byte(self, adapter: Adapter) -> None:
        # What is in Vertex AI's own format already does.
        def native(row: str, text: str) -> bytes:
            request = {"labels": {"llmbatch_id": row}, "contents": [{"parts": [{"text": text}], "role": "user"}]}
            return json.dumps({"request": request}, ensure_ascii=False).encode()

        content = native("a", "ä-日本-\u2028 --boundary--\x7f") + b"\n" + native("b", "x" * 3_000_000) + b"\n"
        file = adapter.create_file(io.BytesIO(content), filename=unique_name())
        assert b"".join(adapter.file_content(file.id)) == content

    @override
    def test_the_connection_test_says_what_it_found(self, adapter: Adapter) -> None:
        batch = self.create(adapter)
        told = adapter.ping()
        assert told.startswith(f"The server at 127.0.0.1 accepts the identity for {PARENT}, and one of its batches is ")
        assert told.endswith(f"). The bucket gs://{BUCKET}/ can be listed.")
        assert batch.id.rpartition("/")[0] in told


def results_of(adapter: Adapter, batch: Batch) -> dict[str, str]:
    return {r.custom_id: r.outcome for r in merge_results(adapter, batch, log=structlog.get_logger())}


def run(adapter: Adapter, *lines: bytes) -> Batch:
    file = adapter.create_file(io.BytesIO(b"".join(lines)), filename=unique_name())
    return until_ended(adapter, adapter.create_batch(file.id, endpoint=CHAT).id)


def test_ids_of_any_characters_come_back_through_every_shard(connect_vertex: ConnectVertex) -> None:
    adapter = connect_vertex()
    ids = [f"Row {n}: é/日本 {'x' * 100}" for n in range(120)]
    batch = run(adapter, *(chat_line(row, "hello") for row in ids))
    assert results_of(adapter, batch) == dict.fromkeys(ids, "succeeded")
    assert (batch.request_counts.total, batch.model) == (120, "echo")


class Pipe(io.RawIOBase):
    """Can be read once, and not be rewound."""

    def __init__(self, content: bytes) -> None:
        self._content = io.BytesIO(content)

    @override
    def readable(self) -> bool:
        return True

    @override
    def readinto(self, buffer: Any, /) -> int:
        return self._content.readinto(buffer)


def test_the_number_of_requests_is_known_from_the_beginning_if_the_source_could_be_counted(
    connect_vertex: ConnectVertex,
) -> None:
    adapter = connect_vertex()
    content = chat_line("a", "x") + chat_line("b", "x")[:-1]
    totals = []
    for stream in (io.BytesIO(content), Pipe(content)):
        file = adapter.create_file(stream, filename=unique_name())  # type: ignore[arg-type]
        batch = adapter.create_batch(file.id, endpoint=CHAT)
        totals.append((batch.request_counts.total, batch.metadata))
    assert totals == [(2, None), (0, None)]


def test_the_output_is_a_file_too_which_can_be_looked_up_read_and_deleted(
    connect_vertex: ConnectVertex, gcs: RunningStorage
) -> None:
    adapter = connect_vertex()
    batch = run(adapter, *(chat_line(f"r{n}", "hello") for n in range(60)))
    output = batch.output_file_id
    assert output is not None
    folder = output.removeprefix(f"gs://{BUCKET}/")
    shards = [name for name in gcs.names(BUCKET, folder) if "incremental" not in name]
    file = adapter.retrieve_file(output)
    assert (len(shards), file.bytes) == (2, sum(len(gcs.content(BUCKET, shard)) for shard in shards))
    assert (file.id, file.purpose, file.provider) == (output, "batch_output", "vertex")
    lines = [json.loads(line) for line in b"".join(adapter.file_content(output)).splitlines()]
    assert sorted(line["custom_id"] for line in lines) == sorted(f"r{n}" for n in range(60))
    assert {line["response"]["body"]["choices"][0]["message"]["content"] for line in lines} == {"hello"}
    adapter.delete_file(output)
    assert gcs.names(BUCKET, folder) == []
    with pytest.raises(NotFoundError, match="There are no predictions in"):
        adapter.retrieve_file(output)
    with pytest.raises(NotFoundError, match="There are no predictions in"):
        results_of(adapter, batch)
    with pytest.raises(NotFoundError):
        adapter.delete_file(output)


@pytest.mark.parametrize(
    "folder", ["gs://other-bucket/batches/x/", f"gs://{BUCKET}/", f"gs://{BUCKET}/batches/", f"gs://{BUCKET}/files/"]
)
def test_no_folder_but_that_of_one_batch_is_ever_deleted(connect_vertex: ConnectVertex, folder: str) -> None:
    with pytest.raises(BatchInputError, match="nothing in it was deleted"):
        connect_vertex().delete_file(folder)


def test_what_was_lost_of_an_output_is_missing_and_one_bad_line_costs_one_row(
    connect_vertex: ConnectVertex, gcs: RunningStorage
) -> None:
    adapter = connect_vertex()
    batch = run(adapter, *(chat_line(f"r{n}", "hello") for n in range(4)))
    folder = (batch.output_file_id or "").removeprefix(f"gs://{BUCKET}/")
    [shard] = [name for name in gcs.names(BUCKET, folder) if "incremental" not in name]
    rows = {json.loads(row)["request"]["labels"]["llmbatch_id"]: row for row in gcs.content(BUCKET, shard).splitlines()}
    gcs.put(BUCKET, shard, b"\n".join([rows["r0"], b'{"half', b"", rows["r3"][:-20], rows["r2"]]))
    assert results_of(adapter, batch) == {"r0": "succeeded", "r1": "missing", "r2": "succeeded", "r3": "missing"}


def test_a_failed_job_keeps_what_it_had(connect_vertex: ConnectVertex, gcs: RunningStorage) -> None:
    adapter = connect_vertex()
    ended = run(adapter, *(chat_line(f"r{n}", "hello") for n in range(3)))
    [prefix, _] = (ended.output_file_id or "").split("prediction-model")
    folder = (ended.output_file_id or "").removeprefix(f"gs://{BUCKET}/")
    [shard] = [name for name in gcs.names(BUCKET, folder) if "incremental" not in name]
    gcs.put(BUCKET, shard, b"".join(gcs.content(BUCKET, shard).splitlines(keepends=True)[:1]))
    failed = ended.model_copy(update={"status": "failed", "output_file_id": prefix})
    assert sorted(results_of(adapter, failed).values()) == ["missing", "missing", "succeeded"]


def test_a_stopped_job_whose_results_were_deleted_does_not_say_what_it_never_answered(
    connect_vertex: ConnectVertex, gcs: RunningStorage
) -> None:
    adapter = connect_vertex()
    ended = run(adapter, chat_line("a", "hello"))
    [prefix, _] = (ended.output_file_id or "").split("prediction-model")
    stopped = ended.model_copy(update={"status": "cancelled", "output_file_id": prefix})
    adapter.delete_file(prefix)
    assert results_of(adapter, stopped) == {"a": "missing"}
    gcs.put(BUCKET, f"{prefix.removeprefix(f'gs://{BUCKET}/')}prediction-model/predictions.jsonl", b"")
    assert results_of(adapter, stopped) == {"a": "cancelled"}  # there, and without a row


def test_of_a_job_that_got_no_further_the_incremental_file_counts(
    connect_vertex: ConnectVertex, gcs: RunningStorage
) -> None:
    adapter = connect_vertex(bucket=f"gs://{BUCKET}/{uuid.uuid4().hex}")
    file = adapter.create_file(io.BytesIO(chat_line("a", "x") + chat_line("b", "x")), filename="in.jsonl")
    output = adapter._bucket.uri("batches/stopped/")
    rows = [{"request": {"labels": {"llmbatch_id": row}}, "status": "", "response": ANSWER} for row in ("a", "a")]
    content = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    folder = output.removeprefix(f"gs://{BUCKET}/")
    gcs.put(BUCKET, f"{folder}prediction-model-x/incremental_predictions.jsonl", content)
    batch = Batch(id=f"{NAME}/1", status="expired", input_file_id=file.id, output_file_id=output)
    assert results_of(adapter, batch) == {"a": "succeeded", "b": "expired"}


def test_a_job_that_was_cancelled_before_it_began_has_an_outcome_for_each_request(
    connect_vertex: ConnectVertex,
) -> None:
    adapter = connect_vertex()
    file = adapter.create_file(io.BytesIO(chat_line("a", "x") + chat_line("b", "x")), filename=unique_name())
    batch = adapter.create_batch(file.id, endpoint=CHAT).model_copy(update={"status": "cancelled"})
    assert results_of(adapter, batch) == {"a": "cancelled", "b": "cancelled"}


def test_the_model_of_lines_that_name_none_is_the_connections(connect_vertex: ConnectVertex) -> None:
    body = {"messages": [{"role": "user", "content": "hello"}]}
    line = json.dumps({"custom_id": "a", "method": "POST", "url": CHAT, "body": body}).encode()
    batch = run(connect_vertex(model="my-echo"), line)
    assert (batch.model, batch.status) == ("my-echo", "completed")
    with pytest.raises(BatchInputError, match="name no model, and the connection has no default one"):
        connect_vertex().create_file(io.BytesIO(line), filename="in.jsonl")
    with pytest.raises(BatchInputError, match=r"Line 1 of in\.jsonl names no model"):
        preflight(connect_vertex(), line)


def preflight(adapter: VertexAdapter, *lines: bytes) -> None:
    stream = io.BytesIO(b"\n".join(line.rstrip() for line in lines))
    check_requests(stream, name="in.jsonl", limits=adapter.limits, line_check=adapter.line_check())


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (
            [chat_line("a", "x"), chat_line("b", "x").replace(b'"model"', b'"logit_bias": {"1": 2}, "model"')],
            'Line 2 of in.jsonl has "logit_bias", which Gemini cannot do; list "logit_bias" in the connection\'s',
        ),
        ([chat_line("a", "x").replace(b"chat/completions", b"embeddings")], "a batch can have one of /v1/chat/compl"),
        ([b"{}"], "Line 1 of in.jsonl is no batch request: Object missing required field `custom_id`"),
        ([b'{"request": {"contents": []}}'], "does not say whose answer it will be"),
        ([b'{"custom_id": "a", "request": {"anthropic_version": "v"}}'], "is a request to Claude"),
        ([b'{"content": "text"}'], "is a request for embeddings in Vertex AI's own format"),
        ([chat_line("b", "x"), NATIVE % b"a", NATIVE % b"a"], "Line 2 of in.jsonl asks for the model the provider's"),
        ([NATIVE % b"a"], "Line 1 of in.jsonl names no model, and the connection has no default one"),
    ],
)
def test_what_gemini_cannot_do_is_refused_before_the_upload(
    connect_vertex: ConnectVertex, lines: list[bytes], problem: str
) -> None:
    with pytest.raises(BatchInputError) as refused:
        preflight(connect_vertex(), *lines)
    assert problem in str(refused.value)
    assert "Nothing was uploaded or billed" in str(refused.value)


@pytest.mark.parametrize("line", [NATIVE % b"a", chat_line("a", "x").replace(b'"model"', b'"user"')])
def test_a_default_model_that_cannot_run_chat_is_refused_before_the_upload(
    connect_vertex: ConnectVertex, line: bytes
) -> None:
    adapter = connect_vertex(model="claude-sonnet-4-5")
    with pytest.raises(BatchInputError, match=r'the connection\'s default one is "claude-sonnet-4-5".* or billed'):
        preflight(adapter, line)
    with pytest.raises(BatchInputError, match=r'the connection\'s default one is "claude-sonnet-4-5".* billed'):
        adapter.create_file(io.BytesIO(line), filename="in.jsonl")


def test_lines_of_vertex_ais_own_pass_unchanged_and_their_answers_come_back(connect_vertex: ConnectVertex) -> None:
    adapter = connect_vertex(model="echo")
    native = json.dumps(
        {"request": {"labels": {"llmbatch_id": "a"}, "contents": [{"role": "user", "parts": [{"text": "hi"}]}]}}
    ).encode()
    preflight(adapter, native)
    with pytest.raises(BatchInputError, match=r"Line 2 of in\.jsonl has the label llmbatch_id"):
        preflight(adapter, native, native)
    assert results_of(adapter, run(adapter, native)) == {"a": "succeeded"}


def test_a_line_that_is_refused_in_the_middle_of_an_upload_leaves_no_object(
    connect_vertex: ConnectVertex, gcs: RunningStorage
) -> None:
    adapter = connect_vertex(bucket=f"gs://{BUCKET}/{uuid.uuid4().hex}")
    lines = [*(chat_line(f"r{n}", "x" * 1_000) for n in range(1_000)), b"{}\n"]
    with pytest.raises(BatchInputError, match=r"Line 1001 of in\.jsonl"):
        adapter.create_file(io.BytesIO(b"".join(lines)), filename="in.jsonl")
    assert list(adapter.list_files()) == []
    assert gcs.names(BUCKET, adapter._bucket.uri("").removeprefix(f"gs://{BUCKET}/")) == []


def test_files_of_another_purpose_are_stored_as_they_are(connect_vertex: ConnectVertex) -> None:
    adapter = connect_vertex(bucket=f"gs://{BUCKET}/{uuid.uuid4().hex}/")
    file = adapter.create_file(io.BytesIO(b"anything"), filename="notes.txt", purpose="user_data")
    assert b"".join(adapter.file_content(file.id)) == b"anything"
    batch_file = adapter.create_file(io.BytesIO(chat_line("a", "x")), filename="in.jsonl")
    assert [f.id for f in adapter.list_files(purpose="user_data")] == [file.id]
    assert {f.id for f in adapter.list_files()} == {file.id, batch_file.id}
    assert list(adapter.list_files(limit=0)) == []


@pytest.mark.parametrize(
    "options",
    [
        {"endpoint": "/v1/embeddings"},
        {"endpoint": CHAT, "completion_window": "1h"},
        {"endpoint": CHAT, "output_expires_after": 3600},
    ],
)
def test_what_vertex_ai_has_not_is_refused_before_anything_is_sent(
    connect_vertex: ConnectVertex, canned: FaultProxy, options: dict[str, str]
) -> None:
    adapter = connect_vertex(canned.url, storage_url=canned.url)
    with pytest.raises(BatchInputError, match="Nothing was"):
        adapter.create_batch("gs://bucket/in.jsonl", **options)  # type: ignore[arg-type]
    with pytest.raises(BatchInputError, match="lifecycle rule"):
        adapter.create_file(io.BytesIO(chat_line("a", "x")), filename="in.jsonl", expires_after=3600)
    assert canned.requests == []


@pytest.mark.parametrize("file_id", ["file-1", "gs://bucket", "gs:///x", "https://storage/x", ""])
def test_an_id_that_is_no_object_sends_nothing(connect_vertex: ConnectVertex, canned: FaultProxy, file_id: str) -> None:
    adapter = connect_vertex(canned.url, storage_url=canned.url)
    for ask in (adapter.retrieve_file, adapter.delete_file, adapter.file_content):
        with pytest.raises(BatchInputError, match="is no id of a file on Vertex AI"):
            ask(file_id)
    assert canned.requests == []


@pytest.mark.parametrize("batch_id", ["batch_1", "", "..", f"{NAME}/x", f"{NAME}/1/../2", "projects/p"])
def test_an_id_that_is_no_job_sends_nothing(connect_vertex: ConnectVertex, canned: FaultProxy, batch_id: str) -> None:
    adapter = connect_vertex(canned.url)
    for ask in (adapter.retrieve_batch, adapter.cancel_batch):
        with pytest.raises(BatchInputError, match="is no id of a batch on Vertex AI"):
            ask(batch_id)
    assert (canned.requests, adapter.console_url(batch_id)) == ([], None)


def test_the_number_that_the_console_shows_will_do(connect_vertex: ConnectVertex) -> None:
    adapter = connect_vertex()
    batch = run(adapter, chat_line("a", "x"))
    assert adapter.retrieve_batch(batch.id.rpartition("/")[2]) == batch


def page(*names: str, token: str | None = None) -> Answer:
    jobs = [{"name": f"{NAME}/{name}", "state": "JOB_STATE_RUNNING"} for name in names]
    return Answer(200, json.dumps({"batchPredictionJobs": jobs, "nextPageToken": token or ""}).encode())


def test_a_key_is_looked_for_by_the_services_own_filter(connect_vertex: ConnectVertex) -> None:
    adapter = connect_vertex()
    file = adapter.create_file(io.BytesIO(chat_line("a", "x")), filename=unique_name())
    key = f"llmb-{uuid.uuid4().hex}"
    batch = adapter.create_batch(file.id, endpoint=CHAT, metadata={"llmbatch_key": key})
    adapter.create_batch(file.id, endpoint=CHAT, metadata={"llmbatch_key": "llmb-other"})
    assert [found.id for found in adapter.list_batches_with("llmbatch_key", key)] == [batch.id]


def test_a_list_that_leads_round_in_a_circle_ends_with_each_batch_once(
    connect_vertex: ConnectVertex, canned: FaultProxy
) -> None:
    for _ in range(2):
        for answer in (page("1", "2", token="a"), page("3", token="b"), page("4", "1", token="a")):
            canned.rule("GET", JOBS, answer)
    listed = [batch.id.rpartition("/")[2] for batch in connect_vertex(canned.url).list_batches()]
    assert (listed, len(canned.requests)) == (["1", "2", "3", "4"], 3)


def test_the_filter_is_sent_with_every_page_and_a_page_that_repeats_ends_the_list(
    connect_vertex: ConnectVertex, canned: FaultProxy
) -> None:
    canned.rule("GET", JOBS, page("1", token="t"))
    canned.rule("GET", JOBS, page("2", token="t"), times=None)
    found = connect_vertex(canned.url).list_batches_with("llmbatch_key", "llmb-1")
    assert [batch.id for batch in found] == [f"{NAME}/1", f"{NAME}/2"]
    asked = "filter=labels.llmbatch_key%3D%22llmb-1%22&pageSize=100"
    assert [request.path.partition("?")[2] for request in canned.requests] == [
        asked,
        "filter=labels.llmbatch_key%3D%22llmb-1%22&pageToken=t&pageSize=100",
    ]


def test_a_list_with_jobs_of_others_is_read_on(connect_vertex: ConnectVertex, canned: FaultProxy) -> None:
    foreign = {
        "name": f"{NAME}/7",
        "state": "JOB_STATE_SUCCEEDED",
        "inputConfig": {"bigquerySource": {"inputUri": "bq://p.d.t"}},
        "outputInfo": {"bigqueryOutputTable": "t"},
    }
    jobs = [foreign, "odd", {"name": f"{NAME}/8"}]
    canned.rule("GET", JOBS, Answer(200, json.dumps({"batchPredictionJobs": jobs}).encode()))
    found = list(connect_vertex(canned.url).list_batches())
    assert [(batch.id, batch.status) for batch in found] == [(f"{NAME}/7", "completed"), (f"{NAME}/8", "unknown")]


def test_a_list_cannot_begin_behind_what_it_does_not_hold(connect_vertex: ConnectVertex, canned: FaultProxy) -> None:
    canned.rule("GET", JOBS, page("1", "2"), times=None)
    adapter = connect_vertex(canned.url)
    assert [batch.id for batch in adapter.list_batches(after=f"{NAME}/1")] == [f"{NAME}/2"]
    assert list(adapter.list_batches(after=f"{NAME}/2")) == []
    with pytest.raises(NotFoundError, match=r"holds no .*/3 to begin behind"):
        list(adapter.list_batches(after=f"{NAME}/3"))


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("JOB_STATE_RUNNING", ("cancelling", None)),
        ("JOB_STATE_SUCCEEDED", ("completed", "JOB_STATE_SUCCEEDED")),
    ],
)
def test_a_cancel_that_was_taken_note_of_says_so(
    connect_vertex: ConnectVertex, canned: FaultProxy, word: str, told: tuple[str, str | None]
) -> None:
    job = {"name": f"{NAME}/1", "state": word}
    canned.rule("POST", "/1:cancel$", Answer(200, b"{}"))
    canned.rule("GET", "/1$", Answer(200, json.dumps(job).encode()))
    batch = connect_vertex(canned.url).cancel_batch(f"{NAME}/1")
    assert (batch.status, batch.provider_status) == told


def test_a_cancel_that_is_refused_for_a_job_that_goes_on_is_an_error(
    connect_vertex: ConnectVertex, canned: FaultProxy
) -> None:
    job = {"name": f"{NAME}/1", "state": "JOB_STATE_PAUSED"}
    canned.rule("POST", "/1:cancel$", Answer(400, b'{"error": {"code": 400, "status": "FAILED_PRECONDITION"}}'))
    canned.rule("GET", "/1$", Answer(200, json.dumps(job).encode()))
    with pytest.raises(RequestRefusedError, match="400 FAILED_PRECONDITION"):
        connect_vertex(canned.url).cancel_batch(f"{NAME}/1")


@pytest.mark.parametrize("body", [b"[]", b"{}", b"OK"])
def test_an_answer_that_is_no_job_is_none_of_the_apis(
    connect_vertex: ConnectVertex, canned: FaultProxy, body: bytes
) -> None:
    canned.rule("GET", "/1$", Answer(200, body), times=None)
    with pytest.raises(UnexpectedAnswerError, match=r"that (are|is) no (JSON object|job)"):
        connect_vertex(canned.url).retrieve_batch(f"{NAME}/1")


def test_a_job_of_another_location_is_asked_for_at_that_locations_host(
    connect_vertex: ConnectVertex, vertex_server: RunningServer
) -> None:
    from airflow_provider_llmbatch.adapters.vertex.location import JobName

    adapter = connect_vertex(endpoint=None)
    here = JobName.parse(f"{NAME}/1")
    there = JobName.parse(f"{NAME}/1".replace("us-central1", "global"))
    assert adapter._url(here) == f"v1/{NAME}/1"
    assert adapter._url(there) == f"https://aiplatform.googleapis.com/v1/{there}"
    assert connect_vertex()._url(there) == f"v1/{there}"
    del vertex_server


def test_the_console_is_googles_where_the_api_is(connect_vertex: ConnectVertex) -> None:
    assert connect_vertex(endpoint=None).console_url(f"{NAME}/77") == (
        "https://console.cloud.google.com/agent-platform/locations/us-central1/batch-predictions/77?project=123456789012"
    )
    assert connect_vertex().console_url(f"{NAME}/77") is None


def test_where_no_batch_could_be_created_nothing_is_uploaded(connect_vertex: ConnectVertex, canned: FaultProxy) -> None:
    with pytest.raises(ConnectionSettingsError, match="'US Central' of this connection is none of Vertex AI"):
        connect_vertex(canned.url, location="US Central")
    unknown = connect_vertex(canned.url, storage_url=canned.url, project=None, identity=Identity(anonymous=True))
    for adapter in (unknown, connect_vertex(canned.url, storage_url=canned.url, project="No project")):
        with pytest.raises(ConnectionSettingsError, match=r"project.* Nothing was sent"):
            adapter.create_file(io.BytesIO(chat_line("a", "x")), filename="in.jsonl")
    assert canned.requests == []


def test_without_a_bucket_jobs_can_be_looked_at_and_nothing_else(connect_vertex: ConnectVertex) -> None:
    batch = run(connect_vertex(), chat_line("a", "x"))
    adapter = connect_vertex(bucket=None)
    assert adapter.retrieve_batch(batch.id) == batch
    with pytest.raises(ConnectionSettingsError, match="has no bucket"):
        adapter.create_file(io.BytesIO(chat_line("a", "x")), filename="in.jsonl")


def test_the_project_is_the_keys_own_unless_the_connection_names_one(
    connect_vertex: ConnectVertex, faulty_vertex: FaultProxy
) -> None:
    list(connect_vertex(faulty_vertex.url, project=None).list_batches(limit=1))
    [request] = faulty_vertex.requests
    assert request.path.startswith("/v1/projects/llmbatch-local/locations/us-central1/")


@pytest.fixture
def faulty_vertex(vertex_server: RunningServer) -> Iterator[FaultProxy]:
    with fault_proxy(vertex_server.url) as proxy:
        yield proxy


@pytest.mark.parametrize("endpoint", ["ftp://x", "no host", "https://host/path"])
def test_an_endpoint_that_is_none_is_refused(connect_vertex: ConnectVertex, endpoint: str) -> None:
    with pytest.raises(ConnectionSettingsError, match="is not of the form https://host"):
        connect_vertex(endpoint)
