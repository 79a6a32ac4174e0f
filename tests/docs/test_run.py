"""``docs/run.md`` shows a row and a manifest as they are published, and names the options that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from support.task import adapters_closed, connect, context_of

from airflow_provider_llmbatch.core.run.sources import FileSource
from airflow_provider_llmbatch.models import Outcome
from airflow_provider_llmbatch.operators.run import LLMBatchRunOperator

if TYPE_CHECKING:
    import pytest
    from support.server import RunningServer

TEXT = (Path(__file__).parents[2] / "docs" / "run.md").read_text()


def rows_below(title: str) -> list[list[str]]:
    """The cells of the first table below a title, its head left out."""
    [table] = re.findall(rf"^## {title}$.*?(^\|.*?)^$", TEXT, re.MULTILINE | re.DOTALL)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_the_row_and_the_manifest_that_are_shown_are_what_is_published(
    echo_server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(monkeypatch, echo_server.url, echo_server.api_key)
    (tmp_path / "in.csv").write_text("id,text\nr-17,hello\n")
    task = LLMBatchRunOperator(
        task_id="run",
        source=str(tmp_path / "in.csv"),
        output=str(tmp_path / "out"),
        prompt="{text}",
        model="echo",
        key="id",
        columns=["text"],
        deferrable=False,
        min_poll_interval=0.02,
    )
    with adapters_closed(monkeypatch):
        task.execute(context_of(task)[0])
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    row = json.loads((tmp_path / "out" / manifest["parts"][0]["uri"]).read_text())
    [shown] = re.findall(r'^\{"key".*\}$', TEXT, re.MULTILINE)
    assert list(json.loads(shown)) == list(row)
    always = [cells[0] for cells in rows_below("Result set") if not cells[1].startswith("only where")]
    fields = [name for cell in always for name in re.findall(r"`(\w+)`", cell)]
    assert sorted(fields) == sorted(row)
    [paragraph] = re.findall(r"^`manifest.json` has .*?\n\n", TEXT, re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"`(\w+)`", paragraph)) - {"uri"}
    assert named <= set(manifest)
    assert {"uri", "rows", "outcomes", "attempts"} <= set(manifest["parts"][0])


def test_every_outcome_is_named() -> None:
    [cells] = [cells for cells in rows_below("Result set") if cells[0] == "`outcome`"]
    assert set(get_args(Outcome)) <= set(re.findall(r"`(\w+)`", cells[1]))


def test_every_suffix_is_read_as_the_table_says() -> None:
    said = {suffix: cells[0].lower() for cells in rows_below("Input") for suffix in re.findall(r"`(\.\w+)`", cells[2])}
    assert {suffix: FileSource(Path(), f"in{suffix}").known_format for suffix in said} == said
    assert set(said.values()) == {"jsonl", "csv", "parquet"}
