"""A sample of the campaigns, which ``make proof`` runs in full."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from crash.campaigns import broken, killed_often, killed_once, provider, undisturbed, workers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from crash.campaigns import Provider, Undisturbed, Workers

SWEPT = 184  # some of its rows fail once and some always, it has two models, and its batches wait for each other
PROVIDERS = ("create_file", "create_batch", "retrieve_batch", "delete_file")
CALLS = ("get", "set", *PROVIDERS, "write", "delete", "delete_tree")
KINDS = [*(f"{when} {call}" for call in CALLS for when in ("before", "after")), "within write"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    with provider(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def crew(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    with workers(tmp_path_factory.mktemp("workers") / "log.txt") as running:
        yield running


@pytest.fixture(scope="module")
def alone(server: Provider, crew: Workers, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return undisturbed(SWEPT, "alone", server, crew, tmp_path_factory.mktemp("alone"))


def test_workers_are_killed_at_every_kind_of_step(alone: Undisturbed) -> None:
    assert set(alone.steps) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_whose_worker_is_killed_at_a_step_ends_like_one_that_nobody_kills(
    server: Provider, crew: Workers, alone: Undisturbed, tmp_path: Path, kind: str
) -> None:
    places = [number for number, step in enumerate(alone.steps, 1) if step == kind]
    report = killed_once(SWEPT, places[len(places) // 2], alone, server, crew, tmp_path)
    assert (report.kills, report.duplicates, report.lost) == ([kind], 0, 0)


@pytest.mark.parametrize("seed", range(4))
def test_a_run_whose_workers_are_killed_again_and_again_ends_like_one_that_nobody_kills(
    server: Provider, crew: Workers, tmp_path: Path, seed: int
) -> None:
    report = killed_often(seed, server, crew, tmp_path)
    assert report.kills
    assert (report.duplicates, report.lost) == (0, 0), report


@pytest.mark.parametrize("seed", range(6))
def test_a_run_whose_calls_are_broken_ends_like_one_that_nothing_disturbs(
    server: Provider, crew: Workers, tmp_path: Path, seed: int
) -> None:
    report = broken(seed, server, crew, tmp_path)
    assert report.faults
    assert (report.duplicates, report.lost) == (0, 0), report


@pytest.fixture(scope="module", params=["azure", "vertex"])
def other_face(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    with provider(tmp_path_factory.mktemp("face"), request.param) as running:
        yield running


@pytest.fixture(scope="module")
def alone_there(other_face: Provider, crew: Workers, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return undisturbed(SWEPT, "alone", other_face, crew, tmp_path_factory.mktemp("alone"))


@pytest.mark.parametrize("kind", ["after create_file", "after create_batch"])
def test_a_run_whose_worker_is_killed_after_a_call_finds_what_it_made_at_every_provider(
    other_face: Provider, alone_there: Undisturbed, crew: Workers, tmp_path: Path, kind: str
) -> None:
    # By its name: how often Azure is asked whether it has processed a file depends on the time.
    report = killed_once(SWEPT, kind, alone_there, other_face, crew, tmp_path)
    assert (report.kills, report.duplicates, report.lost) == ([kind], 0, 0)


def test_a_run_whose_workers_are_killed_again_and_again_ends_like_one_that_nobody_kills_at_every_provider(
    other_face: Provider, crew: Workers, tmp_path: Path
) -> None:
    report = killed_often(0, other_face, crew, tmp_path)
    assert report.kills
    assert (report.duplicates, report.lost) == (0, 0), report


@pytest.mark.parametrize("seed", range(2))
def test_a_run_whose_calls_are_broken_ends_like_one_that_nothing_disturbs_at_every_provider(
    other_face: Provider, crew: Workers, tmp_path: Path, seed: int
) -> None:
    report = broken(seed, other_face, crew, tmp_path)
    assert report.faults
    assert (report.duplicates, report.lost) == (0, 0), report
