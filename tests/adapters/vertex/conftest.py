from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.gcs import RunningStorage, running_gcs

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def gcs() -> Iterator[RunningStorage]:
    """Cloud Storage for all tests of a worker: each makes a bucket of its own."""
    with running_gcs() as storage:
        yield storage
