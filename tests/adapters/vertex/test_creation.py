"""The call that creates a job is made once by Google's own client, unless it certainly created none."""

from __future__ import annotations

import json
import socket
import ssl
import uuid
from typing import TYPE_CHECKING

import pytest
from support.adapter_contract import CHAT
from support.fault_proxy import Answer, Drop, FaultProxy, Garbage, Hang, LoseAnswer, Truncate, fault_proxy
from support.vertex import BUCKET

from airflow_provider_llmbatch.adapters.http import TransportSettings
from airflow_provider_llmbatch.adapters.vertex.jobs import creation_of
from airflow_provider_llmbatch.errors import (
    AccessRefusedError,
    ConnectionSettingsError,
    LLMBatchError,
    LostAnswerError,
    NotFoundError,
    RateLimitError,
    RequestRefusedError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import trustme
    from adapters.conftest import ConnectVertex
    from pydantic import JsonValue
    from support.fault_proxy import Fault
    from support.gcs import RunningStorage
    from support.server import RunningServer

    from airflow_provider_llmbatch.adapters.vertex.adapter import VertexAdapter

IMPATIENT = TransportSettings(timeout=0.5)
CREATION = "/batchPredictionJobs$"
LINE = b'{"request": {"contents": [{"role": "user", "parts": [{"text": "hello"}]}], "labels": {"llmbatch_id": "a"}}}\n'
ERROR = '{"error": {"code": %d, "message": "No.", "status": "%s"}}'
"""As Google's API refuses."""


@pytest.fixture
def file_id(gcs: RunningStorage, vertex_server: RunningServer) -> str:
    """An input for the model echo, as this package would have uploaded it."""
    del vertex_server  # which makes the bucket
    name = f"files/{uuid.uuid4().hex}/in.jsonl"
    gcs.put(BUCKET, name, LINE, model="echo", requests="1")
    return f"gs://{BUCKET}/{name}"


@pytest.fixture
def faulty_vertex(vertex_server: RunningServer) -> Iterator[FaultProxy]:
    """The real face behind a proxy that breaks things by rule."""
    with fault_proxy(vertex_server.url) as proxy:
        yield proxy


def created_from(file_id: str, connect_vertex: ConnectVertex) -> int:
    """How many jobs the server holds that were made from a file."""
    return sum(batch.input_file_id == file_id for batch in connect_vertex().list_batches())


@pytest.mark.parametrize(
    ("fault", "jobs"),
    [
        pytest.param(LoseAnswer(), 1, id="lost answer"),
        pytest.param(Hang(forwarding=True), 1, id="time-out after sending"),
        pytest.param(Truncate(0), 1, id="answer without body"),
        pytest.param(Truncate(50), 1, id="half an answer"),
        pytest.param(Hang(), 0, id="time-out, never acted on"),
        pytest.param(Drop(), 0, id="reset after sending"),
        pytest.param(Drop(reset=False), 0, id="closed after sending"),
        pytest.param(Garbage(), 0, id="garbage"),
        pytest.param(Answer(500), 0, id="500"),
        pytest.param(Answer(502, b"<html>", {"Content-Type": "text/html"}), 0, id="502 page"),
        pytest.param(Answer(503, headers={"Retry-After": "0"}), 0, id="503 with Retry-After"),
        pytest.param(Answer(504, (ERROR % (504, "DEADLINE_EXCEEDED")).encode()), 0, id="504"),
        pytest.param(Answer(408), 0, id="408"),
        pytest.param(Answer(500, b"[1]"), 0, id="500 with a list"),
        pytest.param(Answer(200, b"<html>", {"Content-Type": "text/html; charset=utf-8"}), 0, id="200 page"),
        pytest.param(Answer(200, b"OK", {"Content-Type": "text/plain"}), 0, id="200 without JSON"),
        pytest.param(Answer(200, b"{}"), 0, id="200 without a job"),
        pytest.param(Answer(302, headers={"Location": "https://login.example/"}), 0, id="redirect"),
        pytest.param(Answer(307, headers={"Location": "/v1/elsewhere"}), 0, id="redirect of the call itself"),
    ],
)
def test_a_creation_whose_answer_was_lost_is_not_repeated(
    connect_vertex: ConnectVertex,
    faulty_vertex: FaultProxy,
    file_id: str,
    sleeps: list[float],
    fault: Fault,
    jobs: int,
) -> None:
    faulty_vertex.rule("POST", CREATION, fault)
    with pytest.raises(LostAnswerError, match="the batch may exist and be billed") as caught:
        connect_vertex(faulty_vertex.url, transport=IMPATIENT).create_batch(file_id, endpoint=CHAT)
    assert "a retry looks for it first" in str(caught.value)
    assert (len(faulty_vertex.requests), sleeps) == (1, [])
    assert created_from(file_id, connect_vertex) == jobs


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (400, "INVALID_ARGUMENT", RequestRefusedError),
        (403, "PERMISSION_DENIED", AccessRefusedError),
        (404, "NOT_FOUND", NotFoundError),
        (409, "ALREADY_EXISTS", RequestRefusedError),
        (413, "INVALID_ARGUMENT", RequestRefusedError),
    ],
)
def test_a_refused_creation_created_nothing_and_is_not_repeated(
    connect_vertex: ConnectVertex,
    canned: FaultProxy,
    file_id: str,
    sleeps: list[float],
    status: int,
    code: str,
    error: type[LLMBatchError],
) -> None:
    canned.rule("POST", CREATION, Answer(status, (ERROR % (status, code)).encode()))
    with pytest.raises(LLMBatchError, match=rf"answered {status} {code}: No\. Nothing was billed") as caught:
        connect_vertex(canned.url).create_batch(file_id, endpoint=CHAT)
    assert (type(caught.value), caught.value.status_code, caught.value.code) == (error, status, code)
    assert (len(canned.requests), sleeps) == (1, [])


