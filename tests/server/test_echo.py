"""The engine echo answers every endpoint of a batch, the same way each time, in shapes that OpenAI's client takes."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest
from openai.types import Completion, CreateEmbeddingResponse, ImagesResponse, ModerationCreateResponse
from openai.types.chat import ChatCompletion
from support.batch_server import Client, jsonl

from airflow_provider_llmbatch.models import BATCH_ENDPOINTS

if TYPE_CHECKING:
    from openai import BaseModel

_ASKED: dict[str, dict[str, object]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Say hello twice"}]},
    "/v1/completions": {"prompt": "Once upon a time"},
    "/v1/embeddings": {"input": ["one", "two words"]},
    "/v1/images/generations": {"prompt": "a red dot", "n": 2},
    "/v1/moderations": {"input": ["all good", "please flag me"]},
    "/v1/responses": {"input": "hello there"},
}
_MODELS: dict[str, type[BaseModel]] = {
    "/v1/chat/completions": ChatCompletion,
    "/v1/completions": Completion,
    "/v1/embeddings": CreateEmbeddingResponse,
    "/v1/images/generations": ImagesResponse,
    "/v1/moderations": ModerationCreateResponse,
}
_REFUSED = {"/v1/images/edits", "/v1/videos"}


def _line(custom_id: str, url: str, body: dict[str, object]) -> dict[str, object]:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": {"model": "m", **body}}


@pytest.fixture(scope="module")
def answered(client: Client) -> dict[str, list[dict[str, Any]]]:
    """Two answers to the same request, by endpoint."""
    found = {}
    for endpoint, body in _ASKED.items():
        batch = client.run(jsonl(_line(custom_id, endpoint, body) for custom_id in "ab"), endpoint=endpoint)
        assert batch["request_counts"] == {"total": 2, "completed": 2, "failed": 0}
        found[endpoint] = [line["response"]["body"] for line in client.lines(batch["output_file_id"])]
    return found


def test_every_endpoint_is_answered_or_refused() -> None:
    assert {*_ASKED, *_REFUSED} == BATCH_ENDPOINTS


def test_the_same_request_has_the_same_answer(answered: dict[str, list[dict[str, Any]]]) -> None:
    assert {endpoint: first == second for endpoint, (first, second) in answered.items()} == dict.fromkeys(_ASKED, True)


@pytest.mark.parametrize("endpoint", _MODELS)
def test_openais_client_takes_the_answer(answered: dict[str, list[dict[str, Any]]], endpoint: str) -> None:
    body = answered[endpoint][0]
    assert _MODELS[endpoint].model_validate(body).to_dict().keys() == body.keys()


def test_an_answer_is_made_of_what_was_asked(answered: dict[str, list[dict[str, Any]]]) -> None:
    first = {endpoint: bodies[0] for endpoint, bodies in answered.items()}
    assert first["/v1/chat/completions"]["choices"][0]["message"]["content"] == "Say hello twice"
    assert first["/v1/completions"]["choices"][0]["text"] == "Once upon a time"
    assert first["/v1/responses"]["output"][0]["content"][0]["text"] == "hello there"
    assert [each["flagged"] for each in first["/v1/moderations"]["results"]] == [False, True]
    vectors = [each["embedding"] for each in first["/v1/embeddings"]["data"]]
    assert (len(vectors), vectors[0] == vectors[1]) == (2, False)
    images = [base64.b64decode(each["b64_json"]) for each in first["/v1/images/generations"]["data"]]
    assert [image[:8] for image in images] == [b"\x89PNG\r\n\x1a\n"] * 2


@pytest.mark.parametrize(
    ("endpoint", "body", "param"),
    [
        ("/v1/chat/completions", {"messages": []}, "messages"),
        ("/v1/embeddings", {}, "input"),
        ("/v1/embeddings", {"input": []}, "input"),
        ("/v1/moderations", {}, "input"),
        ("/v1/images/generations", {}, "prompt"),
        ("/v1/images/generations", {"prompt": "dots", "n": 11}, "n"),
        ("/v1/images/edits", {}, None),
        ("/v1/videos", {}, None),
    ],
)
def test_a_request_that_has_no_answer_fails_by_itself(
    client: Client, endpoint: str, body: dict[str, object], param: str | None
) -> None:
    batch = client.run(jsonl([_line("a", endpoint, body)]), endpoint=endpoint)
    assert (batch["status"], batch["request_counts"]["failed"]) == ("completed", 1)
    [line] = client.lines(batch["error_file_id"])
    assert (line["response"]["status_code"], line["response"]["body"]["error"]["param"]) == (400, param)
