"""What the demo prints, in a terminal and elsewhere."""

from __future__ import annotations

import io
import time

import pytest

from demo.report import Row
from demo.screen import Screen, bar, size

WRONG = Row("r1", "Not bad at all, " * 10, "positive", "hard", "negative", "succeeded", 70, 9)
INVALID = Row("r2", "Bad.", "negative", "easy", "", "invalid", 60, 9)
RIGHT = Row("r3", "Good.", "positive", "easy", "positive", "succeeded", 61, 9)


@pytest.mark.parametrize(
    ("done", "total", "shown"),
    [
        (0, 0, ""),
        (0, 64, "░" * 20 + " 0/64"),
        (32, 64, "█" * 10 + "░" * 10 + " 32/64"),
        (64, 64, "█" * 20 + " 64/64"),
    ],
)
def test_a_bar_fills_with_what_is_done(done: int, total: int, shown: str) -> None:
    assert bar(done, total) == shown


def test_sizes_are_told_in_decimal_units() -> None:
    assert [size(999), size(41_210)] == ["999 bytes", "41 kB"]


def test_outside_a_terminal_nothing_is_rewritten() -> None:
    stream = io.StringIO()
    screen = Screen(stream)
    screen.working("classify", bar(1, 4), time.monotonic())
    screen.task("classify", bar(4, 4), 14.24)
    assert stream.getvalue() == f"    {'classify':<15}{'█' * 20 + ' 4/4':<62}   14.2 s\n"


def test_in_a_terminal_the_line_of_what_goes_on_gives_way_to_the_next() -> None:
    stream = io.StringIO()
    screen = Screen(stream, live=True)
    screen.working("classify", bar(1, 4), time.monotonic())
    screen.line("done")
    working, after = stream.getvalue().split("\r\033[K")
    assert working.startswith(f"    {'classify':<15}{'█' * 5}{'░' * 15} 1/4")
    assert "\n" not in working
    assert after == "  done\n"


def test_the_table_marks_what_is_wrong_and_shortens_what_is_long() -> None:
    stream = io.StringIO()
    Screen(stream).table([WRONG, INVALID, RIGHT])
    head, wrong, invalid, right = stream.getvalue().splitlines()
    assert head.split() == ["review", "truth", "model", "tokens"]
    assert wrong.split('…"')[1].split() == ["positive", "negative", "79", "✗"]
    assert invalid.split() == ['"Bad."', "negative", "invalid", "69", "✗"]
    assert right.split() == ['"Good."', "positive", "positive", "70"]
    assert len(wrong) == len(invalid) == len(head) + 3