def test_a_token_that_is_not_accepted_any_more_is_renewed_and_creates_one_job(
    connect_vertex: ConnectVertex, faulty_vertex: FaultProxy, file_id: str, sleeps: list[float]
) -> None:
    faulty_vertex.rule("POST", CREATION, Answer(401, (ERROR % (401, "UNAUTHENTICATED")).encode()))
    connect_vertex(faulty_vertex.url).create_batch(file_id, endpoint=CHAT)
    tokens = [request.headers["authorization"] for request in faulty_vertex.requests]
    assert (len(set(tokens)), len(tokens), sleeps) == (2, 2, [])
    assert created_from(file_id, connect_vertex) == 1


def test_a_key_that_is_refused_again_and_again_creates_nothing(
    connect_vertex: ConnectVertex, canned: FaultProxy, file_id: str
) -> None:
    canned.rule("POST", CREATION, Answer(401, (ERROR % (401, "UNAUTHENTICATED")).encode()), times=None)
    with pytest.raises(AccessRefusedError, match="401 UNAUTHENTICATED") as caught:
        connect_vertex(canned.url).create_batch(file_id, endpoint=CHAT)
    assert "Nothing was billed. A retry would be refused again: mend the key file /" in str(caught.value)
    assert str(caught.value).endswith("service-account.json, such as one that was deleted or has been disabled.")
    assert not any(request.headers["authorization"][7:] in str(caught.value) for request in canned.requests)


def test_a_creation_that_was_asked_to_come_later_comes_later(
    connect_vertex: ConnectVertex, faulty_vertex: FaultProxy, file_id: str, sleeps: list[float]
) -> None:
    full = (ERROR % (429, "RESOURCE_EXHAUSTED")).encode()
    faulty_vertex.rule("POST", CREATION, Answer(429, full, {"Retry-After": "7"}), times=2)
    batch = connect_vertex(faulty_vertex.url).create_batch(file_id, endpoint=CHAT)
    assert batch.input_file_id == file_id
    assert [request.forwarded for request in faulty_vertex.requests] == [False, False, True]
    assert (sleeps, created_from(file_id, connect_vertex)) == ([7.0, 7.0], 1)


def test_a_creation_that_is_always_asked_to_come_later_gives_up(
    connect_vertex: ConnectVertex, canned: FaultProxy, file_id: str
) -> None:
    canned.rule("POST", CREATION, Answer(429, (ERROR % (429, "RESOURCE_EXHAUSTED")).encode()), times=None)
    with pytest.raises(RateLimitError, match=r"RESOURCE_EXHAUSTED: No\..*Nothing was billed") as caught:
        connect_vertex(canned.url).create_batch(file_id, endpoint=CHAT)
    assert (caught.value.reached, len(canned.requests)) == (False, 5)


def test_a_creation_that_never_got_a_connection_is_repeated(
    connect_vertex: ConnectVertex, file_id: str, sleeps: list[float]
) -> None:
    with pytest.raises(UnavailableError, match=r"Nothing was sent or billed\. A retry may succeed") as caught:
        connect_vertex(_url_of_nobody()).create_batch(file_id, endpoint=CHAT)
    assert (type(caught.value), caught.value.reached, len(sleeps)) == (UnavailableError, False, 4)


def test_a_lost_answer_after_a_repeat_is_still_lost(
    connect_vertex: ConnectVertex, canned: FaultProxy, file_id: str
) -> None:
    canned.rule("POST", CREATION, Answer(429))
    canned.rule("POST", CREATION, Drop())
    with pytest.raises(LostAnswerError):
        connect_vertex(canned.url).create_batch(file_id, endpoint=CHAT)
    assert len(canned.requests) == 2


def test_a_lost_answer_keeps_what_the_service_said(
    connect_vertex: ConnectVertex, canned: FaultProxy, file_id: str
) -> None:
    canned.rule("POST", CREATION, Answer(500, (ERROR % (500, "INTERNAL")).encode()))
    with pytest.raises(LostAnswerError, match="500 INTERNAL: No") as caught:
        connect_vertex(canned.url).create_batch(file_id, endpoint=CHAT)
    assert (caught.value.status_code, caught.value.code) == (500, "INTERNAL")


