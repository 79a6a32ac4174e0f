"""Inputs of the campaigns, and an engine that counts how often each request was asked: what is asked twice is paid
twice.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from typing_extensions import override

from airflow_provider_llmbatch.server.engines.base import Answer, Engine, refusal
from airflow_provider_llmbatch.server.engines.echo import EchoEngine

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_llmbatch.models import RequestLine


@dataclass(frozen=True)
class Scenario:
    """A run, drawn by a seed.

    :param rows: The model and the text of each; a text says how it is answered.
    :param options: Of ``RunOptions``.
    :param folder_store: Whether the ledger lies beside the stage, else in a file of its own.
    """

    name: str
    rows: tuple[tuple[str, str], ...]
    options: dict[str, Any]
    folder_store: bool

    @classmethod
    def drawn(cls, seed: int, name: str) -> Scenario:
        """:param name: Distinguishes the requests of two runs with the same seed."""
        dice = random.Random(seed)
        kinds = dice.choices(["good", "stubborn", "hopeless"], [6, 2, 1], k=dice.randint(3, 8))
        models = ["m"] if dice.random() < 0.7 else ["m", "n"]
        return cls(
            name=name,
            rows=tuple((dice.choice(models), f"{kind} {number} {name}") for number, kind in enumerate(kinds)),
            options={
                "max_rows_per_batch": dice.randint(2, 4),
                "max_parallel_batches": dice.randint(1, 3),
                "cleanup": dice.choice(["inputs", "all", "none"]),
                "metadata": {"scenario": name},
                "keep_stage": dice.random() < 0.2,
            },
            folder_store=dice.random() < 0.5,
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def results(self, output: Path) -> list[dict[str, Any]]:
        """The published rows, without what differs between two runs of the same input."""
        manifest = json.loads((output / "manifest.json").read_text())
        rows: list[dict[str, Any]] = []
        for part in manifest["parts"]:
            lines = (output / part["uri"]).read_text().replace(self.name, "").splitlines()
            rows += [{**json.loads(line), "batch_id": None} for line in lines]
        assert sum(manifest["outcomes"].values()) == manifest["rows"] == len(rows) == len(self.rows)
        return rows


class CountingEngine(Engine):
    """Answers like the echo, but fails a stubborn text when it is asked first, and a hopeless one always."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self._echo = EchoEngine()

    @override
    async def answer(self, request: RequestLine) -> Answer:
        text = msgspec.json.decode(request.body)["messages"][-1]["content"]
        self.asked[text] += 1
        if text.startswith("hopeless"):
            return refusal(400, "invalid_prompt", "This prompt cannot be answered.")
        if text.startswith("stubborn") and self.asked[text] == 1:
            return refusal(500, "server_error", "Something went wrong.")
        return await self._echo.answer(request)

    def asked_of(self, scenario: Scenario) -> dict[str, int]:
        """How often each request of a run was asked."""
        return {text.replace(scenario.name, ""): self.asked[text] for _, text in scenario.rows}
