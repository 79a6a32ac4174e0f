"""The pause of a task whose provider's queue is full: to a moment, whoever sleeps until then."""

from __future__ import annotations

import asyncio
import json
import time
from importlib import import_module
from typing import TYPE_CHECKING

from airflow_provider_llmbatch.triggers.queue import LLMBatchQueueTrigger

if TYPE_CHECKING:
    from airflow.triggers.base import TriggerEvent


async def _events(trigger: LLMBatchQueueTrigger) -> list[TriggerEvent]:
    return [event async for event in trigger.run()]


def test_it_fires_once_at_its_moment_also_in_another_triggerer() -> None:
    until = time.time() + 0.2
    path, kwargs = LLMBatchQueueTrigger(until, 1_700_000_000.0, 3).serialize()
    module, _, name = path.rpartition(".")
    restored = getattr(import_module(module), name)(**json.loads(json.dumps(kwargs)))
    events = asyncio.run(_events(restored))
    assert time.time() >= until
    assert [event.payload for event in events] == [
        {"status": "resubmit", "queued_since": 1_700_000_000.0, "refusals": 3}
    ]


def test_a_moment_that_passed_while_no_triggerer_ran_is_now() -> None:
    before = time.monotonic()
    assert len(asyncio.run(_events(LLMBatchQueueTrigger(1.0, 0.0, 1)))) == 1
    assert time.monotonic() - before < 1


def test_a_thousand_pauses_do_not_hold_each_other_up() -> None:
    async def all_of_them() -> int:
        until = time.time() + 0.3
        fired = await asyncio.gather(*(_events(LLMBatchQueueTrigger(until, 0.0, 1)) for _ in range(1_000)))
        return len(fired)

    before = time.monotonic()
    assert asyncio.run(all_of_them()) == 1_000
    assert time.monotonic() - before < 5
