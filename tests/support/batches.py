"""Batches of a few lines on a running server, through the package's own adapter."""

from __future__ import annotations

import io
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

import structlog

from airflow_provider_llmbatch.adapters.openai import OpenAIAdapter, OpenAISettings
from airflow_provider_llmbatch.core.results import merge_results
from support.adapter_contract import CHAT, unique_name, until_ended

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airflow_provider_llmbatch.models import Batch, Result
    from support.server import RunningServer


@contextmanager
def adapter_of(server: RunningServer) -> Iterator[OpenAIAdapter]:
    """An adapter that does not sleep between attempts."""
    adapter = OpenAIAdapter(OpenAISettings(server.api_key, base_url=server.url))
    adapter._http._sleep = lambda _seconds: None
    try:
        yield adapter
    finally:
        adapter.close()


def chats(count: int, *, word: str = "word", model: str = "m") -> list[dict[str, object]]:
    """Bodies that say ``word-0``, ``word-1``, …"""
    return [{"model": model, "messages": [{"role": "user", "content": f"{word}-{i}"}]} for i in range(count)]


def uploaded(adapter: OpenAIAdapter, bodies: Iterable[dict[str, object]], *, endpoint: str = CHAT) -> str:
    """A file of these requests, their custom ids ``r0``, ``r1``, …"""
    lines = (
        json.dumps({"custom_id": f"r{i}", "method": "POST", "url": endpoint, "body": body}) + "\n"
        for i, body in enumerate(bodies)
    )
    return adapter.create_file(io.BytesIO("".join(lines).encode()), filename=unique_name()).id


def begun(adapter: OpenAIAdapter, bodies: Iterable[dict[str, object]], *, endpoint: str = CHAT) -> Batch:
    return adapter.create_batch(uploaded(adapter, bodies, endpoint=endpoint), endpoint=endpoint)


def ended(
    adapter: OpenAIAdapter, bodies: Iterable[dict[str, object]], *, endpoint: str = CHAT
) -> tuple[Batch, dict[str, Result]]:
    """A batch that has ended, and its results by custom id."""
    return landed(adapter, begun(adapter, bodies, endpoint=endpoint))


def landed(adapter: OpenAIAdapter, batch: Batch) -> tuple[Batch, dict[str, Result]]:
    batch = until_ended(adapter, batch.id)
    results = list(merge_results(adapter, batch, log=structlog.get_logger()))
    by_id = {result.custom_id: result for result in results}
    assert len(by_id) == len(results), "a request has two results"
    return batch, by_id


def body_of(result: Result) -> dict[str, object]:
    assert result.response is not None
    body: dict[str, object] = json.loads(bytes(result.response.body))
    return body
