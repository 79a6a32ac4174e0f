"""What every benchmark prints: the versions it ran with, a small table, and the same as JSON."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_VERSION_OF = "import sys; from importlib.metadata import version; print(version(sys.argv[1]))"


@dataclass(frozen=True)
class Row:
    """:param reached: Whether the figure is within its target; ``None`` for a row that has none, such as a peer's."""

    name: str
    figures: Mapping[str, float | str]
    target: str = ""
    reached: bool | None = None


def end_well_when_told_to() -> None:
    """Let SIGTERM end the script as an error would, so that what it started ends too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def add_json_option(parser: argparse.ArgumentParser) -> None:
    from pathlib import Path

    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the results there")


def versions(*packages: str) -> dict[str, str]:
    """Of Python and of installed packages; one that is not installed says so."""
    return {"python": platform.python_version(), **{name: version_of(name) for name in packages}}


def version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return _version_in_checkout() if package == "airflow-provider-llmbatch" else "not installed"


def _version_in_checkout() -> str:
    from airflow_provider_llmbatch import __version__

    return f"{__version__} (not installed, from the path)"


def version_in(python: str | Path, package: str) -> str | None:
    """The version that another interpreter has installed; ``None`` if it has none, or is not there itself."""
    try:
        found = subprocess.run([str(python), "-c", _VERSION_OF, package], check=False, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return found.stdout.strip() or None


def publish(title: str, about: Mapping[str, str], rows: Sequence[Row], path: Path | None) -> int:
    """Print the table and write the JSON; returns the exit code: 0 if every target was reached, else 1."""
    about = {**about, "cores": str(os.cpu_count()), "load": f"{os.getloadavg()[0]:.2f}"}
    print(f"\n{title}")
    print(", ".join(f"{name} {value}" for name, value in about.items()), end="\n\n")
    columns = list(dict.fromkeys(name for row in rows for name in row.figures))
    lines = [["", *columns, "target"]]
    lines += [[row.name, *(_text(row.figures.get(name, "")) for name in columns), _verdict(row)] for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns) + 2)]
    lines.insert(1, ["-" * width for width in widths])
    for line in lines:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |")
    if path is not None:
        path.write_text(json.dumps({"title": title, "about": about, "rows": [asdict(row) for row in rows]}, indent=2))
    failed = [row.name for row in rows if row.reached is False]
    if failed:
        print(f"\nNot reached: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _text(figure: float | str) -> str:
    return figure if isinstance(figure, str) else f"{figure:,.2f}"


def _verdict(row: Row) -> str:
    if row.reached is None:
        return row.target
    return f"{row.target}: {'reached' if row.reached else 'NOT REACHED'}"
