"""Azure may lose a batch's metadata; then a batch whose creation was in doubt is found by its input file."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest
import structlog
from support.azure_answers import PROCESSED, answer
from support.fault_proxy import Drop, fault_proxy

from airflow_provider_llmbatch.adapters.azure import AzureAdapter, AzureSettings
from airflow_provider_llmbatch.core.ledger import BatchRecord, Ledger, MemoryStore
from airflow_provider_llmbatch.core.submit import Attempt, BatchJob, Slot, Timing, submit_batch
from airflow_provider_llmbatch.errors import LostAnswerError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.fault_proxy import FaultProxy

NOW = int(time.time())
QUEUE_FULL = {"value": [{"code": "token_limit_exceeded", "message": "Full.", "line": ""}]}


@pytest.fixture
def azure() -> Iterator[FaultProxy]:
    with fault_proxy() as server:
        server.rule("GET", "/files/file-1$", PROCESSED, times=None)
        yield server


def listed(batch_id: str, **more: object) -> dict[str, object]:
    return {
        "id": batch_id,
        "status": "Validating",
        "input_file_id": "file-1",
        "created_at": NOW + 1,
        "metadata": None,
        **more,
    }


def submitted(azure: FaultProxy, *batches: dict[str, object]) -> str:
    """What is taken for the batch, when the answer to its creation is lost and the list shows these."""
    azure.rule("POST", "/batches$", Drop())
    azure.rule("GET", "/batches$", answer({"data": batches}), times=None)
    azure.rule("POST", "/batches$", answer(listed("batch_another")), times=1)
    adapter = AzureAdapter(AzureSettings(azure.url, "key-1"))
    try:
        return submit_batch(
            adapter,
            Ledger(MemoryStore(), "batch", BatchRecord, durable=True),
            Slot("https://airflow.test", "dag", "run", "task"),
            BatchJob("file-1", "/v1/chat/completions"),
            attempt=Attempt(try_number=1, max_tries=0),
            timing=Timing(listing_lag=0.0),
            log=structlog.get_logger(),
        ).id
    finally:
        adapter.close()


def test_it_is_found_by_its_input_file_and_not_created_again(azure: FaultProxy) -> None:
    assert submitted(azure, listed("batch_1"), listed("batch_of_another_file", input_file_id="file-2")) == "batch_1"
    assert len(azure.calls("POST", "/batches$")) == 1


def test_one_that_is_older_than_the_intent_is_another(azure: FaultProxy) -> None:
    assert submitted(azure, listed("batch_old", created_at=NOW - 3_600)) == "batch_another"


def test_one_that_met_a_full_queue_is_an_earlier_submission_and_no_duplicate_is_cancelled(azure: FaultProxy) -> None:
    refused = listed("batch_refused", created_at=NOW, status="Failed", errors=QUEUE_FULL)
    assert submitted(azure, listed("batch_1"), refused) == "batch_1"
    assert azure.calls("POST", "/cancel$") == []


def test_a_key_of_somebody_else_counts_more_than_the_file(azure: FaultProxy) -> None:
    others = listed("batch_of_staging", metadata={"llmbatch_key": "llmb-other"})
    assert submitted(azure, others) == "batch_another"
    assert json.loads(azure.calls("POST", "/batches$")[-1].body)["metadata"]["llmbatch_key"].startswith("llmb-")


def test_answers_that_stay_lost_leave_the_task_in_doubt(azure: FaultProxy) -> None:
    azure.rule("POST", "/batches$", Drop(), times=3)
    with pytest.raises(LostAnswerError):
        submitted(azure)
