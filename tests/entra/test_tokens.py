"""A token of Entra ID over a day-long wait: kept, shared, renewed off the event loop, refused, and out of reach."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from entra.conftest import SECRET
from support.entra import TENANT, EntraServer, answer_everything, bearers
from support.fault_proxy import Answer, FaultProxy
from support.task import adapters_closed, context_of

from airflow_provider_llmbatch.adapters import entra as entra_module
from airflow_provider_llmbatch.errors import AccessRefusedError, UnavailableError
from airflow_provider_llmbatch.operators.batch import LLMBatchCreateBatchOperator
from airflow_provider_llmbatch.triggers.batch import LLMBatchTrigger

if TYPE_CHECKING:
    from airflow.sdk import Connection
    from entra.conftest import OpenAdapter

    from airflow_provider_llmbatch.triggers.batch import BatchEvent


RUNNING = b'{"id": "batch_1", "status": "in_progress", "input_file_id": "file-1", "created_at": 1700000000}'


def test_a_token_that_ends_in_the_middle_of_a_day_is_renewed_five_minutes_before(
    entra: EntraServer, azure: FaultProxy, open_adapter: OpenAdapter, client_id: str
) -> None:
    answer_everything(azure)
    adapter = open_adapter(client_id=client_id, client_secret=SECRET)
    now = time.time()
    authorization: Any = adapter._http._authorization
    for hours, seconds in ((0, 0), (0, 3290), (0, 3310), (1, 0)):
        authorization._clock = lambda at=now + hours * 3600 + seconds: at
        adapter.retrieve_batch("batch_1")
    first, second = entra.tokens(client_id)[:2]
    assert bearers(azure)[:3] == [first, first, second]
    assert bearers(azure)[3] == entra.tokens(client_id)[-1]


def test_many_threads_ask_for_one_token(
    entra: EntraServer, azure: FaultProxy, open_adapter: OpenAdapter, client_id: str
) -> None:
    answer_everything(azure)
    adapters = [open_adapter(client_id=client_id, client_secret=SECRET) for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: adapters[n % 4].retrieve_batch("batch_1"), range(16)))
    assert len(entra.requests(client_id)) == 1
    assert len(set(bearers(azure))) == 1


def test_a_credential_is_closed_as_soon_as_it_has_given_its_token(
    azure: FaultProxy, open_adapter: OpenAdapter, client_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_everything(azure)
    events: list[str] = []
    make = entra_module._credential_of

    def watched(*args: Any) -> Any:
        credential: Any = make(*args)
        close = credential.close
        credential.close = lambda: (close(), events.append("closed"))
        return credential

    monkeypatch.setattr(entra_module, "_credential_of", watched)
    open_adapter(client_id=client_id, client_secret=SECRET).ping()
    with pytest.raises(AccessRefusedError):
        open_adapter(client_id=client_id, client_secret="wrong-secret").ping()
    assert events == ["closed", "closed"]


def test_threads_that_waited_for_the_same_token_share_why_there_is_none_each_with_an_error_of_its_own(
    entra: EntraServer, open_adapter: OpenAdapter, client_id: str
) -> None:
    entra.revoke(client_id)
    adapter = open_adapter(client_id=client_id, client_secret=SECRET)

    def refused(_: int) -> AccessRefusedError:
        with pytest.raises(AccessRefusedError) as caught:
            adapter.retrieve_batch("batch_1")
        return caught.value

    with ThreadPoolExecutor(4) as pool:
        errors = list(pool.map(refused, range(4)))
    assert (len({id(error) for error in errors}), len({str(error) for error in errors})) == (4, 1)
    assert len(entra.requests(client_id)) == 1


def test_a_token_that_azure_does_not_accept_is_not_used_again(
    entra: EntraServer, azure: FaultProxy, open_adapter: OpenAdapter, client_id: str
) -> None:
    azure.rule("GET", "", Answer(401, b'{"error": {"code": "401", "message": "Unauthorized."}}'))
    answer_everything(azure)
    adapter = open_adapter(client_id=client_id, client_secret=SECRET)
    with pytest.raises(AccessRefusedError):
        adapter.ping()
    adapter.ping()
    assert bearers(azure) == entra.tokens(client_id)
    assert len(set(bearers(azure))) == 2


def test_a_revoked_secret_is_told_and_nothing_is_sent(
    entra: EntraServer, azure: FaultProxy, open_adapter: OpenAdapter, client_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    entra.revoke(client_id)
    adapter = open_adapter(client_id=client_id, client_secret=SECRET)
    with pytest.raises(AccessRefusedError) as refused:
        adapter.create_batch("file-1", endpoint="/v1/chat/completions")
    message = str(refused.value)
    assert message.startswith(
        f"Entra ID gave no token to this connection's client secret (client {client_id}, tenant {TENANT}): "
        "Authentication failed: AADSTS7000222: "
    )
    assert "Nothing was sent to Azure OpenAI or billed, and nothing was cancelled." in message
    assert azure.requests == []
    written = [message, repr(vars(refused.value)), *traceback.format_exception(refused.value), repr(adapter._azure)]
    assert SECRET not in "\n".join([*written, caplog.text, repr(entra_module._TOKENS)])


def test_a_token_stands_in_no_error_even_if_the_server_writes_it(
    entra: EntraServer, azure: FaultProxy, open_adapter: OpenAdapter, client_id: str
) -> None:
    adapter = open_adapter(client_id=client_id, client_secret=SECRET)
    [token] = [adapter._http._authorization.headers()["Authorization"].removeprefix("Bearer ")]  # type: ignore[union-attr]
    azure.rule("GET", "", Answer(403, json.dumps({"error": {"message": f"Not with {token}."}}).encode()))
    with pytest.raises(AccessRefusedError, match=r"Not with \*\*\*"):
        adapter.ping()
    assert entra.tokens(client_id) == [token]


@pytest.mark.parametrize("outage", [503, 429])
def test_an_outage_of_entra_is_borne_and_retried_like_one_of_azure(
    entra: EntraServer, azure: FaultProxy, open_adapter: OpenAdapter, client_id: str, outage: int
) -> None:
    entra.set(outage=outage)
    adapter = open_adapter(looking=True, client_id=client_id, client_secret=SECRET)
    with pytest.raises(UnavailableError, match="That is an outage of Entra ID, or of the way to it") as failed:
        adapter.create_batch("file-1", endpoint="/v1/chat/completions")
    assert (failed.value.reached, azure.requests) == (False, [])


def test_an_entra_that_cannot_be_reached_is_an_outage(
    azure: FaultProxy, open_adapter: OpenAdapter, client_id: str
) -> None:
    adapter = open_adapter(looking=True, authority_host="127.0.0.1:9", client_id=client_id, client_secret=SECRET)
    with pytest.raises(UnavailableError, match="That is an outage of Entra ID"):
        adapter.ping()
    assert azure.requests == []


def test_a_token_about_to_end_is_used_while_entra_is_down(
    entra: EntraServer, azure: FaultProxy, open_adapter: OpenAdapter, client_id: str
) -> None:
    answer_everything(azure)
    adapter = open_adapter(looking=True, client_id=client_id, client_secret=SECRET)
    adapter.ping()
    entra.set(outage=503)
    authorization: Any = adapter._http._authorization
    authorization._clock = lambda: time.time() + 3590
    adapter.ping()
    assert bearers(azure) == entra.tokens(client_id) * 2
    authorization._clock = lambda: time.time() + 3610
    with pytest.raises(UnavailableError):
        adapter.ping()


def fired(connection: Connection, monkeypatch: pytest.MonkeyPatch, *, seconds: float = 30.0) -> BatchEvent:
    """What a triggerer makes of the wait for ``batch_1``."""
    monkeypatch.setenv("AIRFLOW_CONN_AZURE", connection.as_json())

    async def first() -> BatchEvent:
        trigger = LLMBatchTrigger("azure", "batch_1", time.time() + seconds, 0.05, 0.05)
        async for event in trigger.run():
            payload: BatchEvent = event.payload
            return payload
        raise AssertionError("the trigger did not fire")

    return asyncio.run(first())


def test_a_wait_goes_on_when_its_token_ends_and_the_event_loop_gets_none(
    entra: EntraServer, azure: FaultProxy, connection_to: Any, client_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entra.set(lifetime=300)  # so that every look comes after the end of the one before
    threads = []
    make = entra_module._credential_of

    def watched(*args: Any) -> Any:
        threads.append(threading.current_thread().name)
        return make(*args)

    monkeypatch.setattr(entra_module, "_credential_of", watched)
    azure.rule("GET", "/batches/batch_1$", Answer(200, RUNNING), times=3)
    azure.rule("GET", "/batches/batch_1$", Answer(200, RUNNING.replace(b"in_progress", b"completed")))
    event = fired(connection_to(client_id=client_id, client_secret=SECRET), monkeypatch)
    assert (event["status"], event["error"]) == ("ended", None)
    assert bearers(azure) == entra.tokens(client_id)
    assert len(set(bearers(azure))) == 4
    assert {name.rpartition("_")[0] for name in threads} == {"llmbatch"}


def test_a_secret_that_is_revoked_in_the_middle_of_a_wait_ends_the_wait_and_cancels_nothing(
    entra: EntraServer, azure: FaultProxy, connection_to: Any, client_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entra.set(lifetime=300)
    azure.rule("GET", "/batches/batch_1$", Answer(200, RUNNING), times=None)
    given = connection_to(client_id=client_id, client_secret=SECRET)

    def revoke_after_two(*args: Any) -> Any:
        if len(azure.requests) == 2:
            entra.revoke(client_id)
        return make(*args)

    make = entra_module._credential_of
    monkeypatch.setattr(entra_module, "_credential_of", revoke_after_two)
    event = fired(given, monkeypatch)
    assert event["status"] == "given_up"
    task = LLMBatchCreateBatchOperator(task_id="create_batch", input_file_id="file-1", llmbatch_conn_id="azure")
    with adapters_closed(monkeypatch), pytest.raises(AirflowFailException) as failed:
        task.execute_complete(context_of(task)[0], event)
    message = str(failed.value)
    assert "AADSTS7000222: The provided client secret keys are expired or revoked" in message
    assert "batch_1 was not cancelled, and goes on if it had not ended." in message
    assert SECRET not in message
    assert [(request.method, request.path) for request in azure.requests] == [("GET", "/openai/v1/batches/batch_1")] * 2


def test_a_secret_that_was_replaced_in_the_connection_counts_from_the_next_look(
    entra: EntraServer, azure: FaultProxy, connection_to: Any, client_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entra.set(lifetime=300)
    azure.rule("GET", "/batches/batch_1$", Answer(200, RUNNING))
    azure.rule("GET", "/batches/batch_1$", Answer(200, RUNNING.replace(b"in_progress", b"completed")))
    make = entra_module._credential_of

    def replace_after_one(*args: Any) -> Any:
        if len(azure.requests) == 1:
            entra.know(client_id, secret="another-secret")
            renewed = connection_to(client_id=client_id, client_secret="another-secret")
            monkeypatch.setenv("AIRFLOW_CONN_AZURE", renewed.as_json())
        return make(*args)

    monkeypatch.setattr(entra_module, "_credential_of", replace_after_one)
    assert fired(connection_to(client_id=client_id, client_secret=SECRET), monkeypatch)["status"] == "ended"
    assert [request["status"] for request in entra.requests(client_id)] == [200, 401, 200]
