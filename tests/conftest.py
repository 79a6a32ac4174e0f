from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.server import RunningServer, running_server

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def echo_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server with the engine echo for all tests of a worker: they must not count what others make."""
    with running_server(tmp_path_factory.mktemp("server")) as server:
        yield server
