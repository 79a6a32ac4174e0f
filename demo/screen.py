"""What the demo prints: lines that change in a terminal, plain lines anywhere else."""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing import TextIO

    from demo.report import Report, Row

MODEL_NAMES: Final = {
    "local": "SmolLM2-135M-Instruct on this machine (llama.cpp)",
    "echo": "none: the test engine echo repeats what it is asked",
}
"""Engine -> what answers, for people."""

PROVIDER_NAMES: Final = {"openai": "OpenAI", "azure": "Azure OpenAI", "vertex": "Vertex AI"}
"""Word of the option -> whose API is spoken, for people."""

_BAR_WIDTH: Final = 20
_DETAIL_WIDTH: Final = 62
_REVIEW_WIDTH: Final = 56


class Screen:
    """Writes to one stream; ``live`` says whether the last line may be rewritten."""

    def __init__(self, stream: TextIO = sys.stdout, *, live: bool | None = None) -> None:
        self._stream = stream
        self.live = stream.isatty() and os.environ.get("TERM") != "dumb" if live is None else live
        self._colour = self.live and "NO_COLOR" not in os.environ
        self._temporary = False

    def line(self, text: str = "") -> None:
        self._clear()
        print(f"  {text}" if text else "", file=self._stream, flush=True)

    def fact(self, name: str, text: str, state: str) -> None:
        """A line such as ``Batch server  http://…  ready in 2 s``."""
        self.line(f"{name:<14}{text:<58}{state:>17}")

    def task(self, name: str, detail: str, seconds: float) -> None:
        """The line of a task that has ended."""
        self.line(f"  {name:<15}{detail:<{_DETAIL_WIDTH}}{seconds:>7.1f} s")

    def working(self, name: str, detail: str, since: float) -> None:
        """In a terminal, the line of what goes on, until another line takes its place; ``since`` is monotonic."""
        if not self.live:
            return
        self._clear()
        text = f"    {name:<15}{detail:<{_DETAIL_WIDTH}}{time.monotonic() - since:>7.1f} s"
        print(text[: shutil.get_terminal_size().columns - 1], end="", file=self._stream, flush=True)
        self._temporary = True

    def table(self, rows: list[Row]) -> None:
        self.line(f"{'review':<{_REVIEW_WIDTH + 2}}{'truth':<10}{'model':<10}{'tokens':>6}")
        for row in rows:
            mark = "" if row.is_right else self._red("  ✗")
            review = _shortened(f'"{row.review}"', _REVIEW_WIDTH)
            self.line(
                f"{review:<{_REVIEW_WIDTH + 2}}{row.truth:<10}{row.label or row.outcome:<10}{row.tokens:>6}{mark}"
            )

    def report(self, report: Report) -> None:
        self.table(report.of_interest())
        self.line()
        self.line(report.summary())

    def _red(self, text: str) -> str:
        return f"\033[31m{text}\033[0m" if self._colour else text

    def _clear(self) -> None:
        if self._temporary:
            print("\r\033[K", end="", file=self._stream)
            self._temporary = False


def bar(done: int, total: int) -> str:
    """Such as ``██████████░░░░░░░░░░ 32/64``; empty while the total is unknown."""
    if not total:
        return ""
    filled = _BAR_WIDTH * min(done, total) // total
    return f"{'█' * filled}{'░' * (_BAR_WIDTH - filled)} {done}/{total}"


def size(count: int) -> str:
    return f"{count} bytes" if count < 1000 else f"{count / 1000:.0f} kB"


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else f'{text[: width - 2]}…"'
