from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import settings
from support.gcs import RunningStorage, running_gcs
from support.server import RunningServer, running_server
from support.vertex import BUCKET, Vertex, calling, running_vertex

if TYPE_CHECKING:
    from collections.abc import Iterator


pytest.register_assert_rewrite("support.waiting_run")  # so that what it asserts shows what it found

# Begun first, and at once by different workers, since a file is run by one worker: what takes long and begins last is
# waited for by everybody. The order is that of their times, longest first.
_ONE_AT_A_TIME: Final = "real_airflow"  # a folder; two whole Airflows would keep each other from their heartbeats
_LONGEST: Final = (
    "real_airflow/test_kills.py",
    "real_airflow/test_deployment.py",
    "example_dags/test_runs.py",
    "demo/test_demo.py",
    "compatible/test_litellm_proxy.py",
    "demo/test_web.py",
    "clients/test_azure_clients.py",
    "crash/test_killed_worker.py",
    "crash/test_run_campaign.py",
    "operators/test_no_secrets.py",
    "packaging/test_imports.py",
    "server/test_vertex_ends.py",
    "server/test_killed_server.py",
    "server/test_engine_at_an_address.py",
    "server/test_local_engine.py",
    "adapters/vertex/test_creation.py",
    "adapters/vertex/test_credentials.py",
)
_TESTS: Final = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {_TESTS / name: rank for rank, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """A worker for each file, and one for all files that start a whole Airflow."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return _ONE_AT_A_TIME if f"/{_ONE_AT_A_TIME}/" in file else file

    return ByFile(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let a whole Airflow go first: its tests take the longest, and wait for its heartbeats."""
    is_apart = "PYTEST_XDIST_WORKER" in os.environ and item.path.parent.name != _ONE_AT_A_TIME
    if is_apart and os.getpriority(os.PRIO_PROCESS, 0) == 0:
        os.nice(10)


# The same examples on every run, however slow the machine: a red build must be red again when somebody looks.
settings.register_profile("stable", deadline=None, derandomize=True, database=None)
settings.load_profile("stable")


@pytest.fixture(scope="session")
def echo_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server with the engine echo for all tests of a worker: they must not count what others make."""
    with running_server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="session")
def azure_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The same with Azure's face; its files are quickly processed."""
    face = ("--face", "azure", "--azure-file-seconds", "0.05")
    with running_server(tmp_path_factory.mktemp("azure"), extra_args=face) as server:
        yield server


@pytest.fixture(scope="session")
def gcs() -> Iterator[RunningStorage]:
    """Cloud Storage for all tests of a worker: each makes a bucket of its own."""
    with running_gcs() as storage:
        yield storage


@pytest.fixture(scope="session")
def face_storage(gcs: RunningStorage) -> RunningStorage:
    """The same storage, with the bucket of the tests of Vertex AI's face."""
    gcs.create_bucket(BUCKET)
    return gcs


@pytest.fixture(scope="session")
def vertex_server(face_storage: RunningStorage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with Vertex AI's face beside that storage; its output has several shards beyond 50 rows."""
    with running_vertex(
        tmp_path_factory.mktemp("vertex"), face_storage, extra_args=("--vertex-rows-per-shard", "50")
    ) as server:
        yield server


@pytest.fixture
def vertex(vertex_server: RunningServer, gcs: RunningStorage) -> Iterator[Vertex]:
    """Plain calls to that server."""
    with calling(vertex_server, gcs) as vertex:
        yield vertex


@pytest.fixture(scope="session")
def litellm_python() -> str:
    """The Python of an environment with LiteLLM, which cannot stand beside Airflow; ``make test`` makes it."""
    given = os.environ.get("LLMBATCH_TEST_LITELLM_PYTHON")
    if not given:
        assert os.environ.get("CI") != "true", "LLMBATCH_TEST_LITELLM_PYTHON must be set in CI"
        pytest.skip("LLMBATCH_TEST_LITELLM_PYTHON names no Python with LiteLLM")
    return given


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print which clients of others the tests ran, and in which version: what they prove holds for those."""
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    properties = {pair for report in reports for pair in getattr(report, "user_properties", ())}
    clients = sorted(str(value) for name, value in properties if name == "client")
    if clients:
        terminalreporter.write_line(f"Clients of others that ran: {', '.join(clients)}")
