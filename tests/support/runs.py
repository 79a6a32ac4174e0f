"""Tries of one task that runs a job, each with a run of its own, as separate processes would have."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import structlog

from airflow_provider_llmbatch.core.costs.prices import Prices
from airflow_provider_llmbatch.core.ledger import MemoryStore
from airflow_provider_llmbatch.core.run.options import RunOptions
from airflow_provider_llmbatch.core.run.requests import Row
from airflow_provider_llmbatch.core.run.run import Published, Run, RunInput, Waiting
from airflow_provider_llmbatch.core.run.sources import Origin
from airflow_provider_llmbatch.core.storage import Folder
from airflow_provider_llmbatch.core.submit import Attempt, Slot, Timing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from airflow_provider_llmbatch.adapters.base import Adapter
    from airflow_provider_llmbatch.core.ledger import Store
    from support.memory_provider import Clock, MemoryProvider

SLOT = Slot("https://airflow.test", "dag", "run", "task")
CHAT = "/v1/chat/completions"
_ORIGIN = Origin("the test")


def rows_of(texts: Iterable[str], *, model: str = "m", max_tokens: int | None = None) -> Iterator[Row]:
    """A request for each text, with the text as key."""
    for number, text in enumerate(texts, 1):
        key = json.dumps(text).encode()
        body = json.dumps({"model": model, "messages": [{"role": "user", "content": text}]}).encode()
        yield Row(
            url=CHAT, model=model, body=body, source=key, origin=_ORIGIN, number=number, key=key, max_tokens=max_tokens
        )


@dataclass
class Task:
    """:param folder: The output.
    :param texts: The rows of the input; a test may change them, as sources do.
    :param rows_error: What the source raises after them.
    :param max_tokens: That each answer may have.
    :param earlier: Where an earlier run has published.
    """

    folder: Path
    adapter: Adapter
    clock: Clock
    texts: list[str] = field(default_factory=lambda: ["a", "b", "c", "d", "e"])
    store: Store = field(default_factory=MemoryStore)
    times_read: int = 0
    rows_error: Exception | None = None
    max_tokens: int | None = None
    prices: Prices = field(default_factory=Prices)
    earlier: Path | None = None

    def run(
        self, try_number: int = 1, *, max_tries: int = 2, parameters: str = "p", model: str = "m", **options: Any
    ) -> Run:
        """One try, made as another process would make it."""
        return Run(
            adapter=self.adapter,
            output=Folder(self.folder),
            store=self.store,
            slot=SLOT,
            attempt=Attempt(try_number, max_tries, was_cleared=max_tries != 2),
            source=RunInput(lambda: self._rows(model), parameters, model, "the test's texts"),
            options=RunOptions(**{"max_rows_per_batch": 2, **options}),
            timing=Timing(clock=self.clock, sleep=self.clock.sleep),
            log=structlog.get_logger(),
            prices=self.prices,
            earlier_output=lambda: Folder(self.earlier) if self.earlier is not None else None,
        )

    def _rows(self, model: str) -> Iterator[Row]:
        self.times_read += 1
        yield from rows_of(self.texts, model=model, max_tokens=self.max_tokens)
        if self.rows_error is not None:
            raise self.rows_error

    def results(self) -> list[dict[str, Any]]:
        """The lines of the published set, in their order."""
        manifest = json.loads((self.folder / "manifest.json").read_text())
        paths = [self.folder / part["uri"] for part in manifest["parts"]]
        return [json.loads(line) for path in paths for line in path.read_text().splitlines()]

    def outcomes(self) -> dict[str, str]:
        return {row["key"]: row["outcome"] for row in self.results()}


def waiting(run: Run) -> Waiting:
    answer = run.advance()
    assert isinstance(answer, Waiting), answer
    return answer


def published(run: Run) -> Published:
    answer = run.advance()
    assert isinstance(answer, Published), answer
    return answer


def end_all(run: Run, provider: MemoryProvider) -> Published:
    """Let all batches end well, until the set is published."""
    while isinstance(answer := run.advance(), Waiting):
        for batch_id in answer.batch_ids:
            provider.end(batch_id)
    return answer
