"""Both campaigns in full, and their figures in ``docs/failures.md``.

    python tests/crash/proof.py [--killed 200] [--broken 100] [--document docs/failures.md]

First one run is killed once at each of its steps, one after the other; then come the seeded runs, a fifth as many on
Azure OpenAI's and on Vertex AI's face. Ends with 1 if a single row was lost or a single request was asked once more
than needed.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

import structlog
from crash.campaigns import broken, killed_often, killed_once, provider, undisturbed, workers
from crash.faces import TITLES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from crash.campaigns import Provider, Report, Undisturbed, Workers
    from crash.faces import FaceName

AT_A_TIME = 4  # they wait for each other's server most of the time
SWEPT = 184
"""The seed of the run that is killed at each of its steps: its ledger is a file of its own, so that is stepped too."""
SHARE_OF_OTHERS = 5
"""What differs there is only how a call is made; so a fifth of the runs."""
BEGIN, END = "<!-- proof: written by make proof -->", "<!-- end of proof -->"


@dataclass(frozen=True)
class Campaign:
    name: str
    reports: list[Report]
    seconds: float

    def row(self) -> str:
        struck = Counter(each for report in self.reports for each in (*report.kills, *report.faults))
        cells = (
            self.name,
            f"{len(self.reports):,}",
            f"{sum(report.rows for report in self.reports):,}",
            f"{struck.total():,}, of {len(struck):,} kinds",
            f"{sum(report.tries for report in self.reports):,}",
            f"{sum(report.duplicates for report in self.reports):,}",
            f"{sum(report.lost for report in self.reports):,}",
            f"{self.seconds / 60:.1f} min",
        )
        return f"| {' | '.join(cells)} |"

    @property
    def is_clean(self) -> bool:
        return not any(report.duplicates or report.lost for report in self.reports)


class Crews:
    """As many processes that fork workers as runs go on at a time."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._idle: SimpleQueue[Workers] = SimpleQueue()
        for number in range(AT_A_TIME):
            self._idle.put(stack.enter_context(workers(folder / f"workers-{number}.log")))

    def run(self, name: str, one: Callable[[int, Workers], Report], seeds: Iterable[int]) -> Campaign:
        def with_a_crew(seed: int) -> Report:
            crew = self._idle.get()
            try:
                return one(seed, crew)
            finally:
                self._idle.put(crew)

        begin = time.monotonic()
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            reports = list(pool.map(with_a_crew, seeds))
        campaign = Campaign(name, reports, time.monotonic() - begin)
        print(campaign.row(), flush=True)  # noqa: T201 - for whoever waits
        return campaign

    def undisturbed(self, server: Provider, folder: Path) -> Undisturbed:
        crew = self._idle.get()
        try:
            return undisturbed(SWEPT, "alone", server, crew, folder)
        finally:
            self._idle.put(crew)


def proved(kills: int, breaks: int) -> list[Campaign]:
    """:param kills: Runs at OpenAI whose workers are killed at random steps.
    :param breaks: Runs there whose calls are broken.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        crews = Crews(folder, stack)
        campaigns = [_swept(crews, folder)]
        for face in TITLES:
            share = 1 if face == "openai" else SHARE_OF_OTHERS
            campaigns += _drawn(face, crews, folder, kills // share, breaks // share)
        return campaigns


def _swept(crews: Crews, folder: Path) -> Campaign:
    with provider(folder / "swept") as server:
        alone = crews.undisturbed(server, folder / "sweep")
        return crews.run(
            "OpenAI: killed once, at each step of one run",
            lambda step, crew: killed_once(SWEPT, step, alone, server, crew, folder / "sweep"),
            range(1, len(alone.steps) + 1),
        )


def _drawn(face: FaceName, crews: Crews, folder: Path, kills: int, breaks: int) -> list[Campaign]:
    runs = folder / f"{face}-runs"
    with provider(folder / face, face) as server:
        return [
            crews.run(
                f"{TITLES[face]}: killed at up to four random steps, cleared now and then",
                lambda seed, crew: killed_often(seed, server, crew, runs),
                range(kills),
            ),
            crews.run(
                f"{TITLES[face]}: calls broken", lambda seed, crew: broken(seed, server, crew, runs), range(breaks)
            ),
        ]


def section(campaigns: list[Campaign]) -> str:
    head = "| Campaign | Runs | Rows | Kills or faults | Tries | Duplicates | Rows lost | Time |"
    where = f"Python {platform.python_version()}, {platform.system()}, {os.cpu_count()} cores"
    lines = [
        BEGIN,
        head,
        "|---|---|---|---|---|---|---|---|",
        *(campaign.row() for campaign in campaigns),
        "",
        f"airflow-provider-llmbatch {version('airflow-provider-llmbatch')}, {where}, {time.strftime('%Y-%m-%d')}.",
        END,
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--killed", type=int, default=200)
    parser.add_argument("--broken", type=int, default=100)
    parser.add_argument("--document", type=Path)
    asked = parser.parse_args()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    campaigns = proved(asked.killed, asked.broken)
    if asked.document:
        text = asked.document.read_text()
        pattern = re.escape(BEGIN) + ".*?" + re.escape(END)
        asked.document.write_text(re.sub(pattern, lambda _: section(campaigns), text, count=1, flags=re.DOTALL))
    return 0 if all(campaign.is_clean for campaign in campaigns) else 1


if __name__ == "__main__":
    sys.exit(main())
