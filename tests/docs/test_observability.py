"""``docs/observability.md`` names every metric and span that the package has, and no other ones."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "observability.md").read_text()
SOURCES = [path.read_text() for path in (ROOT / "airflow_provider_llmbatch").rglob("*.py")]


def told(*methods: str) -> set[str]:
    """Names that the core tells; what is filled in is cut off."""
    pattern = re.compile(rf'telemetry\.(?:{"|".join(methods)})\(\s*f?"([a-z_.]+)')
    return {name for source in SOURCES for name in pattern.findall(source)}


def test_every_metric_has_its_row_and_every_row_its_metric() -> None:
    [table] = re.findall(r"^\| Name, after.*?\n\|---.*?\n(.*?)\n\n", TEXT, re.MULTILINE | re.DOTALL)
    cells = [line.split("|")[1] for line in table.splitlines()]
    named = {name.partition("<")[0] for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
    metrics = told("count", "gauge", "timing")
    assert {name for name in metrics if not name.endswith(".")} <= named
    assert {name for name in named if not name.startswith(tuple(metrics))} == set()
    assert {name for name in metrics if name.endswith(".") and not any(n.startswith(name) for n in named)} == set()


def test_every_span_is_shown() -> None:
    [tree] = re.findall(r"^```\nworker.*?^```", TEXT, re.MULTILINE | re.DOTALL)
    assert {f"llmbatch.{name}" for name in told("span", "past")} == set(re.findall(r"─ (llmbatch\.\w+)", tree))
