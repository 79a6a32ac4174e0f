"""The embedded batch server as a process of the demo's, with a key and a port of its own."""

from __future__ import annotations

import secrets
import shutil
from typing import TYPE_CHECKING, BinaryIO, Final

from demo.environment import PYTHON, inherited
from demo.processes import pipe_of

if TYPE_CHECKING:
    from demo.environment import Environment
    from demo.processes import Processes

_LISTENING: Final = b"Listening on "


class BatchServer:
    """Starts with an empty folder; ``api_key`` is made up for this run.

    :param provider: Whose API it speaks: ``openai`` or ``azure``.
    """

    def __init__(
        self, environment: Environment, processes: Processes, *, engine: str, provider: str, log: BinaryIO
    ) -> None:
        self.api_key = secrets.token_urlsafe(24)
        shutil.rmtree(environment.server_data, ignore_errors=True)
        process = processes.start(
            [
                *(*PYTHON, "-m", "airflow_provider_llmbatch.server", "--engine", engine, "--face", provider),
                *("--port", "0", "--data", str(environment.server_data)),
            ],
            env={**inherited(), "LLMBATCH_SERVER_API_KEY": self.api_key},
            log=log,
        )
        self._output = pipe_of(process.stdout)

    def wait_until_listening(self) -> str | None:
        """The base URL for clients, or ``None`` if the server ended before it had one."""
        for line in self._output:
            if line.startswith(_LISTENING):
                return line.removeprefix(_LISTENING).decode().strip()
        return None

    def wait_until_gone(self) -> None:
        with self._output as lines:
            for _ in lines:
                pass
