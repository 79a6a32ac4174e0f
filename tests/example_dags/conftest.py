from __future__ import annotations

import importlib.util
import io
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from packaging.version import Version

from airflow_provider_llmbatch.adapters.openai import OpenAIAdapter, OpenAISettings

if TYPE_CHECKING:
    from types import ModuleType

    from support.server import RunningServer

Told = dict[str, Any]

RUNS = ["nightly_run", "run_partitions", "decorated", "labelled_reviews"]
if Version(version("apache-airflow-core")) >= Version("3.3"):  # as test_runs.py says
    RUNS.append("approved_run")
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


@pytest.fixture(scope="session")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("output")


@pytest.fixture(scope="session")
def foreign_batch(echo_server: RunningServer) -> str:
    """A batch that no DAG made."""
    body = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}
    lines = ({"custom_id": f"row-{n}", "method": "POST", "url": "/v1/chat/completions", "body": body} for n in range(3))
    requests = "".join(json.dumps(line) + "\n" for line in lines).encode()
    adapter = OpenAIAdapter(OpenAISettings(api_key=echo_server.api_key, base_url=echo_server.url))
    file = adapter.create_file(io.BytesIO(requests), filename="foreign.jsonl")
    batch = adapter.create_batch(file.id, endpoint="/v1/chat/completions")
    adapter.close()
    return batch.id


@pytest.fixture(scope="session")
def runs(
    echo_server: RunningServer,
    azure_server: RunningServer,
    foreign_batch: str,
    output: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> list[Told]:
    """Every example once, and the nightly one once more on Azure, in a real Airflow.

    One process and home for all, since Airflow takes ten seconds to begin.
    """
    confs = {
        "nightly_batch_inference": {"output": output.as_uri()},
        "async_tasks": {"output": output.as_uri()},
        "wait_for_batch": {"output": output.as_uri(), "batch_id": foreign_batch},
        **{dag_id: {"output": (output / dag_id).as_uri()} for dag_id in RUNS},
        "count_labels": {},
    }
    on_azure = {"nightly_batch_inference": {"output": (output / "azure").as_uri()}}
    pairs = [
        (_connection("llmbatch_azure", azure_server), on_azure),
        (_connection("llmbatch_openai", echo_server), confs),  # last, as the last events of lineage are looked at
    ]
    return _run(pairs, tmp_path_factory.mktemp("airflow_home"), lineage=output / "lineage.jsonl")


@pytest.fixture(scope="session")
def lineage(runs: list[Told], output: Path) -> list[Told]:
    """The events that OpenLineage's provider sent meanwhile."""
    del runs
    return [json.loads(line) for line in (output / "lineage.jsonl").read_text().splitlines()]


@pytest.fixture(scope="session")
def examples(runs: list[Told]) -> Told:
    """Every example, run once."""
    return runs[1]


@pytest.fixture(scope="session")
def nightly_on_azure(runs: list[Told]) -> Told:
    """The nightly example once more, as it is, with a connection to Azure OpenAI."""
    run: Told = runs[0]["nightly_batch_inference"]
    return run


def _connection(conn_type: str, server: RunningServer) -> dict[str, object]:
    return {"conn_type": conn_type, "host": server.url, "password": server.api_key, "extra": {"listing_lag": 0}}


def _run(pairs: list[tuple[dict[str, object], dict[str, dict[str, str]]]], home: Path, *, lineage: Path) -> list[Told]:
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "_AIRFLOW"))}
    transport = {"type": "file", "log_file_path": str(lineage), "append": True}
    variables["AIRFLOW__OPENLINEAGE__TRANSPORT"] = json.dumps(transport)
    script = Path(__file__).with_name("run_once.py")
    done = subprocess.run(
        [sys.executable, script, EXAMPLE_DAGS, json.dumps(pairs), home / "told.json"],
        env={
            **variables,
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(EXAMPLE_DAGS),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",  # nobody logs in to approve
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        },
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    told: list[Told] = json.loads((home / "told.json").read_text())
    return told
