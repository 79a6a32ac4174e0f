"""What goes to Azure OpenAI: uploads with an expiry, batches of files that it has read, endpoints as it spells them."""

from __future__ import annotations

import io
import json
import time
from typing import TYPE_CHECKING

import pytest
from support.azure_answers import GUIDES, PROCESSED, answer
from support.fault_proxy import Answer, Drop

from airflow_provider_llmbatch.adapters.azure import AzureAdapter
from airflow_provider_llmbatch.core.jsonl import check_requests
from airflow_provider_llmbatch.errors import (
    BatchInputError,
    LLMBatchError,
    LostAnswerError,
    NotFoundError,
    RequestRefusedError,
    UnavailableError,
)
from airflow_provider_llmbatch.models import Batch
from airflow_provider_llmbatch.operators.wait import policy_of

if TYPE_CHECKING:
    from adapters.conftest import ConnectAzure
    from support.fault_proxy import FaultProxy


CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
GA = "2024-10-21"
DAY = 86_400


def test_an_upload_carries_an_expiry_of_thirty_days_under_azures_names(
    connect_azure: ConnectAzure, canned: FaultProxy
) -> None:
    canned.rule("POST", "/files$", answer({"id": "file-1", "status": "pending", "bytes": 3}, 201))
    file = connect_azure().create_file(io.BytesIO(b"{}\n"), filename="a.jsonl")
    [request] = canned.requests
    assert (file.id, file.status) == ("file-1", "pending")
    assert b'name="expires_after.anchor"\r\n\r\ncreated_at\r\n' in request.body
    assert b'name="expires_after.seconds"\r\n\r\n2592000\r\n' in request.body
    assert b"Content-Type: application/json\r\n\r\n{}\n" in request.body


def test_a_file_for_something_else_carries_an_expiry_only_if_asked_to(
    connect_azure: ConnectAzure, canned: FaultProxy
) -> None:
    canned.rule("POST", "/files$", answer({"id": "file-1"}, 201), times=None)
    connect_azure().create_file(io.BytesIO(b"{}\n"), filename="a.jsonl", purpose="assistants")
    connect_azure().create_file(io.BytesIO(b"{}\n"), filename="a.jsonl", purpose="assistants", expires_after=14 * DAY)
    assert [b"expires_after" in request.body for request in canned.requests] == [False, True]
    assert b"1209600" in canned.requests[1].body


@pytest.mark.parametrize("seconds", [3_600, 14 * DAY - 1, 30 * DAY + 1, 0])
def test_an_expiry_that_azure_does_not_take_is_refused_before_anything_is_sent(
    connect_azure: ConnectAzure, canned: FaultProxy, seconds: int
) -> None:
    with pytest.raises(BatchInputError, match=r"14 days\) to 2,592,000 s \(30 days\)\. Nothing was uploaded"):
        connect_azure().create_file(io.BytesIO(b"{}\n"), filename="a.jsonl", expires_after=seconds)
    with pytest.raises(BatchInputError, match="output_expires_after is"):
        connect_azure().create_batch("file-1", endpoint=CHAT, output_expires_after=seconds)
    assert canned.requests == []


def test_a_batch_is_created_when_azure_has_read_the_file(
    connect_azure: ConnectAzure, canned: FaultProxy, sleeps: list[float]
) -> None:
    for status in ("pending", "Running", "running", "Processed"):
        canned.rule("GET", "/files/file-1$", answer({"id": "file-1", "status": status}))
    canned.rule("POST", "/batches$", answer(GUIDES, 201))
    batch = connect_azure().create_batch("file-1", endpoint=CHAT, metadata={"a": "b"}, output_expires_after=14 * DAY)
    assert (batch.id, batch.endpoint, batch.status) == ("batch_1", CHAT, "validating")
    assert sleeps == [1.0, 2.0, 4.0]
    assert [request.method for request in canned.requests] == ["GET"] * 4 + ["POST"]
    assert json.loads(canned.requests[-1].body) == {
        "input_file_id": "file-1",
        "endpoint": "/chat/completions",
        "completion_window": "24h",
        "metadata": {"a": "b"},
        "output_expires_after": {"anchor": "created_at", "seconds": 14 * DAY},
    }


@pytest.mark.parametrize(
    ("file", "error", "told"),
    [
        (
            {"status": "error", "status_details": "Line 7: no JSON."},
            RequestRefusedError,
            "file-1: Line 7: no JSON. No batch",
        ),
        (
            {"status": "Error"},
            RequestRefusedError,
            "file-1: it gave no reason. No batch was created, and nothing was billed",
        ),
        ({"status": "deleted"}, NotFoundError, "The file file-1 is deleted at"),
        ({"status": "deleting"}, NotFoundError, "The file file-1 is deleting at"),
        (
            {"status": "pending"},
            UnavailableError,
            "has not read the file file-1 after 901 s: it is still pending. No batch",
        ),
    ],
)
def test_no_batch_is_made_of_a_file_that_azure_cannot_read(
    connect_azure: ConnectAzure,
    canned: FaultProxy,
    sleeps: list[float],
    file: dict[str, str],
    error: type[LLMBatchError],
    told: str,
) -> None:
    canned.rule("GET", "/files/file-1$", answer({"id": "file-1", **file}), times=None)
    with pytest.raises(error) as refused:
        connect_azure().create_batch("file-1", endpoint=CHAT)
    assert type(refused.value) is error
    assert getattr(refused.value, "reached", False) is False  # certainly no batch
    assert told in str(refused.value)
    assert "nothing was billed" in str(refused.value)
    assert canned.calls("POST", "") == []
    assert max(sleeps, default=0) <= 30


