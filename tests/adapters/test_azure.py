"""Azure OpenAI's adapter keeps the contract; and takes what Azure really sends, which differs from its reference."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, ClassVar

import pytest
import structlog
from adapters.conftest import KEY
from support.adapter_contract import AdapterContract, chat_line
from support.azure_answers import GUIDES, answer
from support.fault_proxy import Answer, fault_proxy
from typing_extensions import override

from airflow_provider_llmbatch.adapters import openai as openai_adapter
from airflow_provider_llmbatch.adapters.azure import AzureAdapter, AzureSettings
from airflow_provider_llmbatch.core.results import merge_results
from airflow_provider_llmbatch.models import Batch, BatchError, RequestCounts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from adapters.conftest import ConnectAzure
    from support.fault_proxy import FaultProxy
    from support.server import RunningServer

    from airflow_provider_llmbatch.adapters.base import Adapter
    from airflow_provider_llmbatch.models import BatchStatus

CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
GA = "2024-10-21"
DAY = 86_400


class _AzureContract(AdapterContract):
    """On the embedded server with Azure's face, in one of its two shapes."""

    statuses: ClassVar[Mapping[str, BatchStatus]] = {
        word: status
        for status in (
            "validating",
            "failed",
            "in_progress",
            "finalizing",
            "completed",
            "expired",
            "cancelling",
            "cancelled",
        )
        for word in (status, status.capitalize(), status.title(), status.upper())
    }
    unknown_file_id = "file-unknown"
    unknown_batch_id = "batch_unknown"
    api_version: ClassVar[str | None]

    @pytest.fixture
    @override
    def adapter(self, azure_server: RunningServer) -> Iterator[AzureAdapter]:
        url = azure_server.url.removesuffix("/v1")
        adapter = AzureAdapter(AzureSettings(url, azure_server.api_key, api_version=self.api_version))
        adapter._http._sleep = lambda _: time.sleep(0.02)  # the server is quicker than Azure
        yield adapter
        adapter.close()

    @pytest.fixture
    @override
    def pages_of_two(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(openai_adapter, "_BATCHES_PER_PAGE", 2)
        monkeypatch.setattr(openai_adapter, "_FILES_PER_PAGE", 2)

    @override
    def batch_with_status(self, word: str) -> Batch:
        with fault_proxy() as server:
            server.rule("GET", "/batches/batch_1$", answer({**GUIDES, "status": word}))
            adapter = AzureAdapter(AzureSettings(server.url, KEY, api_version=self.api_version))
            try:
                return adapter.retrieve_batch("batch_1")
            finally:
                adapter.close()

    @override
    def test_a_retrieved_file_is_the_one_that_was_created(self, adapter: Adapter) -> None:
        file = self.upload(adapter, chat_line("a", "hello"))
        assert file.status == "pending"
        deadline = time.monotonic() + 10
        while (retrieved := adapter.retrieve_file(file.id)).status == "pending" and time.monotonic() < deadline:
            time.sleep(0.02)
        assert retrieved == file.model_copy(update={"status": "processed"})


class TestAzureV1(_AzureContract):
    api_version = None


class TestAzureClassic(_AzureContract):
    api_version = GA


class TestAzureClassicPreview(_AzureContract):
    api_version = "2025-04-01-preview"


def retrieved(connect_azure: ConnectAzure, canned: FaultProxy, **changed: object) -> Batch:
    canned.rule("GET", "/batches/batch_1$", answer({**GUIDES, **changed}))
    return connect_azure().retrieve_batch("batch_1")


def test_what_the_guide_shows_becomes_openais_shape(connect_azure: ConnectAzure, canned: FaultProxy) -> None:
    assert retrieved(connect_azure, canned) == Batch(
        id="batch_1",
        status="validating",
        endpoint=None,
        input_file_id="file-1",
        completion_window="24h",
        created_at=1_700_000_000,
        expires_at=1_700_086_400,
        request_counts=RequestCounts(total=0, completed=0, failed=0),
        provider="azure",
    )


@pytest.mark.parametrize(
    "errors",
    [
        {"object": "list", "data": [{"code": "url_mismatch", "message": "No.", "line": "3", "param": ""}]},
        {"object": "list", "data": {"code": "url_mismatch", "message": "No.", "line": "3"}},
        {"value": [{"code": "url_mismatch", "message": "No.", "line": 3}]},
    ],
    ids=["line as text", "one error", "value"],
)
def test_errors_come_as_a_list_as_one_under_value_and_with_lines_as_text(
    connect_azure: ConnectAzure, canned: FaultProxy, errors: dict[str, object]
) -> None:
    batch = retrieved(connect_azure, canned, status="Failed", errors=errors)
    assert batch.status == "failed"
    assert batch.errors is not None
    [error] = batch.errors.data
    assert error.model_copy(update={"param": None}) == BatchError(code="url_mismatch", message="No.", line=3)


def test_a_list_may_be_under_value(connect_azure: ConnectAzure, canned: FaultProxy) -> None:
    canned.rule("GET", "/batches$", answer({"value": [GUIDES, {**GUIDES, "id": "batch_2"}]}))
    assert [batch.id for batch in connect_azure().list_batches()] == ["batch_1", "batch_2"]


def test_files_have_lower_case_states_and_iso_times_too(connect_azure: ConnectAzure, canned: FaultProxy) -> None:
    file = {
        "id": "file-1",
        "status": "Processed",
        "created_at": "2023-11-14T22:13:20Z",
        "bytes": None,
        "purpose": "batch",
    }
    canned.rule("GET", "/files/file-1$", answer(file))
    got = connect_azure().retrieve_file("file-1")
    assert (got.status, got.created_at, got.bytes, got.provider) == ("processed", 1_700_000_000, 0, "azure")


def results(
    connect_azure: ConnectAzure, canned: FaultProxy, output: list[dict[str, object]], errors: bytes
) -> dict[str, str]:
    lines = b"".join(json.dumps(line).encode() + b"\n" for line in output)
    canned.rule("GET", "/files/file-out/content$", Answer(200, lines))
    canned.rule("GET", "/files/file-err/content$", Answer(200, errors, {"Content-Type": "application/octet-stream"}))
    batch = Batch(
        id="batch_1",
        status="completed",
        endpoint=CHAT,
        output_file_id="file-out",
        error_file_id="file-err",
        request_counts=RequestCounts(total=len(output), completed=len(output)),
        provider="azure",
    )
    merged = merge_results(connect_azure(), batch, log=structlog.get_logger())
    return {result.custom_id: result.outcome for result in merged}


def test_an_error_file_of_zero_bytes_holds_no_errors(connect_azure: ConnectAzure, canned: FaultProxy) -> None:
    body = {"choices": [{"content_filter_results": {}, "message": {"content": "hi"}}]}
    line = {"custom_id": "a", "response": {"body": body, "request_id": "r", "status_code": 200}, "error": None}
    assert results(connect_azure, canned, [line], b"") == {"a": "succeeded"}


def test_a_response_that_failed_is_seen_though_the_batch_says_chat(
    connect_azure: ConnectAzure, canned: FaultProxy
) -> None:
    def line(custom_id: str, **body: object) -> dict[str, object]:
        return {"custom_id": custom_id, "response": {"body": body, "status_code": 200}}

    failed = line("a", object="response", status="failed", error={"code": "server_error", "message": "Sorry."})
    other = line("b", object="chat.completion", status="failed")
    assert results(connect_azure, canned, [failed, other, line("c", object="response", status="completed")], b"") == {
        "a": "failed",
        "b": "succeeded",
        "c": "succeeded",
    }
