from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_provider_llmbatch.core.watcher.cycle.random.uniform", lambda _low, _high: 0.0)
    monkeypatch.setattr("airflow_provider_llmbatch.core.watcher.connection.random.random", lambda: 0.0)
