"""A server whose batches run as long as a test wants, behind a proxy that breaks things: the default connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.fault_proxy import FaultProxy, fault_proxy
from support.gated_server import GatedServer, gated_server
from support.task import adapters_closed, connect

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GatedServer]:
    with gated_server(tmp_path / "gated") as server:
        yield server


@pytest.fixture
def proxy(server: GatedServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    monkeypatch.setattr("airflow_provider_llmbatch.adapters.http._FIRST_DELAY", 0.0)
    with adapters_closed(monkeypatch), fault_proxy(server.url) as proxy:
        connect(monkeypatch, proxy.url, server.api_key)
        yield proxy
