"""OpenAI's adapter keeps the contract, on the embedded server; and takes what servers like OpenAI's really send."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, ClassVar, get_args

import openai.types
import pytest
from support.adapter_contract import AdapterContract
from support.fault_proxy import Answer, FaultProxy, fault_proxy
from typing_extensions import override

from airflow_provider_llmbatch.adapters import openai as openai_adapter
from airflow_provider_llmbatch.adapters.openai import OpenAIAdapter, OpenAISettings
from airflow_provider_llmbatch.errors import (
    AccessRefusedError,
    BatchInputError,
    ConnectionSettingsError,
    RequestRefusedError,
    UnexpectedAnswerError,
)
from airflow_provider_llmbatch.models import BATCH_ENDPOINTS, TERMINAL_STATUSES, Batch, BatchStatus, RequestCounts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from adapters.conftest import Connect
    from support.server import RunningServer

BATCH: dict[str, object] = {
    "id": "batch_1",
    "object": "batch",
    "endpoint": "/v1/chat/completions",
    "input_file_id": "file-1",
    "completion_window": "24h",
    "status": "in_progress",
    "created_at": 1_700_000_000,
}


class TestOpenAI(AdapterContract):
    statuses: ClassVar[Mapping[str, BatchStatus]] = {
        "validating": "validating",
        "failed": "failed",
        "in_progress": "in_progress",
        "finalizing": "finalizing",
        "completed": "completed",
        "expired": "expired",
        "cancelling": "cancelling",
        "cancelled": "cancelled",
    }
    unknown_file_id = "file-unknown"
    unknown_batch_id = "batch_unknown"

    @pytest.fixture
    @override
    def adapter(self, connect: Connect, echo_server: RunningServer) -> OpenAIAdapter:
        return connect(echo_server.url, api_key=echo_server.api_key)

    @pytest.fixture
    @override
    def pages_of_two(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(openai_adapter, "_BATCHES_PER_PAGE", 2)
        monkeypatch.setattr(openai_adapter, "_FILES_PER_PAGE", 2)

    @override
    def batch_with_status(self, word: str) -> Batch:
        with fault_proxy() as server:
            server.rule("GET", "/batches/batch_1$", Answer(200, json.dumps({**BATCH, "status": word}).encode()))
            adapter = OpenAIAdapter(OpenAISettings("sk-any-key", base_url=server.url))
            try:
                return adapter.retrieve_batch("batch_1")
            finally:
                adapter.close()


def test_our_statuses_and_endpoints_are_those_of_the_official_client() -> None:
    official = get_args(openai.types.Batch.model_fields["status"].annotation)
    assert {*get_args(BatchStatus)} == {*official, "unknown"}
    assert set(official) == set(TestOpenAI.statuses)
    assert set(official) - TERMINAL_STATUSES == {"validating", "in_progress", "finalizing", "cancelling"}
    from openai.types import batch_create_params

    params = batch_create_params.BatchCreateParams.__annotations__["endpoint"]
    assert all(endpoint in str(params) for endpoint in BATCH_ENDPOINTS)
    assert str(params).count("/v1/") == len(BATCH_ENDPOINTS)


def _retrieved(connect: Connect, canned: FaultProxy, body: bytes) -> Batch:
    canned.rule("GET", "/batches/batch_1$", Answer(200, body), times=None)
    return connect(canned.url).retrieve_batch("batch_1")


def test_fields_that_are_null_empty_or_new_do_no_harm(connect: Connect, canned: FaultProxy) -> None:
    body = {
        **BATCH,
        "request_counts": None,
        "output_file_id": "",
        "error_file_id": "",
        "metadata": {"n": 1, "text": "x"},
        "usage": None,
        "errors": None,
        "completed_at": 0,
        "brand_new": {"a": 1},
    }
    batch = _retrieved(connect, canned, json.dumps(body).encode())
    assert batch == Batch.model_validate({**BATCH, "provider": "openai", "metadata": {"n": "1", "text": "x"}})
    assert (batch.request_counts, batch.has_results) == (RequestCounts(), False)


def test_counts_that_are_null_are_zero(connect: Connect, canned: FaultProxy) -> None:
    body = {**BATCH, "request_counts": {"total": 3, "completed": None}}
    assert _retrieved(connect, canned, json.dumps(body).encode()).request_counts == RequestCounts(total=3)


def test_a_batch_of_only_an_id_and_a_status_is_one(connect: Connect, canned: FaultProxy) -> None:
    batch = _retrieved(connect, canned, b'{"id": "batch_1", "status": "completed"}')
    assert batch == Batch(id="batch_1", status="completed", provider="openai")


def test_ids_may_be_uuids_and_times_iso_texts(connect: Connect, canned: FaultProxy) -> None:
    body = {**BATCH, "id": "6dd3b5f0-6f0e-4a9b-9a39-0c7b6c1e8a55", "created_at": "2023-11-14T22:13:20Z"}
    batch = _retrieved(connect, canned, json.dumps(body).encode())
    assert (batch.id, batch.created_at) == ("6dd3b5f0-6f0e-4a9b-9a39-0c7b6c1e8a55", 1_700_000_000)


def test_an_answer_may_begin_with_a_byte_order_mark(connect: Connect, canned: FaultProxy) -> None:
    assert _retrieved(connect, canned, b"\xef\xbb\xbf" + json.dumps(BATCH).encode()).id == "batch_1"


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"not JSON", b'{"id": "batch_1"', b"\xff\xfe"])
def test_a_body_that_is_no_json_object_is_unexpected(connect: Connect, canned: FaultProxy, body: bytes) -> None:
    with pytest.raises(UnexpectedAnswerError, match="are no JSON object"):
        _retrieved(connect, canned, body)


def test_json_that_is_no_batch_names_what_is_wrong(connect: Connect, canned: FaultProxy) -> None:
    with pytest.raises(UnexpectedAnswerError, match=r"no batch \(wrong or missing: id, input_file_id\)"):
        _retrieved(connect, canned, b'{"status": "completed", "input_file_id": 7}')


def test_a_listing_that_repeats_its_page_ends(connect: Connect, canned: FaultProxy) -> None:
    page = json.dumps({"object": "list", "data": [BATCH], "has_more": True}).encode()
    canned.rule("GET", "/batches$", Answer(200, page), times=None)
    assert [batch.id for batch in connect(canned.url).list_batches()] == ["batch_1"]
    assert [request.path for request in canned.requests] == ["/batches?limit=100", "/batches?after=batch_1&limit=100"]


def test_a_listing_that_leads_round_in_a_circle_ends_with_each_batch_once(connect: Connect, canned: FaultProxy) -> None:
    for _ in range(2):
        for names in (("1", "2"), ("3", "4"), ("5", "2")):
            data = [{**BATCH, "id": f"batch_{name}"} for name in names]
            canned.rule("GET", "/batches$", Answer(200, json.dumps({"data": data, "has_more": True}).encode()))
    listed = [batch.id for batch in connect(canned.url).list_batches()]
    assert listed == ["batch_1", "batch_2", "batch_3", "batch_4", "batch_5"]


@pytest.mark.parametrize("page", [{"data": None}, {}, {"data": [], "has_more": True}, {"data": ["no object"]}])
def test_a_listing_without_batches_is_empty(connect: Connect, canned: FaultProxy, page: dict[str, object]) -> None:
    canned.rule("GET", "/batches$", Answer(200, json.dumps(page).encode()))
    assert list(connect(canned.url).list_batches()) == []


@pytest.mark.parametrize(
    "body", [b"", b"refused by policy", b'"refused by policy"', b'{"detail": "refused by policy"}']
)
def test_a_refusal_without_openais_error_body_keeps_its_words(
    connect: Connect, canned: FaultProxy, body: bytes
) -> None:
    canned.rule("GET", "/batches/batch_1$", Answer(400, body))
    with pytest.raises(RequestRefusedError) as caught:
        connect(canned.url).retrieve_batch("batch_1")
    assert caught.value.status_code == 400
    assert ("refused by policy" in str(caught.value)) == bool(body)


def test_a_refusal_keeps_code_message_and_request_id(connect: Connect, canned: FaultProxy) -> None:
    error = {"message": "Bad window.", "type": "invalid_request_error", "param": None, "code": "invalid_value"}
    canned.rule("POST", "/batches$", Answer(400, json.dumps({"error": error}).encode(), {"X-Request-Id": "req_7"}))
    with pytest.raises(RequestRefusedError, match=r"400 invalid_value: Bad window, request id req_7") as caught:
        connect(canned.url).create_batch("file-1", endpoint="/v1/embeddings")
    assert (caught.value.status_code, caught.value.code, caught.value.request_id) == (400, "invalid_value", "req_7")
    assert "Nothing was billed" in str(caught.value)


def test_a_wrong_key_is_refused_at_once(connect: Connect, faulty: FaultProxy, sleeps: list[float]) -> None:
    with pytest.raises(AccessRefusedError, match="mend the key in the connection") as caught:
        connect(faulty.url, api_key="sk-wrong-key-123").ping()
    assert (caught.value.status_code, caught.value.code) == (401, "invalid_api_key")
    assert (len(faulty.requests), sleeps) == (1, [])


@pytest.mark.parametrize("identifier", ["", ".", ".."])
def test_an_id_that_would_call_something_else_is_refused(connect: Connect, canned: FaultProxy, identifier: str) -> None:
    with pytest.raises(BatchInputError, match="Nothing was sent"):
        connect(canned.url).delete_file(identifier)
    assert canned.requests == []


def test_an_id_with_a_slash_stays_one_segment(connect: Connect, canned: FaultProxy) -> None:
    canned.rule("GET", "", Answer(200, json.dumps(BATCH).encode()))
    connect(canned.url).retrieve_batch("../files/file-1?x#y")
    assert canned.requests[0].path == "/batches/..%2Ffiles%2Ffile-1%3Fx%23y"


@pytest.mark.parametrize("url", ["api.openai.com/v1", "ftp://host/v1", "", "http://", "https:///v1"])
def test_a_base_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConnectionSettingsError, match="Nothing was sent"):
        OpenAIAdapter(OpenAISettings("sk-any-key", base_url=url))


def test_only_openais_own_hosts_have_a_console(connect: Connect) -> None:
    assert (
        connect("https://eu.api.openai.com/v1").console_url("batch_1") == "https://platform.openai.com/batches/batch_1"
    )
    assert connect("http://127.0.0.1:9/v1").console_url("batch_1") is None


def test_a_gateway_that_rewrites_the_ids_of_items_gets_its_own_cursor_back(
    connect: Connect, canned: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_adapter, "_BATCHES_PER_PAGE", 1)
    for own, more in (("batch_1", True), ("batch_2", False)):
        item = {**BATCH, "id": f"batch_packed-{own}"}
        page = {"object": "list", "data": [item], "first_id": own, "last_id": own, "has_more": more}
        canned.rule("GET", "/batches$", Answer(200, json.dumps(page).encode()))
    listed = [batch.id for batch in connect(canned.url).list_batches()]
    assert listed == ["batch_packed-batch_1", "batch_packed-batch_2"]
    assert [r.path.partition("?")[2] for r in canned.requests] == ["limit=1", "after=batch_1&limit=1"]


def test_a_last_id_that_belies_the_items_is_not_followed(
    connect: Connect, canned: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_adapter, "_BATCHES_PER_PAGE", 1)
    for name, more in (("batch_1", True), ("batch_2", False)):
        page = {"data": [{**BATCH, "id": name}], "first_id": name, "last_id": "batch_9", "has_more": more}
        canned.rule("GET", "/batches$", Answer(200, json.dumps(page).encode()))
    assert [batch.id for batch in connect(canned.url).list_batches()] == ["batch_1", "batch_2"]
    assert [r.path.partition("?")[2] for r in canned.requests] == ["limit=1", "after=batch_1&limit=1"]
