"""A sample of the campaigns, which ``make proof`` runs in full."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from crash.campaigns import crash_run, fault_run, provider, workers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from crash.campaigns import Provider, Workers

KILLED = range(12)
BROKEN = range(8)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    with provider(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def crew(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    with workers(tmp_path_factory.mktemp("workers") / "log.txt") as running:
        yield running


@pytest.mark.parametrize("seed", KILLED)
def test_a_run_whose_worker_is_killed_ends_like_one_that_nobody_kills(
    server: Provider, crew: Workers, tmp_path: Path, seed: int
) -> None:
    report = crash_run(seed, server, crew, tmp_path)
    assert report.kills
    assert (report.duplicates, report.lost) == (0, 0), report


@pytest.mark.parametrize("seed", BROKEN)
def test_a_run_whose_calls_are_broken_ends_like_one_that_nothing_disturbs(
    server: Provider, crew: Workers, tmp_path: Path, seed: int
) -> None:
    report = fault_run(seed, server, crew, tmp_path)
    assert report.faults
    assert (report.duplicates, report.lost) == (0, 0), report
