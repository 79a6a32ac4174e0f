"""What only a real Airflow can show: workers and triggerers that are killed, the log as users see it, and the form."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
from support.airflow_deployment import airflow_deployment
from support.fault_proxy import Hang, fault_proxy
from support.gated_server import gated_server

from airflow_provider_llmbatch.adapters.openai import OpenAIAdapter, OpenAISettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.airflow_deployment import AirflowDeployment, DagRun
    from support.fault_proxy import FaultProxy
    from support.gated_server import GatedServer

    from airflow_provider_llmbatch.models import Batch

Json = dict[str, Any]
REQUESTS = 8


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[AirflowDeployment]:
    with airflow_deployment(tmp_path_factory.mktemp("airflow"), request.path.parent / "dags") as deployment:
        yield deployment


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GatedServer]:
    with gated_server(tmp_path / "server") as running:
        yield running


@pytest.fixture
def proxy(server: GatedServer) -> Iterator[FaultProxy]:
    with fault_proxy(server.url) as running:
        yield running


@pytest.fixture
def begin(airflow: AirflowDeployment, server: GatedServer, proxy: FaultProxy, tmp_path: Path) -> Callable[[], DagRun]:
    """Start a run of the DAG through the proxy, with an input of its own."""

    def begin() -> DagRun:
        source = tmp_path / "requests.jsonl"
        source.write_text("".join(json.dumps(line(number)) + "\n" for number in range(REQUESTS)))
        airflow.add_connection(
            tmp_path.name,
            conn_type="llmbatch_openai",
            host=proxy.url,
            password=server.api_key,
            extra={"listing_lag": 0},
        )
        return airflow.trigger("one_batch", {"connection": tmp_path.name, "source": str(source)})

    return begin


def line(number: int) -> Json:
    body = {"model": "m", "messages": [{"role": "user", "content": f"say {number}"}]}
    return {"custom_id": f"r-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}


def made_at(server: GatedServer) -> tuple[list[str], list[Batch]]:
    """What the server holds: ids of the input files, and the batches."""
    adapter = OpenAIAdapter(OpenAISettings(api_key=server.api_key, base_url=server.url))
    try:
        return [file.id for file in adapter.list_files(purpose="batch")], list(adapter.list_batches())
    finally:
        adapter.close()


def events(log: list[Json]) -> list[str]:
    return [str(line["event"]) for line in log]


def kill_while_it_waits_for(run: DagRun, task_id: str, proxy: FaultProxy, path: str) -> None:
    """SIGKILL to the task's process once the server has acted on its POST, and the answer has not come."""
    run.airflow.wait(f"a POST to {path}", lambda: [r for r in proxy.calls("POST", path) if r.upstream_status])
    os.kill(run.task(task_id)["pid"], signal.SIGKILL)


def test_workers_killed_after_their_posts_leave_one_file_and_one_batch(
    begin: Callable[[], DagRun], server: GatedServer, proxy: FaultProxy, tmp_path: Path
) -> None:
    proxy.rule("POST", "/files$", Hang(forwarding=True), times=1)
    proxy.rule("POST", "/batches$", Hang(forwarding=True), times=1)
    server.let_pass(REQUESTS)
    run = begin()
    kill_while_it_waits_for(run, "create_file", proxy, "/files$")
    kill_while_it_waits_for(run, "create_batch", proxy, "/batches$")
    assert run.wait_for_end() == "success"

    files, batches = made_at(server)
    assert (files, [batch.id for batch in batches]) == ([run.xcom("create_file")], [run.xcom("create_batch")])
    assert [run.task(task_id)["try_number"] for task_id in ("create_file", "create_batch", "download")] == [2, 2, 1]
    results = [json.loads(text) for text in (tmp_path / "requests.jsonl.results").read_text().splitlines()]
    assert sorted(result["custom_id"] for result in results) == [f"r-{number}" for number in range(REQUESTS)]