def test_a_state_that_is_not_known_or_not_told_is_left_to_azure(
    connect_azure: ConnectAzure, canned: FaultProxy
) -> None:
    for file in ({"id": "file-1"}, {"id": "file-1", "status": "brand_new"}):
        canned.rule("GET", "/files/file-1$", answer(file))
        canned.rule("POST", "/batches$", answer(GUIDES))
        assert connect_azure().create_batch("file-1", endpoint=CHAT).id == "batch_1"


def test_an_outage_while_looking_at_the_file_leaves_no_doubt_about_the_batch(
    connect_azure: ConnectAzure, canned: FaultProxy
) -> None:
    canned.rule("GET", "/files/file-1$", Answer(503), times=None)
    with pytest.raises(UnavailableError) as failed:
        connect_azure().create_batch("file-1", endpoint=CHAT)
    assert not isinstance(failed.value, LostAnswerError)
    assert canned.calls("POST", "") == []


def test_a_creation_whose_answer_is_lost_is_in_doubt_as_everywhere(
    connect_azure: ConnectAzure, canned: FaultProxy
) -> None:
    canned.rule("GET", "/files/file-1$", PROCESSED)
    canned.rule("POST", "/batches$", Drop())
    with pytest.raises(LostAnswerError):
        connect_azure().create_batch("file-1", endpoint=CHAT)
    assert len(canned.calls("POST", "")) == 1


@pytest.mark.parametrize(
    ("endpoint", "settings", "sent"),
    [
        (CHAT, {}, "/chat/completions"),
        (RESPONSES, {}, "/chat/completions"),
        ("/chat/completions", {}, "/chat/completions"),
        ("/v1/embeddings", {}, "/v1/embeddings"),
        (CHAT, {"api_version": GA}, "/chat/completions"),
        (RESPONSES, {"api_version": GA}, "/chat/completions"),
        ("/v1/embeddings", {"api_version": GA}, "/embeddings"),
        (RESPONSES, {"batch_endpoint": "/v1/responses"}, "/v1/responses"),
        (CHAT, {"api_version": GA, "batch_endpoint": "/v1/chat/completions"}, "/v1/chat/completions"),
    ],
)
def test_the_endpoint_is_spelled_as_azure_wants_it_unless_the_connection_says_how(
    connect_azure: ConnectAzure, canned: FaultProxy, endpoint: str, settings: dict[str, str], sent: str
) -> None:
    canned.rule("GET", "/files/file-1$", PROCESSED)
    canned.rule("POST", "/batches$", answer({**GUIDES, "endpoint": sent}, 201))
    canned.rule("GET", "/batches/batch_1$", answer({**GUIDES, "endpoint": sent}))
    adapter = connect_azure(**settings)
    assert adapter.create_batch("file-1", endpoint=endpoint).endpoint == endpoint
    assert json.loads(canned.requests[-1].body)["endpoint"] == sent
    assert (adapter.retrieve_batch("batch_1").endpoint or "").startswith("/v1/")


@pytest.mark.parametrize("url", [CHAT, "/chat/completions", RESPONSES])
def test_lines_may_be_written_as_guides_old_and_new_write_them(url: str) -> None:
    line = {"custom_id": "a", "method": "POST", "url": url, "body": {"model": "deployment-1"}}
    checked = check_requests(io.BytesIO(json.dumps(line).encode()), name="x", limits=AzureAdapter.limits)
    assert (checked.endpoint, checked.model) == (url, "deployment-1")


def test_the_limits_are_those_of_the_quotas_page() -> None:
    assert (AzureAdapter.limits.max_requests, AzureAdapter.limits.max_file_bytes) == (100_000, 200_000_000)
    line = b'{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {}}\n'
    many = b"".join(line.replace(b'"a"', b'"%d"' % n) for n in range(100_001))
    with pytest.raises(BatchInputError, match="more than the 100,000 lines"):
        check_requests(io.BytesIO(many), name="x", limits=AzureAdapter.limits)


def test_a_batch_that_goes_on_is_waited_for_three_days_since_azure_never_expires_one(
    connect_azure: ConnectAzure,
) -> None:
    batch = Batch(id="batch_1", status="in_progress", created_at=int(time.time()))
    policy = policy_of(batch, connect_azure(), deadline=None, min_poll_interval=60, max_poll_interval=300)
    assert policy.deadline == (batch.created_at or 0) + 73 * 3600
