"""Every call of the hook, and the server's answer to it, keeps to OpenAI's official schema: Stoplight's Prism judges.

Prism stands as a proxy before the embedded server, lets everything pass, and says in a header what violates the schema.
"""

from __future__ import annotations

import io
import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from support.adapter_contract import chat_line, until_ended
from support.fault_proxy import Answer, FaultProxy, fault_proxy
from support.gated_server import GatedServer, gated_server
from support.prism import Checked, Violation, running_prism
from support.task import adapters_closed, connect

from airflow_provider_llmbatch.errors import LLMBatchError
from airflow_provider_llmbatch.hooks.batch import LLMBatchHook

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

SCHEMA = Path(__file__).parents[3] / "shared" / "specs" / "openai-prism.yaml"
DAY = 86_400


def required_fields() -> set[str]:
    """What every file and every batch must have. The rest may be null here, though the schema gives it a plain type.

    The schema's own example of a batch has nulls there too; that OpenAI sends them in files as well is assumed.
    """
    schemas = yaml.safe_load(SCHEMA.read_text())["components"]["schemas"]
    return {name for schema in ("OpenAIFile", "Batch", "ListBatchesResponse") for name in schemas[schema]["required"]}


def is_null_and_optional(violation: Violation, body: object, required: set[str]) -> bool:
    side, *where = violation["location"]
    if side != "response" or where[:1] != ["body"] or where[-1] in required:
        return False
    for name in where[1:]:
        body = body[int(name)] if isinstance(body, list) else body[name] if isinstance(body, dict) else "no such place"
    return body is None


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[GatedServer, FaultProxy]]:
    """The server, and what can answer in its place."""
    with gated_server(tmp_path_factory.mktemp("gated")) as server, fault_proxy(server.url) as proxy:
        yield server, proxy


@pytest.fixture(scope="module")
def prism(upstream: tuple[GatedServer, FaultProxy]) -> Iterator[str]:
    """The address of Prism as a proxy."""
    with running_prism(SCHEMA, upstream[1].url) as url:
        yield url


@pytest.fixture
def server(upstream: tuple[GatedServer, FaultProxy]) -> GatedServer:
    return upstream[0]


@pytest.fixture
def proxy(upstream: tuple[GatedServer, FaultProxy]) -> FaultProxy:
    return upstream[1]


@pytest.fixture
def hook(prism: str, server: GatedServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[LLMBatchHook]:
    connect(monkeypatch, prism, server.api_key)
    with adapters_closed(monkeypatch):
        yield LLMBatchHook()


@pytest.fixture
def checked(hook: LLMBatchHook) -> list[Checked]:
    """What Prism says of the calls of the hook, as they are made."""
    calls: list[Checked] = []
    required = required_fields()

    def note(response: httpx.Response) -> None:
        violations = json.loads(response.headers.get("sl-violations", "[]"))
        is_json = response.headers["content-type"].startswith("application/json")
        body = json.loads(response.read()) if is_json else None
        calls.append(
            Checked(
                response.request.method,
                "/".join(
                    "{id}" if part[:5] in ("file-", "batch") and part != "batches" else part
                    for part in response.request.url.path.split("/")
                ),
                response.status_code,
                [each for each in violations if not is_null_and_optional(each, body, required)],
            )
        )

    hook.adapter._http._client.event_hooks["response"].append(note)
    return calls


def test_every_call_of_the_hook_and_its_answer_keep_to_openais_schema(
    hook: LLMBatchHook, server: GatedServer, checked: list[Checked]
) -> None:
    kept = hook.create_file(chat_line("a", "hello"))
    file = hook.create_file(chat_line("a", "hello") + chat_line("b", None), filename="b.jsonl", expires_after=DAY)
    hook.retrieve_file(file.id)
    list(hook.list_files())
    list(hook.list_files(purpose="batch", limit=1))
    b"".join(hook.file_content(file.id))
    ended = hook.create_batch(file.id, endpoint="/v1/chat/completions")
    server.let_pass(2)
    until_ended(hook.adapter, ended.id)
    results = {result.custom_id: result.outcome for result in hook.results(ended.id)}
    running = hook.create_batch(
        kept.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"team": "search"},
        output_expires_after=DAY,
    )
    hook.retrieve_batch(running.id)
    list(hook.list_batches())
    list(hook.list_batches(after=running.id, limit=1))
    hook.cancel_batch(running.id)
    server.let_pass(1)  # a request that is being answered is waited for
    until_ended(hook.adapter, running.id)
    hook.delete_file(file.id)
    hook.test_connection()

    assert results == {"a": "succeeded", "b": "failed"}
    assert [call for call in checked if call.violations or call.status != 200] == []
    assert {(call.method, call.path) for call in checked} == {
        ("POST", "/files"),
        ("GET", "/files"),
        ("GET", "/files/{id}"),
        ("GET", "/files/{id}/content"),
        ("DELETE", "/files/{id}"),
        ("POST", "/batches"),
        ("GET", "/batches"),
        ("GET", "/batches/{id}"),
        ("POST", "/batches/{id}/cancel"),
    }


def test_a_batch_that_the_provider_refuses_is_answered_as_the_schema_says(
    hook: LLMBatchHook, checked: list[Checked]
) -> None:
    file = hook.adapter.create_file(io.BytesIO(b"no JSON\n"), filename="a.jsonl")
    batch = until_ended(hook.adapter, hook.create_batch(file.id).id)
    assert batch.status == "failed"
    assert [call for call in checked if call.violations or call.status != 200] == []


def test_a_call_that_violates_the_schema_would_be_seen(hook: LLMBatchHook, checked: list[Checked]) -> None:
    with pytest.raises(LLMBatchError):
        hook.create_batch("file-1", endpoint="/v1/nonsense", completion_window="48h", output_expires_after=60)
    [call] = checked
    assert [where for where, _ in call.of("request")] == [
        "body.endpoint",
        "body.completion_window",
        "body.output_expires_after.seconds",
    ]


def test_a_file_whose_purpose_violates_the_schema_would_be_seen(hook: LLMBatchHook, checked: list[Checked]) -> None:
    with suppress(LLMBatchError):
        hook.create_file(b"{}", purpose="nonsense")
    assert [where for where, _ in checked[0].of("request")] == ["body.purpose"]


@pytest.mark.parametrize(
    ("field", "value", "where"),
    [("status", "done", ["body.status"]), ("created_at", None, ["body.created_at"]), ("expired_at", None, [])],
    ids=["a word that it does not know", "null for what must be there", "null for what need not be there"],
)
def test_an_answer_that_violates_the_schema_would_be_seen(
    field: str, value: object, where: list[str], hook: LLMBatchHook, proxy: FaultProxy, checked: list[Checked]
) -> None:
    batch = {
        "id": "batch_1",
        "object": "batch",
        "endpoint": "/v1/completions",
        "input_file_id": "file-1",
        "completion_window": "24h",
        "status": "completed",
        "created_at": 1_700_000_000,
    }
    body = json.dumps(batch | {field: value}).encode()
    proxy.rule("GET", "/batches/batch_1$", Answer(200, body, {"content-type": "application/json"}))
    hook.retrieve_batch("batch_1")
    assert [place for place, _ in checked[0].of("response")] == where
