"""The embedded batch server as a real process on loopback."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


@dataclass(frozen=True)
class RunningServer:
    """:param url: What clients call, up to ``/files`` and ``/batches``; ends in ``/v1``."""

    url: str
    api_key: str
    data_dir: Path
    process: subprocess.Popen[str]

    @property
    def pid(self) -> int:
        return self.process.pid


@contextmanager
def running_server(
    data_dir: Path, *, engine: str = "echo", api_key: str = "sk-test-0123456789", extra_args: Sequence[str] = ()
) -> Iterator[RunningServer]:
    """Start a server on a free port, wait until it listens, and kill it in the end."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "airflow_provider_llmbatch.server"),
            *("--engine", engine, "--port", "0", "--data", str(data_dir), *extra_args),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "LLMBATCH_SERVER_API_KEY": api_key},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("Listening on "), f"the server did not start: {line!r}, exit {process.poll()}"
        yield RunningServer(line.removeprefix("Listening on ").strip(), api_key, data_dir, process)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
