"""Every call of the adapter for jobs keeps to Google's own description of its API: Prism judges."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
from support.adapter_contract import CHAT, chat_line, unique_name, until_ended
from support.prism import Checked, running_prism

from airflow_provider_llmbatch.adapters.http import Call
from airflow_provider_llmbatch.errors import LLMBatchError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import httpx
    from adapters.conftest import ConnectVertex
    from support.server import RunningServer

    from airflow_provider_llmbatch.adapters.vertex.adapter import VertexAdapter

SCHEMA = Path(__file__).parents[4] / "shared" / "specs" / "vertex-batchPredictionJobs.openapi.yaml"
JOBS = "/v1/projects/{id}/locations/{id}/batchPredictionJobs"


@pytest.fixture(scope="module")
def prism(vertex_server: RunningServer) -> Iterator[str]:
    with running_prism(SCHEMA, vertex_server.url) as url:
        yield url


@pytest.fixture
def adapter(prism: str, connect_vertex: ConnectVertex) -> VertexAdapter:
    return connect_vertex(prism)


@pytest.fixture
def checked(adapter: VertexAdapter, monkeypatch: pytest.MonkeyPatch) -> list[Checked]:
    """What Prism says of the calls for jobs, those of Google's client included, as they are made."""
    calls: list[Checked] = []

    def note(method: str | None, path: str, status: int, headers: Mapping[str, str]) -> None:
        path = re.sub(r"/(projects|locations|batchPredictionJobs)/[^/:]+", r"/\1/{id}", path)
        calls.append(Checked(method or "", path, status, json.loads(headers.get("sl-violations", "[]"))))

    def note_ours(response: httpx.Response) -> None:
        note(response.request.method, response.request.url.path, response.status_code, response.headers)

    send = requests.Session.send

    def sent(session: requests.Session, request: requests.PreparedRequest, **more: Any) -> requests.Response:
        response = send(session, request, **more)
        note(request.method, request.path_url.partition("?")[0], response.status_code, response.headers)
        return response

    adapter._http._client.event_hooks["response"].append(note_ours)
    monkeypatch.setattr(requests.Session, "send", sent)
    return calls


def test_every_call_keeps_to_googles_description(adapter: VertexAdapter, checked: list[Checked]) -> None:
    file = adapter.create_file(io.BytesIO(chat_line("a", "hello")), filename=unique_name())
    batch = adapter.create_batch(file.id, endpoint=CHAT, metadata={"team": "search", "llmbatch_key": "llmb-a2"})
    until_ended(adapter, batch.id)
    list(adapter.list_batches(limit=1))
    assert batch.id in [found.id for found in adapter.list_batches_with("llmbatch_key", "llmb-a2")]
    adapter.cancel_batch(adapter.create_batch(file.id, endpoint=CHAT).id)
    adapter.ping()
    assert [(call.method, call.path, found) for call in checked if (found := call.of("request"))] == []
    assert {(call.method, call.path) for call in checked} == {
        ("POST", JOBS),
        ("GET", JOBS),
        ("GET", f"{JOBS}/{{id}}"),
        ("POST", f"{JOBS}/{{id}}:cancel"),
    }


def test_a_call_that_violates_it_would_be_seen(adapter: VertexAdapter, checked: list[Checked]) -> None:
    path = "v1/projects/analytics/locations/us-central1/batchPredictionJobs"
    with pytest.raises(LLMBatchError):
        adapter._http.send(Call("GET", path, "list the batches", params={"pageSize": "many"}))
    assert [[where for where, _ in call.of("request")] for call in checked] == [["query.pagesize"]]
