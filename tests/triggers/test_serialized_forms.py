"""What waits in Airflow's database outlives a release: each reads what the other wrote."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_llmbatch.triggers.batch import LLMBatchTrigger
from airflow_provider_llmbatch.triggers.queue import LLMBatchQueueTrigger
from airflow_provider_llmbatch.triggers.run import LLMBatchRunTrigger

if TYPE_CHECKING:
    from airflow.triggers.base import BaseTrigger

# As 0.1.0 wrote them. Never changed: a later release adds its own form below.
FORMS: list[tuple[str, dict[str, Any]]] = [
    (
        "airflow_provider_llmbatch.triggers.batch.LLMBatchTrigger",
        {
            "llmbatch_conn_id": "nightly",
            "batch_id": "batch_1",
            "deadline": 1_800_000_000.5,
            "min_poll_interval": 10.0,
            "max_poll_interval": 300.0,
            "cancel_on_kill": True,
        },
    ),
    (
        "airflow_provider_llmbatch.triggers.run.LLMBatchRunTrigger",
        {
            "llmbatch_conn_id": "nightly",
            "batch_ids": ["batch_1", "batch_2"],
            "deadline": 1_800_000_000.5,
            "resubmit_at": None,
            "any_end": False,
            "min_poll_interval": 10.0,
            "max_poll_interval": 300.0,
            "cancel_on_kill": True,
        },
    ),
    (
        "airflow_provider_llmbatch.triggers.queue.LLMBatchQueueTrigger",
        {"until": 1_800_000_000.5, "queued_since": 1_799_999_000.0, "refusals": 2},
    ),
]
NOW: list[BaseTrigger] = [
    LLMBatchTrigger("nightly", "batch_1", 1_800_000_000.5, cancel_on_kill=True),
    LLMBatchRunTrigger("nightly", ["batch_1", "batch_2"], 1_800_000_000.5, cancel_on_kill=True),
    LLMBatchQueueTrigger(1_800_000_000.5, 1_799_999_000.0, 2),
]
NAMES = [path.rpartition(".")[2] for path, _ in FORMS]


@pytest.mark.parametrize(("path", "arguments"), FORMS, ids=NAMES)
def test_a_trigger_that_an_earlier_release_wrote_is_taken_up_with_all_that_it_said(
    path: str, arguments: dict[str, Any]
) -> None:
    module, _, name = path.rpartition(".")
    trigger = getattr(import_module(module), name)(**arguments)
    said_now = trigger.serialize()[1]
    assert {key: said_now[key] for key in arguments} == arguments


@pytest.mark.parametrize(("form", "trigger"), list(zip(FORMS, NOW, strict=True)), ids=NAMES)
def test_a_trigger_that_is_written_now_can_be_taken_up_by_the_previous_release(
    form: tuple[str, dict[str, Any]], trigger: BaseTrigger
) -> None:
    path, said = trigger.serialize()
    assert (path, said) == form
    # What is optional must stay so, since an earlier form may lack it.
    required = {
        name
        for name, parameter in inspect.signature(type(trigger)).parameters.items()
        if parameter.default is inspect.Parameter.empty
    }
    assert required <= form[1].keys()
