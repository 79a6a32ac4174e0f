"""How the mapping says no: never silently, and always with what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

NOTHING: Final[frozenset[str]] = frozenset()


class LineRefused(ValueError):  # noqa: N818 - what happened to the line; whoever knows its number makes the error
    """Raised when a line cannot become one of Gemini's.

    :param problem: Completes "Line 17 of reviews.jsonl …".
    :param param: The parameter at fault, in dots, as ``drop_params`` would name it; ``None`` if it is none.
    """

    def __init__(self, problem: str, param: str | None = None) -> None:
        super().__init__(problem)
        self.param = param


def refuse_unless_dropped(param: str, problem: str, drop_params: AbstractSet[str]) -> None:
    """Return if the user gave the parameter up.

    :raises LineRefused: With how to give it up.
    """
    if param not in drop_params:
        raise LineRefused(f'{problem}; list "{param}" in the connection\'s drop_params to leave it out', param)
