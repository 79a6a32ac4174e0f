from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.memory_provider import Clock, MemoryProvider
from support.runs import Task

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody pulls the plug here, and each takes milliseconds."""
    monkeypatch.setattr("os.fsync", lambda _handle: None)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def provider(clock: Clock) -> MemoryProvider:
    return MemoryProvider(clock)


@pytest.fixture
def task(tmp_path: Path, provider: MemoryProvider, clock: Clock) -> Task:
    return Task(tmp_path / "out", provider, clock)
