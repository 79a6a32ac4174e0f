"""What Azure OpenAI refuses, and what is refused before: full resources, errors of both shapes, headers, keys."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest
from adapters.conftest import KEY
from support.azure_answers import answer
from support.fault_proxy import Answer

from airflow_provider_llmbatch.adapters.azure import AzureAdapter, AzureSettings
from airflow_provider_llmbatch.adapters.entra import EntraAuthorization, Identity
from airflow_provider_llmbatch.adapters.http import TransportSettings
from airflow_provider_llmbatch.errors import (
    AccessRefusedError,
    ConnectionSettingsError,
    QuotaExceededError,
    RequestRefusedError,
    UnavailableError,
)

if TYPE_CHECKING:
    from adapters.conftest import ConnectAzure
    from support.fault_proxy import FaultProxy


WORDS = "The quota for files without expiry is reached. The maximum is 500."
FULL = {"error": {"code": "quotaExceeded", "message": WORDS}}


def test_a_resource_full_of_files_is_told_with_what_to_delete(connect_azure: ConnectAzure, canned: FaultProxy) -> None:
    files = [
        {
            "id": f"file-{n}",
            "purpose": "batch",
            "created_at": 1_700_000_000 - n,
            "expires_at": 1_800_000_000 if n > 4 else None,
        }
        for n in range(1, 8)
    ]
    canned.rule("POST", "/files$", answer(FULL, 400, **{"apim-request-id": "apim-1"}))
    canned.rule("GET", "/files$", answer({"data": files, "has_more": False}))
    with pytest.raises(QuotaExceededError) as full:
        connect_azure().create_file(io.BytesIO(b"{}\n"), filename="a.jsonl")
    assert (full.value.code, full.value.status_code, full.value.request_id) == ("quotaExceeded", 400, "apim-1")
    message = str(full.value)
    assert (
        "400 quotaExceeded: The quota for files without expiry is reached. The maximum is 500, request id apim-1."
        in message
    )
    assert "Nothing was billed." in message
    assert "It holds 7 batch input files, 4 of them without an expiry." in message
    assert "allows 500 without an expiry and 10,000 with one" in message
    assert "beginning with the oldest (file-7, file-6, file-5, file-4, file-3)" in message
    assert message.endswith("LLMBatchDeleteFileOperator(file_id=…).")
    assert canned.requests[1].path == "/openai/v1/files?purpose=batch&limit=1000"


def test_a_resource_full_of_files_is_told_even_if_they_cannot_be_counted(
    connect_azure: ConnectAzure, canned: FaultProxy
) -> None:
    canned.rule("POST", "/files$", answer(FULL, 400))
    canned.rule("GET", "/files$", Answer(403))
    with pytest.raises(QuotaExceededError, match="Delete input files whose batches have ended, for example with"):
        connect_azure().create_file(io.BytesIO(b"{}\n"), filename="a.jsonl")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (
            {
                "error": {
                    "code": "invalidPayload",
                    "message": "Bad.",
                    "target": "x",
                    "details": [{"code": "y", "message": "Line 3."}],
                }
            },
            "400 invalidPayload: Bad. Line 3, request id apim-7",
        ),
        (
            {
                "error": {
                    "code": "invalid_value",
                    "message": "Bad.",
                    "param": "endpoint",
                    "type": "invalid_request_error",
                }
            },
            "400 invalid_value: Bad, request id apim-7",
        ),
    ],
    ids=["classic", "v1"],
)
def test_errors_of_both_shapes_keep_code_message_and_apims_request_id(
    connect_azure: ConnectAzure, canned: FaultProxy, body: dict[str, object], told: str
) -> None:
    canned.rule("GET", "/batches/batch_1$", answer(body, 400, **{"apim-request-id": "apim-7", "x-request-id": "other"}))
    with pytest.raises(RequestRefusedError) as refused:
        connect_azure().retrieve_batch("batch_1")
    assert told in str(refused.value)
    assert refused.value.request_id == "apim-7"


def test_the_key_travels_as_api_key_with_the_headers_of_the_connection(
    connect_azure: ConnectAzure, canned: FaultProxy
) -> None:
    canned.rule("GET", "/batches$", answer({"data": []}))
    connect_azure(headers={f"X-{n}": str(n) for n in range(10)}).ping()
    headers = canned.requests[0].headers
    assert [headers.get(name) for name in ("api-key", "authorization", "x-0", "x-9")] == [KEY, None, "0", "9"]


def test_more_than_ten_headers_are_refused_in_the_connection() -> None:
    with pytest.raises(ConnectionSettingsError, match="has 11 headers of its own, and Azure OpenAI takes at most 10"):
        AzureAdapter(AzureSettings("https://r.openai.azure.com", KEY, headers={f"X-{n}": "v" for n in range(11)}))


def test_headers_that_azure_finds_too_many_are_the_connections_fault(
    connect_azure: ConnectAzure, canned: FaultProxy
) -> None:
    canned.rule("GET", "/batches$", Answer(431))
    with pytest.raises(ConnectionSettingsError, match="the connection's own headers are too many or large"):
        connect_azure().ping()


def test_a_key_stands_in_no_error_and_in_no_repr(connect_azure: ConnectAzure, canned: FaultProxy) -> None:
    canned.rule(
        "GET", "/batches$", answer({"error": {"code": "401", "message": f"Not with {KEY} or h3ader-word."}}, 401)
    )
    adapter = connect_azure(headers={"X-Secret": "h3ader-word"})
    with pytest.raises(AccessRefusedError, match=r"Not with \*\*\* or \*\*\*") as refused:
        adapter.ping()
    shown = f"{refused.value!r} {adapter._azure!r} {adapter._settings!r}"
    assert not [secret for secret in (KEY, "h3ader-word") if secret in shown]


def test_only_microsofts_own_hosts_have_a_portal() -> None:
    def console(endpoint: str, **more: Any) -> str | None:
        adapter = AzureAdapter(AzureSettings(endpoint, KEY, **more))
        adapter.close()
        return adapter.console_url("batch_1")

    assert console("https://r.openai.azure.com") == "https://ai.azure.com/"
    assert console("http://127.0.0.1:4000") is None
    assert console("http://127.0.0.1:4000", console_url="https://mine.test/{batch_id}") == "https://mine.test/batch_1"


def test_looks_of_a_triggerer_are_made_once(
    connect_azure: ConnectAzure, canned: FaultProxy, sleeps: list[float]
) -> None:
    canned.rule("GET", "/batches/batch_1$", Answer(503), times=None)
    with pytest.raises(UnavailableError):
        connect_azure(transport=TransportSettings(max_attempts=1)).retrieve_batch("batch_1")
    assert (len(canned.requests), sleeps) == (1, [])


def test_what_to_mend_when_a_token_is_not_accepted_is_the_identity_and_no_key() -> None:
    identity = Identity("client secret", "my-tenant", "my-client", "secret-words")
    authorization = EntraAuthorization(identity, "https://ai.azure.com/.default", TransportSettings())
    assert authorization.remedy == (
        "mend the connection's client secret (client my-client, tenant my-tenant), or its scope, "
        "https://ai.azure.com/.default"
    )
