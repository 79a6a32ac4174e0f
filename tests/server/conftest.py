from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from support.batch_server import Client, Serve, serving

from airflow_provider_llmbatch.server.engines.echo import EchoEngine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airflow_provider_llmbatch.server.engines.base import Engine


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start a server on the folder ``data`` of the test, as often as it likes, one after the other."""
    with ExitStack() as running:

        def start(engine: Engine | None = None, **options: Any) -> Client:
            running.close()
            return running.enter_context(serving(tmp_path / "data", engine or EchoEngine(), **options))

        yield start


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """One server for all tests of a module that do not count what is there."""
    with serving(tmp_path_factory.mktemp("server") / "data", EchoEngine()) as client:
        yield client
