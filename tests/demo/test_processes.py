"""What the demo starts ends with it."""

from __future__ import annotations

import signal
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from demo import processes as demo_processes
from demo.processes import Processes

if TYPE_CHECKING:
    from pathlib import Path

_STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
)
_PARENT = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {_STUBBORN!r}], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(60)
"""


def test_a_child_that_ignores_sigterm_is_killed_with_its_own_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_processes, "GRACE_SECONDS", 0.2)
    with (tmp_path / "log").open("wb") as log, Processes() as processes:
        parent = processes.start([sys.executable, "-c", _PARENT], env={}, log=log)
        assert parent.stdout is not None
        with parent.stdout:
            grandchild = psutil.Process(int(parent.stdout.readline()))
        assert grandchild.is_running()
    assert parent.returncode == -signal.SIGTERM
    deadline = time.monotonic() + 5
    while grandchild.is_running() and grandchild.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE


def test_children_end_when_the_block_ends_with_an_error(tmp_path: Path) -> None:
    children = []

    def begin_and_break() -> None:
        with (tmp_path / "log").open("wb") as log, Processes() as processes:
            children.append(processes.start([sys.executable, "-c", "import time; time.sleep(60)"], env={}, log=log))
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        begin_and_break()
    [child] = children
    assert child.stdout is not None
    child.stdout.close()
    assert child.returncode == -signal.SIGTERM
