"""LiteLLM's proxy, a real one in front of the embedded server, keeps the adapter's contract but for what it alters.

It alters this (LiteLLM 1.106.0): calls of batches that the API below refuses, and batches with a status that nobody
documents, become a bare 500. With the header ``x-litellm-model`` the model's name is packed into the ids of files and
batches, which ``after`` of a listing does not take, and which the listing of files lacks.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import socket
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, get_args

import httpx
import pytest
import structlog
from support.adapter_contract import CHAT, AdapterContract, chat_line, unique_name, until_ended
from support.fault_proxy import Answer, FaultProxy, LoseAnswer, fault_proxy
from support.plain_http import NO_TLS
from support.server import RunningServer, running_server
from support.task import adapters_closed, connect
from typing_extensions import override

from airflow_provider_llmbatch.adapters import openai as openai_adapter
from airflow_provider_llmbatch.adapters.http import TransportSettings
from airflow_provider_llmbatch.adapters.openai import OpenAIAdapter, OpenAISettings
from airflow_provider_llmbatch.core.ledger import BatchRecord, Ledger, MemoryStore
from airflow_provider_llmbatch.core.submit import Attempt, BatchJob, Slot, Timing, submit_batch
from airflow_provider_llmbatch.errors import NotFoundError, UnavailableError
from airflow_provider_llmbatch.hooks.batch import LLMBatchHook
from airflow_provider_llmbatch.models import BatchStatus
from airflow_provider_llmbatch.triggers.batch import LLMBatchTrigger

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from pydantic import JsonValue

    from airflow_provider_llmbatch.adapters.base import Adapter
    from airflow_provider_llmbatch.models import Batch

FAR = 4_000_000_000.0
# LiteLLM refuses to start with a short one.
KEY = "sk-proxy-9f8e7d6c5b4a39281706f5e4d3c2b1a0"
MODEL_HEADER = {"x-litellm-model": "echo-batch"}
_CONFIG = """\
model_list:
  - model_name: echo-batch
    litellm_params: {model: openai/echo, api_base: os.environ/UPSTREAM_BASE_URL, api_key: os.environ/UPSTREAM_API_KEY}
    model_info: {mode: batch}
files_settings:
  - {custom_llm_provider: openai, api_base: os.environ/UPSTREAM_BASE_URL, api_key: os.environ/UPSTREAM_API_KEY}
general_settings: {master_key: os.environ/PROXY_KEY}
"""


_BATCH = {
    "object": "batch",
    "endpoint": CHAT,
    "input_file_id": "file-1",
    "completion_window": "24h",
    "created_at": 1_700_000_000,
}


@contextmanager
def litellm_proxy(python: str, upstream_url: str, upstream_key: str, folder: Path) -> Iterator[str]:
    """Run the proxy on a free port; gives its base URL, which ends in ``/v1``."""
    (folder / "config.yaml").write_text(_CONFIG)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = {
        "UPSTREAM_BASE_URL": upstream_url,
        "UPSTREAM_API_KEY": upstream_key,
        "PROXY_KEY": KEY,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # its table of prices comes from the internet otherwise
        "NO_PROXY": "127.0.0.1",
    }
    with (folder / "proxy.log").open("wb") as log:
        process = subprocess.Popen(
            [
                python,
                "-m",
                "litellm.proxy.proxy_cli",
                "--config",
                "config.yaml",
                "--host",
                "127.0.0.1",
                "--port",
                str(port),
            ],
            cwd=folder,
            env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | given,
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + 180
        while not _answers(f"http://127.0.0.1:{port}/health/liveliness"):
            assert process.poll() is None, (folder / "proxy.log").read_text()[-2_000:]
            assert time.monotonic() < deadline, "LiteLLM's proxy did not start"
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=1, verify=NO_TLS).is_success
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(tmp_path_factory.mktemp("upstream")) as server:
        yield server


@pytest.fixture(scope="module")
def below(upstream: RunningServer) -> Iterator[FaultProxy]:
    """Between LiteLLM's proxy and the server: shows what the one asks of the other."""
    with fault_proxy(upstream.url) as between:
        yield between


