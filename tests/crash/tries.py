"""One try of a scenario's run, which workers make in processes of their own."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import structlog
from crash.faces import LISTING_LAG
from support.stores import FileStore

from airflow_provider_llmbatch.core.run.options import RunOptions
from airflow_provider_llmbatch.core.run.records import FolderStore
from airflow_provider_llmbatch.core.run.requests import Row
from airflow_provider_llmbatch.core.run.run import Published, Run, RunInput
from airflow_provider_llmbatch.core.run.sources import Origin
from airflow_provider_llmbatch.core.storage import Folder
from airflow_provider_llmbatch.core.submit import Attempt, Slot, Timing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from airflow_provider_llmbatch.adapters.base import Adapter
    from airflow_provider_llmbatch.core.run.run import Waiting
    from airflow_provider_llmbatch.models import Batch

FIRST_MAX_TRIES = 50
_CHAT = "/v1/chat/completions"


def run_of(
    scenario: dict[str, Any],
    adapter: Adapter,
    place: Path,
    *,
    try_number: int,
    max_tries: int = FIRST_MAX_TRIES,
) -> Run:
    """:param place: Holds the output, and the ledger if that is no part of it."""
    output = Folder(place / "out")
    return Run(
        adapter=adapter,
        output=output,
        store=FolderStore(output.child("ledger")) if scenario["folder_store"] else FileStore(place / "ledger.json"),
        slot=Slot("https://airflow.test", "dag", scenario["name"], "task"),
        attempt=Attempt(try_number, max_tries, was_cleared=max_tries != FIRST_MAX_TRIES),
        source=RunInput(lambda: _rows(scenario["rows"]), "p", None, "the scenario's rows"),
        options=RunOptions(**scenario["options"]),
        timing=Timing(listing_lag=LISTING_LAG),
        log=structlog.get_logger(),
    )


def to_its_end(run: Run, look: Callable[[str], Batch]) -> Published:
    """Wait as a trigger does, and go on.

    :param look: How a batch is looked at meanwhile.
    """
    while not isinstance(answer := run.advance(), Published):
        _wait(answer, look)
    return answer


def _wait(waiting: Waiting, look: Callable[[str], Batch]) -> None:
    left = set(waiting.batch_ids)
    while left and time.time() < (waiting.resubmit_at or waiting.deadline):
        time.sleep(0.01)
        left -= {batch_id for batch_id in left if look(batch_id).is_terminal}
        if waiting.any_end and len(left) < len(waiting.batch_ids):
            return


def _rows(rows: Sequence[tuple[str, str]]) -> Iterator[Row]:
    origin = Origin("the scenario")
    for number, (model, text) in enumerate(rows, 1):
        key = json.dumps(text).encode()
        body = json.dumps({"model": model, "messages": [{"role": "user", "content": text}]}).encode()
        yield Row(url=_CHAT, model=model, body=body, source=key, origin=origin, number=number, key=key)
