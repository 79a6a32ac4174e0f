"""No token and no key stands in a message, a repr or a log line, whoever wrote it there, Google's client included."""

from __future__ import annotations

import json
import logging
import traceback
from typing import TYPE_CHECKING

import pytest
from support.adapter_contract import CHAT
from support.fault_proxy import Answer, Drop, FaultProxy, Garbage, Hang
from support.vertex import BUCKET

from airflow_provider_llmbatch.adapters.http import TransportSettings
from airflow_provider_llmbatch.adapters.vertex.credentials import Identity
from airflow_provider_llmbatch.adapters.vertex.settings import VertexSettings
from airflow_provider_llmbatch.errors import LLMBatchError

if TYPE_CHECKING:
    from collections.abc import Callable

    from adapters.conftest import ConnectVertex
    from support.fault_proxy import Fault
    from support.gcs import RunningStorage

    from airflow_provider_llmbatch.adapters.vertex.adapter import VertexAdapter

JOB = "projects/analytics/locations/us-central1/batchPredictionJobs/1"
INPUT = f"gs://{BUCKET}/secrets/in.jsonl"

CALLS: dict[str, Callable[[VertexAdapter], object]] = {
    "create_batch": lambda adapter: adapter.create_batch(INPUT, endpoint=CHAT),
    "retrieve_batch": lambda adapter: adapter.retrieve_batch(JOB),
    "list_batches": lambda adapter: list(adapter.list_batches()),
    "cancel_batch": lambda adapter: adapter.cancel_batch(JOB),
    "ping": lambda adapter: adapter.ping(),
}
FAULTS: dict[str, Callable[[bytes], Fault]] = {
    **{
        str(status): lambda echo, status=status: Answer(  # type: ignore[misc]
            status, json.dumps({"error": {"code": status, "message": echo.decode(), "status": echo.decode()}}).encode()
        )
        for status in (400, 401, 403, 404, 429, 500)
    },
    "503 text": lambda echo: Answer(503, echo, {"Content-Type": "text/plain"}),
    "200 text": lambda echo: Answer(200, echo),
    "200 JSON": lambda echo: Answer(200, json.dumps({"name": [echo.decode()], "state": echo.decode()}).encode()),
    "302": lambda echo: Answer(302, b"", {"Location": f"https://login.example/?{echo.decode()}"}),
    "drop": lambda _: Drop(),
    "garbage": lambda echo: Garbage(echo + b"\r\n\r\n"),
    "hang": lambda _: Hang(),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("fault", FAULTS)
def test_an_error_holds_no_token_even_if_the_server_writes_it(
    connect_vertex: ConnectVertex,
    canned: FaultProxy,
    gcs: RunningStorage,
    caplog: pytest.LogCaptureFixture,
    call: str,
    fault: str,
) -> None:
    gcs.put(BUCKET, INPUT.removeprefix(f"gs://{BUCKET}/"), b"{}", model="echo")
    adapter = connect_vertex(canned.url, transport=TransportSettings(timeout=0.1, max_attempts=2))
    token = adapter._authorization.headers()["Authorization"].removeprefix("Bearer ")
    for method in ("GET", "POST"):
        canned.rule(method, "", FAULTS[fault](f"The token {token} of {token}".encode()), times=None)
    caplog.set_level(logging.DEBUG)
    try:
        CALLS[call](adapter)
    except LLMBatchError as error:
        written = "\n".join([str(error), repr(error), repr(vars(error)), *traceback.format_exception(error)])
        assert token not in written
    else:
        assert (call, fault) in [("list_batches", "200 JSON"), ("ping", "200 JSON")]  # a page without items
    ours = [record for record in caplog.records if not record.name.startswith(("httpcore", "asyncio"))]
    assert not [record.getMessage() for record in ours if token in record.getMessage()]


def test_settings_and_adapters_show_no_key(connect_vertex: ConnectVertex) -> None:
    key = json.dumps({"type": "service_account", "private_key": "PRIVATE-words"})
    settings = VertexSettings("us-central1", identity=Identity(key_json=key))
    adapter = connect_vertex(identity=Identity(key_json=key))
    assert "PRIVATE" not in f"{settings!r} {settings} {adapter!r} {adapter._authorization!r} {vars(adapter)!r}"
    with pytest.raises(LLMBatchError) as refused:
        adapter.retrieve_batch(JOB)
    assert "PRIVATE" not in "\n".join(traceback.format_exception(refused.value))
