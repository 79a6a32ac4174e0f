"""Every endpoint that a batch may ask for goes through the checks, the hook and the adapter."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import pytest
from support.fault_proxy import fault_proxy
from support.task import connect

from airflow_provider_llmbatch.adapters.openai import OpenAIAdapter
from airflow_provider_llmbatch.core.jsonl import check_requests
from airflow_provider_llmbatch.errors import BatchInputError
from airflow_provider_llmbatch.hooks.batch import LLMBatchHook

if TYPE_CHECKING:
    from support.server import RunningServer

BODIES: dict[str, dict[str, object]] = {
    "/v1/chat/completions": {"model": "m", "messages": [{"role": "user", "content": "hello"}]},
    "/v1/completions": {"model": "m", "prompt": "hello"},
    "/v1/embeddings": {"model": "m", "input": "hello"},
    "/v1/images/edits": {"model": "m", "prompt": "a hat", "images": [{"file_id": "file-1"}]},
    "/v1/images/generations": {"model": "m", "prompt": "a hat"},
    "/v1/moderations": {"input": "hello"},  # the only one without a model of its own
    "/v1/responses": {"model": "m", "input": "hello"},
    "/v1/videos": {"model": "m", "prompt": "a hat"},
}
each_endpoint = pytest.mark.parametrize("endpoint", BODIES)


def line(endpoint: str) -> bytes:
    request = {"custom_id": "a", "method": "POST", "url": endpoint, "body": BODIES[endpoint]}
    return json.dumps(request).encode() + b"\n"


def test_there_is_a_request_for_each_endpoint_of_the_provider() -> None:
    assert set(BODIES) == OpenAIAdapter.limits.endpoints


@each_endpoint
def test_its_lines_are_accepted(endpoint: str) -> None:
    checked = check_requests(io.BytesIO(line(endpoint)), name="requests", limits=OpenAIAdapter.limits)
    assert (checked.requests, checked.endpoint, checked.model) == (1, endpoint, BODIES[endpoint].get("model"))


def test_another_one_is_refused_with_those_that_there_are() -> None:
    request = b'{"custom_id": "a", "method": "POST", "url": "/v1/audio/speech", "body": {}}\n'
    with pytest.raises(BatchInputError, match="a batch can have one of /v1/chat/completions, /v1/completions"):
        check_requests(io.BytesIO(request), name="requests", limits=OpenAIAdapter.limits)


@each_endpoint
def test_it_is_asked_for_with_the_life_of_the_results(
    endpoint: str, echo_server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fault_proxy(echo_server.url) as proxy:
        connect(monkeypatch, proxy.url, echo_server.api_key)
        hook = LLMBatchHook()
        file = hook.create_file(line(endpoint))
        batch = hook.create_batch(file.id, endpoint=endpoint, output_expires_after=3600)
        hook.adapter.close()
        sent = json.loads(proxy.calls("POST", "/batches$")[0].body)
    assert sent == {
        "input_file_id": file.id,
        "endpoint": endpoint,
        "completion_window": "24h",
        "output_expires_after": {"anchor": "created_at", "seconds": 3600},
    }
    assert (batch.endpoint, batch.input_file_id) == (endpoint, file.id)
