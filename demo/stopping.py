"""How a demo ends: with a reason, by a signal, or because another one runs already."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from demo.environment import Environment
    from demo.screen import Screen


class DemoError(Exception):
    """The demo cannot go on; the message says why."""


class Stopped(Exception):  # noqa: N818 - a wish, not an error
    """Somebody pressed Ctrl-C, or the system asks to end."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = 128 + number


def only_one_demo(environment: Environment, screen: Screen, show: Callable[[], None]) -> int:
    """Show something in a home that no other demo uses at the same time.

    :return: The exit code: 0, 1 after a reason was printed, or 128 and the number of the signal that ended it.
    """
    environment.home.mkdir(parents=True, exist_ok=True)
    with (environment.home / "demo.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            screen.line(f"Another demo runs in {environment.home}: wait for its end, or end it.")
            return 1
        try:
            show()
        except Stopped as stopped:
            screen.line()
            screen.line("Stopped. Nothing is left running.")
            return stopped.exit_code
        except DemoError as error:
            screen.line()
            screen.line(f"The demo failed. {error}")
            screen.line(f"Everything that Airflow and the server said: {os.path.relpath(environment.log_file)}")
            return 1
    return 0
