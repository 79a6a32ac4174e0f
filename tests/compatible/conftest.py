from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="session")
def litellm_python() -> str:
    """The Python of an environment with LiteLLM, which cannot stand beside Airflow; ``make test`` makes it."""
    given = os.environ.get("LLMBATCH_TEST_LITELLM_PYTHON")
    if not given:
        assert os.environ.get("CI") != "true", "LLMBATCH_TEST_LITELLM_PYTHON must be set in CI"
        pytest.skip("LLMBATCH_TEST_LITELLM_PYTHON names no Python with LiteLLM")
    return given