def test_the_job_is_asked_for_as_the_api_wants_it(
    connect_vertex: ConnectVertex, faulty_vertex: FaultProxy, file_id: str
) -> None:
    connect_vertex(faulty_vertex.url).create_batch(file_id, endpoint=CHAT, metadata={"team": "search"})
    [request] = faulty_vertex.requests
    body = json.loads(request.body)
    prefix = body["outputConfig"]["gcsDestination"].pop("outputUriPrefix")
    assert request.path.partition("?")[0] == "/v1/projects/analytics/locations/us-central1/batchPredictionJobs"
    assert prefix.startswith(f"gs://{BUCKET}/batches/")
    assert body == {
        "displayName": "llmbatch in.jsonl",
        "model": "publishers/google/models/echo",
        "inputConfig": {"instancesFormat": "jsonl", "gcsSource": {"uris": [file_id]}},
        "outputConfig": {"predictionsFormat": "jsonl", "gcsDestination": {}},
        "labels": {"team": "search", "llmbatch_requests": "1"},
    }


def creation(adapter: VertexAdapter, file_id: str) -> JsonValue:
    """A job's creation without anything before it; the input that it was made from."""
    body = creation_of(
        model="echo",
        input_uri=file_id,
        output_prefix=f"gs://{BUCKET}/out/",
        display_name="x",
        metadata={},
        requests=None,
    )
    created = adapter._creation.create("projects/analytics/locations/us-central1", body, action="create a batch")
    return created["inputConfig"]


def test_only_a_certificate_that_the_connection_trusts_will_do_whatever_the_environment_says(
    connect_vertex: ConnectVertex,
    vertex_server: RunningServer,
    file_id: str,
    authority: trustme.CA,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with fault_proxy(vertex_server.url, tls=context) as secure:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
        with pytest.raises(ConnectionSettingsError, match="certificate that is not trusted"):
            creation(connect_vertex(secure.url), file_id)
        assert secure.requests == []
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "none.pem"))
        trusting = connect_vertex(secure.url, transport=TransportSettings(ca_bundle=str(bundle)))
        assert creation(trusting, file_id) == {"instancesFormat": "jsonl", "gcsSource": {"uris": [file_id]}}


def test_a_creation_goes_through_the_connections_proxy(
    connect_vertex: ConnectVertex, vertex_server: RunningServer, file_id: str
) -> None:
    with fault_proxy(vertex_server.url) as proxy:
        creation(connect_vertex("http://vertex.test", transport=TransportSettings(proxy=proxy.url)), file_id)
        assert [request.headers["host"] for request in proxy.calls("POST", CREATION)] == ["vertex.test"]


def test_another_model_is_looked_for_where_newer_ones_are(
    connect_vertex: ConnectVertex, canned: FaultProxy, file_id: str
) -> None:
    canned.rule("POST", CREATION, Answer(404, (ERROR % (404, "NOT_FOUND")).encode()))
    with pytest.raises(NotFoundError) as caught:
        connect_vertex(canned.url).create_batch(file_id, endpoint=CHAT)
    assert str(caught.value).endswith(
        "No batch was created. Is publishers/google/models/echo offered in 'us-central1'? Newer models are often only "
        'in "global".'
    )


@pytest.mark.parametrize(("status", "code"), [(403, "PERMISSION_DENIED"), (400, "FAILED_PRECONDITION")])
def test_rights_that_lack_may_be_those_of_the_service_agent(
    connect_vertex: ConnectVertex, canned: FaultProxy, file_id: str, status: int, code: str
) -> None:
    canned.rule("POST", CREATION, Answer(status, (ERROR % (status, code)).encode()))
    with pytest.raises(LLMBatchError, match="service agent") as caught:
        connect_vertex(canned.url).create_batch(file_id, endpoint=CHAT)
    assert f"on gs://{BUCKET}/, and the bucket must lie where 'us-central1' can use it" in str(caught.value)


def _url_of_nobody() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_who_lacks_a_right_is_told_which_roles_are_needed_and_by_whom(
    connect_vertex: ConnectVertex, canned: FaultProxy, file_id: str
) -> None:
    canned.rule("POST", CREATION, Answer(403, (ERROR % (403, "PERMISSION_DENIED")).encode()))
    with pytest.raises(AccessRefusedError) as caught:
        connect_vertex(canned.url).create_batch(file_id, endpoint=CHAT)
    assert str(caught.value).partition("Nothing was billed. ")[2] == (
        "A retry would be refused again: the identity of this connection needs the role Vertex AI User "
        "(roles/aiplatform.user) on the project, and the project the enabled Vertex AI API (aiplatform.googleapis.com)"
        ". No batch was created. Besides the identity, Vertex AI's service agent "
        "service-PROJECT_NUMBER@gcp-sa-aiplatform.iam.gserviceaccount.com needs the role Storage Object Admin "
        f"(roles/storage.objectAdmin) on gs://{BUCKET}/, and the bucket must lie where 'us-central1' can use it."
    )
