"""Every call of the hook to Azure OpenAI keeps to Microsoft's official schema of 2024-10-21: Prism judges."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from support.adapter_contract import chat_line, until_ended
from support.prism import Checked, running_prism
from support.task import adapters_closed

from airflow_provider_llmbatch.errors import LLMBatchError
from airflow_provider_llmbatch.hooks.batch import LLMBatchHook

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx
    from support.server import RunningServer

SCHEMA = Path(__file__).parents[3] / "shared" / "specs" / "azure-openai-2024-10-21.openapi3.yaml"
CHAT = "/v1/chat/completions"
DAY = 86_400


@pytest.fixture(scope="module")
def prism(azure_server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of Prism as a proxy. It matches whole paths, so the schema's get the ``/openai`` of its server."""
    if not SCHEMA.is_file():
        assert os.environ.get("CI") != "true", f"{SCHEMA} must be there in CI"
        pytest.skip("Azure's OpenAPI description is not beside the checkout")
    described = yaml.safe_load(SCHEMA.read_text())
    described["paths"] = {f"/openai{path}": operations for path, operations in described["paths"].items()}
    schema = tmp_path_factory.mktemp("schema") / "azure.yaml"
    schema.write_text(yaml.safe_dump(described))
    with running_prism(schema, azure_server.url.removesuffix("/openai/v1")) as url:
        yield url


@pytest.fixture
def hook(prism: str, azure_server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[LLMBatchHook]:
    connection = {
        "conn_type": "llmbatch_azure",
        "host": prism,
        "password": azure_server.api_key,
        "extra": {"listing_lag": 0, "api_version": "2024-10-21"},
    }
    monkeypatch.setenv("AIRFLOW_CONN_LLMBATCH_DEFAULT", json.dumps(connection))
    with adapters_closed(monkeypatch):
        yield LLMBatchHook()


@pytest.fixture
def checked(hook: LLMBatchHook) -> list[Checked]:
    """What Prism says of the calls of the hook, as they are made."""
    calls: list[Checked] = []

    def note(response: httpx.Response) -> None:
        path = "/".join(
            "{id}" if part[:5] in ("file-", "batch") and part != "batches" else part
            for part in response.request.url.path.split("/")
        )
        violations = json.loads(response.headers.get("sl-violations", "[]"))
        calls.append(Checked(response.request.method, path, response.status_code, violations))

    hook.adapter._http._client.event_hooks["response"].append(note)
    return calls


def test_every_call_of_the_hook_keeps_to_azures_schema(hook: LLMBatchHook, checked: list[Checked]) -> None:
    file = hook.create_file(chat_line("a", "hello"), filename="a.jsonl", expires_after=14 * DAY)
    hook.retrieve_file(file.id)
    list(hook.list_files(purpose="batch", limit=1))
    b"".join(hook.file_content(file.id))
    ended = hook.create_batch(file.id, endpoint=CHAT, metadata={"team": "search"}, output_expires_after=14 * DAY)
    until_ended(hook.adapter, ended.id)
    results = {result.custom_id: result.outcome for result in hook.results(ended.id)}
    bare = hook.create_batch(file.id, endpoint=CHAT)
    list(hook.list_batches(after=bare.id, limit=1))
    hook.cancel_batch(bare.id)
    hook.delete_file(file.id)
    hook.test_connection()

    assert results == {"a": "succeeded"}
    assert [(call.method, call.path, found) for call in checked if (found := call.of("request"))] == []
    assert {(call.method, call.path) for call in checked} == {
        ("POST", "/openai/files"),
        ("GET", "/openai/files"),
        ("GET", "/openai/files/{id}"),
        ("GET", "/openai/files/{id}/content"),
        ("DELETE", "/openai/files/{id}"),
        ("POST", "/openai/batches"),
        ("GET", "/openai/batches"),
        ("GET", "/openai/batches/{id}"),
        ("POST", "/openai/batches/{id}/cancel"),
    }


def test_a_call_that_violates_azures_schema_would_be_seen(hook: LLMBatchHook, checked: list[Checked]) -> None:
    with pytest.raises(LLMBatchError):
        hook.create_file(b"{}", purpose="nonsense")
    hook.adapter._http._client.params = {"api-version": ""}
    with pytest.raises(LLMBatchError):
        hook.retrieve_batch("batch_1")
    assert [[where for where, _ in call.of("request")] for call in checked] == [["body.purpose"], ["query"]]
