"""Child processes that never outlive the demo: each leads a session of its own, which is ended as a whole.

A session and not a process group, since Airflow puts each task into a group of its own.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import time
from typing import IO, TYPE_CHECKING, Final, Self

import psutil

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import BinaryIO

GRACE_SECONDS: Final = 3.0


class Processes:
    """Starts processes, and on leaving the block, or at exit, ends all of them."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen[bytes]] = []

    def start(
        self,
        arguments: Sequence[str],
        *,
        env: Mapping[str, str],
        log: BinaryIO,
        told: int | None = None,
        heard: bool = True,
    ) -> subprocess.Popen[bytes]:
        """Start a process. Its errors go to the log, and its output to the caller, as ``stdout`` of what is returned.

        :param told: The end of a pipe that it inherits for what it has to tell; its output then goes to the log, too.
        :param heard: Whether the caller reads its output; if not, that goes to the log, too.

        It gets a session of its own, so that Ctrl-C in the terminal reaches only the demo, which then ends it.
        """
        process = subprocess.Popen(  # noqa: S603 - the callers' own command lines
            arguments,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if heard and told is None else log,
            stderr=log,
            pass_fds=() if told is None else (told,),
            start_new_session=True,
        )
        self._running.append(process)
        return process

    def end_all(self) -> None:
        """Ask all of them to end, and kill what has not after a few seconds, with everything that they started."""
        for process in self._running:
            _signal_group(process, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        for process in self._running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(deadline - time.monotonic(), 0.0))
        while self._running:
            process = self._running.pop()
            _kill_session(process.pid)  # also what an ended leader left behind
            process.wait()
            if process.stdin is not None:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()

    def __enter__(self) -> Self:
        atexit.register(self.end_all)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end_all()
        atexit.unregister(self.end_all)


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # the group is empty
        os.killpg(process.pid, number)


def _kill_session(leader: int) -> None:
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) == leader:
                os.kill(pid, signal.SIGKILL)


def pipe_of(stream: IO[bytes] | None) -> IO[bytes]:
    """One of a process's streams that must be a pipe."""
    if stream is None:
        raise RuntimeError("The process was started without this pipe.")
    return stream
