"""Numbers on the command line."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

NumberT = TypeVar("NumberT", int, float)


def positive(kind: type[NumberT]) -> Callable[[str], NumberT]:
    """A type for ``add_argument``: above 0, and with an end."""

    def read(word: str) -> NumberT:
        number = kind(word)
        if not 0 < number < float("inf"):
            raise argparse.ArgumentTypeError(f"{word} is not above 0 or has no end")
        return number

    read.__name__ = kind.__name__  # argparse names it in "invalid int value"
    return read


def seconds(word: str) -> float:
    """The same for a time that may be 0."""
    if (number := float(word)) == 0:
        return number
    return positive(float)(word)