@pytest.fixture(scope="module")
def proxy(
    litellm_python: str, upstream: RunningServer, below: FaultProxy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    with litellm_proxy(litellm_python, below.url, upstream.api_key, tmp_path_factory.mktemp("proxy")) as url:
        yield url


class ProxyContract(AdapterContract):
    statuses: ClassVar[Mapping[str, BatchStatus]] = {word: word for word in get_args(BatchStatus) if word != "unknown"}
    unknown_file_id = "file-unknown"
    unknown_batch_id = "batch_unknown"
    headers: ClassVar[Mapping[str, str]] = {}

    @pytest.fixture
    @override
    def adapter(self, proxy: str) -> Iterator[OpenAIAdapter]:
        # One attempt: the proxy's 500 for an upstream's refusal does not pass.
        transport = TransportSettings(max_attempts=1)
        adapter = OpenAIAdapter(OpenAISettings(KEY, base_url=proxy, headers=self.headers, transport=transport))
        yield adapter
        adapter.close()

    @pytest.fixture
    @override
    def pages_of_two(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(openai_adapter, "_BATCHES_PER_PAGE", 2)
        monkeypatch.setattr(openai_adapter, "_FILES_PER_PAGE", 2)

    @pytest.fixture(autouse=True)
    def _ways(self, adapter: Adapter, below: FaultProxy) -> None:
        self._adapter, self._below = adapter, below

    @override
    def batch_with_status(self, word: str) -> Batch:
        batch_id = unique_name()
        body = {**_BATCH, "id": batch_id, "status": word}
        self._below.rule("GET", f"/batches/{batch_id}$", Answer(200, json.dumps(body).encode()))
        return self._adapter.retrieve_batch(batch_id)

    @override
    def test_unknown_ids_are_not_found(self, adapter: Adapter) -> None:
        with pytest.raises(NotFoundError):
            adapter.retrieve_file(self.unknown_file_id)
        with pytest.raises(NotFoundError):
            b"".join(adapter.file_content(self.unknown_file_id))
        with pytest.raises(NotFoundError):
            adapter.delete_file(self.unknown_file_id)
        # A 404 below becomes a bare 500: nobody can tell it from an outage, so a wait goes on until its deadline.
        for call in (adapter.retrieve_batch, adapter.cancel_batch):
            with pytest.raises(UnavailableError, match="answered 500"):
                call(self.unknown_batch_id)

    @override
    def test_a_status_that_no_table_knows_is_unknown_and_not_an_end(self) -> None:
        with pytest.raises(UnavailableError, match="answered 500") as caught:
            self.batch_with_status("paused_by_new_feature")
        assert caught.value.retriable  # so a wait looks again


class TestFilesSettings(ProxyContract):
    """Calls without a model: the proxy's ``files_settings`` name the server below, ids pass as they are."""


class TestModelHeader(ProxyContract):
    """Calls with a model in a header: its name is packed into the ids of files and batches."""

    headers = MODEL_HEADER

    @override
    @pytest.mark.usefixtures("pages_of_two")
    def test_files_are_listed_beyond_one_page_and_up_to_the_limit(self, adapter: Adapter) -> None:
        # The proxy lists all files whatever the page, under the ids that the server below knows.
        for n in range(3):
            self.upload(adapter, chat_line("a", str(n)))
        listed = [file.id for file in adapter.list_files()]
        assert len(listed) == len(set(listed)) >= 3
        assert [file.id for file in adapter.list_files(limit=3)] == listed[:3]

    @override
    @pytest.mark.usefixtures("pages_of_two")
    def test_a_listing_of_batches_begins_after_a_batch_and_ends_at_its_limit(self, adapter: Adapter) -> None:
        for _ in range(5):
            self.create(adapter)
        listed = [batch.id for batch in adapter.list_batches()]
        assert [batch.id for batch in adapter.list_batches(limit=3)] == listed[:3]
        assert list(adapter.list_batches(limit=0)) == []


def test_ids_with_the_models_name_lead_to_the_same_batch_without_the_header(proxy: str) -> None:
    with_header = OpenAIAdapter(OpenAISettings(KEY, base_url=proxy, headers=MODEL_HEADER))
    without = OpenAIAdapter(OpenAISettings(KEY, base_url=proxy))
    file = with_header.create_file(io.BytesIO(chat_line("a", "hello")), filename=unique_name())
    batch = without.create_batch(file.id, endpoint=CHAT)
    assert (len(file.id) > 60, len(batch.id) > 60) == (True, True)
    assert until_ended(without, batch.id).id == batch.id
    assert b"".join(without.file_content(file.id)) == chat_line("a", "hello")
    with_header.close()
    without.close()


@pytest.mark.parametrize("headers", [{}, MODEL_HEADER], ids=["files_settings", "model header"])
def test_a_batch_gets_through_the_hook_and_the_trigger_and_back_row_by_row(
    proxy: str, headers: dict[str, JsonValue], monkeypatch: pytest.MonkeyPatch
) -> None:
    with adapters_closed(monkeypatch):
        connect(monkeypatch, proxy, KEY, headers=headers)
        hook = LLMBatchHook()
        content = b"".join(chat_line(f"good-{n}", f"say {n}") for n in range(50)) + chat_line("bad", None)
        batch = hook.create_batch(hook.create_file(content).id, metadata={"team": "search"})
        trigger = LLMBatchTrigger(hook.llmbatch_conn_id, batch.id, FAR, min_poll_interval=0.05, max_poll_interval=0.1)

        async def fired() -> list[object]:
            async with asyncio.timeout(20):
                return [event.payload async for event in trigger.run()]

        assert asyncio.run(fired()) == [{"status": "ended", "batch_id": batch.id, "deadline": FAR, "error": None}]
        assert hook.retrieve_batch(batch.id).metadata == {"team": "search"}
        outcomes = {result.custom_id: result.outcome for result in hook.results(batch.id)}
        assert outcomes == {**{f"good-{n}": "succeeded" for n in range(50)}, "bad": "failed"}


@pytest.mark.parametrize("headers", [{}, MODEL_HEADER], ids=["files_settings", "model header"])
def test_a_lost_answer_to_a_creation_is_found_again_and_nothing_is_paid_twice(
    proxy: str, upstream: RunningServer, headers: dict[str, str]
) -> None:
    server = OpenAIAdapter(OpenAISettings(upstream.api_key, base_url=upstream.url))
    with fault_proxy(proxy) as losing:
        adapter = OpenAIAdapter(OpenAISettings(KEY, base_url=losing.url, headers=headers))
        file = adapter.create_file(io.BytesIO(chat_line("a", "hello")), filename=unique_name())
        before = len(list(server.list_batches()))
        losing.rule("POST", "/batches$", LoseAnswer())
        batch = submit_batch(
            adapter,
            Ledger(MemoryStore(), "batch", BatchRecord, durable=True),
            Slot("test", "dag", "run", unique_name()),
            BatchJob(file.id, CHAT),
            attempt=Attempt(try_number=1, max_tries=0),
            timing=Timing(listing_lag=0.0),
            log=structlog.get_logger(),
        )
        assert until_ended(adapter, batch.id).status == "completed"
        assert len(list(server.list_batches())) == before + 1
        assert len(losing.calls("POST", "/batches$")) == 1
        adapter.close()
    server.close()
