from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType

EXAMPLE_DAGS = Path(__file__).resolve().parents[2] / "example_dags"


@pytest.fixture(scope="session")
def example_dags() -> Path:
    return EXAMPLE_DAGS


@pytest.fixture(scope="session")
def nightly(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The example as a module, for its functions; Airflow writes no settings into anybody's home."""
    os.environ.setdefault("AIRFLOW_HOME", str(tmp_path_factory.mktemp("airflow_home")))
    spec = importlib.util.spec_from_file_location("nightly_under_test", EXAMPLE_DAGS / "nightly_batch_inference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
