"""An event loop whose clock jumps to the next timer instead of waiting, so that hours pass in milliseconds."""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, TypeVar

from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

ResultT = TypeVar("ResultT")

EPOCH = 1_800_000_000.0
"""What the wall clock says when such a loop begins."""


class _Selector(selectors.DefaultSelector):  # type: ignore[misc, valid-type] # which one is chosen when Python is built
    skipped = 0.0

    @override
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready: list[tuple[selectors.SelectorKey, int]] = super().select(0)
        if not ready:
            assert timeout is not None, "everybody waits, and nothing will ever happen"
            self.skipped += max(timeout, 0.0)
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._skipping = _Selector()
        super().__init__(self._skipping)

    @override
    def time(self) -> float:
        return self._skipping.skipped


def wall_clock() -> float:
    """Seconds since 1970 on the running loop's clock."""
    return EPOCH + asyncio.get_running_loop().time()


def run_in_virtual_time(main: Coroutine[Any, Any, ResultT]) -> ResultT:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
