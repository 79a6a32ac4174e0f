"""What only a real Airflow can show: workers and triggerers that are killed, the log as users see it, and the form."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest
from support.airflow_deployment import DagRun, airflow_deployment
from support.fault_proxy import Answer, Hang, fault_proxy
from support.gated_server import gated_server
from support.statsd_server import statsd_server

from airflow_provider_llmbatch.adapters.openai import OpenAIAdapter, OpenAISettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.airflow_deployment import AirflowDeployment
    from support.fault_proxy import FaultProxy
    from support.gated_server import GatedServer
    from support.statsd_server import StatsD

    from airflow_provider_llmbatch.models import Batch

Json = dict[str, Any]
REQUESTS = 8


@pytest.fixture(scope="module")
def statsd() -> Iterator[StatsD]:
    with statsd_server("airflow.llmbatch.") as server:
        yield server


@pytest.fixture(scope="module")
def airflow(
    statsd: StatsD, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[AirflowDeployment]:
    home, dags = tmp_path_factory.mktemp("airflow"), request.path.parent / "dags"
    with airflow_deployment(home, dags, statsd.settings) as deployment:
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


def said(run: DagRun, task_id: str) -> list[str]:
    """What the package itself says in the task's log, as the user interface gets it."""
    return [str(line["event"]) for line in run.log(task_id) if "airflow_provider_llmbatch" in line.get("logger", "")]


def wait_for_line(run: DagRun, text: str) -> list[str]:
    """The log of ``create_batch`` as soon as its last line contains a text; the task is still deferred then."""
    run.wait_for_task("create_batch", lambda task: task["state"] == "deferred")

    def seen() -> list[str] | None:
        lines = said(run, "create_batch")
        return lines if lines and text in lines[-1] else None

    lines: list[str] = run.airflow.wait(f"a line with {text!r}", seen)
    assert run.task("create_batch")["state"] == "deferred"
    return lines


def kill_while_it_waits_for(run: DagRun, task_id: str, proxy: FaultProxy, path: str) -> None:
    """SIGKILL to the task's process once the server has acted on its POST, and the answer has not come."""
    run.airflow.wait(f"a POST to {path}", lambda: [r for r in proxy.calls("POST", path) if r.upstream_status])
    os.kill(run.task(task_id)["pid"], signal.SIGKILL)


def test_workers_killed_after_their_posts_leave_one_file_and_one_batch(
    begin: Callable[[], DagRun], server: GatedServer, proxy: FaultProxy, tmp_path: Path
) -> None:
    proxy.rule("POST", "/files$", Hang(forwarding=True), times=1)
    proxy.rule("POST", "/batches$", Hang(forwarding=True), times=1)
    server.let_pass(3 * REQUESTS)  # a second batch would end too, and be counted
    run = begin()
    kill_while_it_waits_for(run, "create_file", proxy, "/files$")
    kill_while_it_waits_for(run, "create_batch", proxy, "/batches$")
    assert run.wait_for_end() == "success"

    files, batches = made_at(server)
    assert (files, [batch.id for batch in batches]) == ([run.xcom("create_file")], [run.xcom("create_batch")])
    assert [run.task(task_id)["try_number"] for task_id in ("create_file", "create_batch", "download")] == [2, 2, 1]
    results = [json.loads(text) for text in (tmp_path / "requests.jsonl.results").read_text().splitlines()]
    assert sorted(result["custom_id"] for result in results) == [f"r-{number}" for number in range(REQUESTS)]


def test_a_worker_killed_after_its_post_leaves_a_run_with_one_batch_for_each_part_and_a_clear_costs_nothing(
    airflow: AirflowDeployment, server: GatedServer, proxy: FaultProxy, tmp_path: Path
) -> None:
    proxy.rule("POST", "/batches$", Hang(forwarding=True), times=1)
    server.let_pass(3 * 2)  # a third batch would end too, and be counted
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"id": n, "text": f"say {n}"}) + "\n" for n in range(2)))
    conf = {"connection": tmp_path.name, "source": str(tmp_path / "in.jsonl"), "output": str(tmp_path / "out")}
    connection = {"conn_type": "llmbatch_openai", "host": proxy.url, "password": server.api_key}
    airflow.add_connection(tmp_path.name, extra={"listing_lag": 0}, **connection)
    run = airflow.trigger("run_deferred", conf)
    kill_while_it_waits_for(run, "wait", proxy, "/batches$")
    assert run.wait_for_end() == "success"

    def told() -> tuple[int, Json, list[str], bytes]:
        files, batches = made_at(server)
        assert files == []  # those of the input are deleted after success
        manifest = tmp_path / "out" / "manifest.json"
        return run.task("wait")["try_number"], run.xcom("wait"), sorted(b.id for b in batches), manifest.read_bytes()

    tries, returned, batch_ids, manifest = told()
    assert (tries, len(batch_ids), returned["outcomes"]) == (2, 2, {"succeeded": 2})
    run.clear("wait")
    run.wait_for_task("wait", lambda task: (task["try_number"], task["state"]) == (3, "success"))
    assert told() == (3, returned, batch_ids, manifest)


def test_a_published_set_starts_the_dag_that_waits_for_it_and_is_told_once_though_its_task_is_cleared(
    airflow: AirflowDeployment, server: GatedServer, proxy: FaultProxy, tmp_path: Path
) -> None:
    server.let_pass(1)
    (tmp_path / "in.jsonl").write_text('{"text": "say it"}\n')
    conf = {name: str(tmp_path / name) for name in ("output", "told")}
    connection = {"conn_type": "llmbatch_openai", "host": proxy.url, "password": server.api_key}
    airflow.add_connection(tmp_path.name, extra={"listing_lag": 0}, **connection)
    run = airflow.trigger("publishes", {**conf, "source": f"{tmp_path}/in.jsonl", "connection": tmp_path.name})
    assert run.wait_for_end() == "success"
    tries = run.task("classify")["try_number"]
    run.clear("classify")
    run.wait_for_task("classify", lambda task: task["try_number"] > tries and task["state"] == "success")
    manifest = f"{tmp_path}/output/manifest.json"
    extra = {"manifest": manifest, "rows": 1, "outcomes": {"succeeded": 1}, "provider": "openai", "models": ["m"]}

    def read() -> list[Json]:
        runs = [
            DagRun(airflow, "reads", each["dag_run_id"])
            for each in airflow.get("/api/v2/dags/reads/dagRuns")["dag_runs"]
        ]
        return [event for each in runs if each.state == "success" for event in each.xcom("read")]

    # Airflow tells its DAGs of each success; people are told once.
    assert airflow.wait("both events", lambda: len(read()) == 2 and read()) == [extra, extra]
    assert (tmp_path / "told").read_text() == f"publishes.classify: 1 of 1 rows answered; results: {manifest}\n"


def test_the_log_shows_upload_batch_and_progress_live_while_the_task_is_deferred_and_metrics_count_it(
    begin: Callable[[], DagRun], server: GatedServer, statsd: StatsD
) -> None:
    statsd.packets.clear()
    run = begin()
    created, waiting, progress = wait_for_line(run, "0/8 done")
    [batch] = made_at(server)[1]
    assert created == f"Created batch {batch.id} (key {(batch.metadata or {})['llmbatch_key']})"
    assert re.fullmatch(r"Waiting at most until 20\d\d-\d\d-\d\d \d\d:\d\d UTC; polling every 0.3 s at first", waiting)
    assert progress == "[....................]    0%  0/8 done, 0 failed"

    server.let_pass(4)
    half = wait_for_line(run, "4/8 done")[-1]
    assert re.fullmatch(r"\[#{10}\.{10}\]   50%  4/8 done, 0 failed, ([\d.]+/s|\d+/h), about \d+ (s|min) left", half)

    server.let_pass(4)
    assert run.wait_for_end() == "success"
    bars = [line for line in said(run, "create_batch") if line.startswith("[")]
    done = [int(line.partition("%  ")[2].partition("/")[0]) for line in bars]
    assert (list(dict.fromkeys(done)), bars[-1]) == (  # a line more if finalizing was seen
        sorted({0, 4, 8, *done}),
        "[####################]  100%  8/8 done, 0 failed",
    )

    [upload] = [line for line in run.log("create_file") if str(line["event"]).startswith("Uploaded")]
    assert upload["event"] == f"Uploaded 1.17 kB as {batch.input_file_id}"
    assert (upload["bytes"], upload["requests"]) == (1168, REQUESTS)

    own = {"dag_id": "one_batch", "provider": "openai"}
    assert statsd.sent("upload.bytes", **own, task_id="create_file") == ["1168|c"]
    assert statsd.sent("rows.succeeded", **own, task_id="create_batch") == [f"{REQUESTS}|c"]  # from its worker
    ages = statsd.sent("batch.age", **own, task_id="create_batch", model="m")  # from the triggerer
    assert len(ages) >= 2
    assert all(0 <= float(age.removesuffix("|g")) < 600 for age in ages)
    assert len(statsd.sent("poll.lag", **own, task_id="create_batch")) == 1


def test_a_killed_triggerer_is_replaced_by_another_which_keeps_the_deadline(
    airflow: AirflowDeployment, begin: Callable[[], DagRun], server: GatedServer, capfd: pytest.CaptureFixture[str]
) -> None:
    [killed] = [each for each in airflow.components if each.name == "triggerer" and each.members()]
    run = begin()
    wait_for_line(run, "0/8 done")
    waiting = run.task("create_batch")
    before = airflow.trigger_kwargs(waiting["trigger"]["id"])
    killed.kill()
    successor = airflow.start_triggerer()

    def was_taken(task: Json) -> bool:
        return task["triggerer_job"] is not None and task["triggerer_job"]["id"] != waiting["triggerer_job"]["id"]

    taken = run.wait_for_task("create_batch", was_taken)
    after = airflow.trigger_kwargs(taken["trigger"]["id"])
    [batch] = made_at(server)[1]
    assert (taken["state"], taken["try_number"], killed.members()) == ("deferred", 1, [])
    assert ((batch.created_at or 0) + 2 * 3600, before) == (before["deadline"], after)
    with capfd.disabled():  # on stderr, which reaches the terminal from the processes of pytest-xdist too
        sys.stderr.write(
            f"\ntriggerer {killed.pid} was killed, triggerer {successor.pid} took over; "
            f"deadline {before['deadline']:.0f}, then {after['deadline']:.0f}\n"
        )
    assert killed.pid != successor.pid

    server.let_pass(REQUESTS)
    assert run.wait_for_end() == "success"
    assert (run.xcom("create_batch"), run.task("create_batch")["try_number"]) == (batch.id, 1)


def test_a_pause_for_a_full_queue_outlives_the_triggerer_that_sleeps_through_it(
    airflow: AirflowDeployment, begin: Callable[[], DagRun], server: GatedServer, proxy: FaultProxy
) -> None:
    words = "Enqueued token limit reached for m in organization org-1. Limit: 2,000,000 enqueued tokens."
    full = Answer(400, json.dumps({"error": {"code": "token_limit_exceeded", "message": words}}).encode())
    proxy.rule("POST", "/batches$", full)
    server.let_pass(REQUESTS)
    [sleeper] = [each for each in airflow.components if each.name == "triggerer" and each.members()]
    run = begin()
    waiting = run.wait_for_task("create_batch", lambda task: task["state"] == "deferred" and task["triggerer_job"])
    pause = airflow.trigger_kwargs(waiting["trigger"]["id"])
    sleeper.kill()
    airflow.start_triggerer()
    refusal, until = said(run, "create_batch")
    assert refusal.startswith("EnqueuedTokenLimitError: The queue of tokens for m is full (limit 2,000,000 tokens).")
    assert re.fullmatch(r"Waiting 12 s before the next try, at most until 20[\d-]{8} [\d:]{5} UTC", until)
    assert (pause["refusals"], pause["until"]) == (1, pause["queued_since"] + 12)

    assert run.wait_for_end() == "success"
    [batch] = made_at(server)[1]
    assert (run.xcom("create_batch"), run.task("create_batch")["try_number"]) == (batch.id, 1)
    assert [r.forwarded for r in proxy.calls("POST", "/batches$")] == [False, True]


def test_clearing_the_tasks_of_a_run_that_succeeded_pays_for_no_second_batch(
    begin: Callable[[], DagRun], server: GatedServer
) -> None:
    server.let_pass(REQUESTS)
    run = begin()
    assert run.wait_for_end() == "success"
    before = made_at(server)

    run.clear("create_file", "create_batch", "download")
    run.wait_for_task("download", lambda task: (task["try_number"], task["state"]) == (2, "success"))
    files, [batch] = made_at(server)
    assert (files, [batch]) == before
    assert said(run, "create_file") == [f"Uploaded 1.17 kB as {batch.input_file_id}"]


def test_the_connection_type_has_its_form(airflow: AirflowDeployment) -> None:
    forms: list[Json] = airflow.call("GET", "/ui/connections/hook_meta")
    [form] = [form for form in forms if form["connection_type"] == "llmbatch_openai"]
    shown = {name: field["title"] for name, field in form["standard_fields"].items() if field and not field["hidden"]}
    extra = {
        name: (field["schema"]["title"], field["schema"].get("format")) for name, field in form["extra_fields"].items()
    }
    assert (form["hook_name"], shown) == (
        "LLM Batch: OpenAI",
        {"host": "Base URL", "port": None, "password": "API key"},
    )
    assert extra == {
        "organization": ("Organization", None),
        "project": ("Project", None),
        "headers": ("Headers", None),
        "console_url": ("Console URL", None),
        "model": ("Default model", None),
        "ca_bundle": ("CA bundle", None),
        "proxy": ("Proxy", "password"),
        "connect_timeout": ("Connect timeout", None),
        "timeout": ("Timeout", None),
        "listing_lag": ("Listing lag", None),
        "prices": ("Prices", None),
        "prices_file": ("Price file", None),
    }


def test_the_test_button_says_what_it_found(airflow: AirflowDeployment, server: GatedServer) -> None:
    def found(connection_id: str, key: str) -> Json:
        """What the button sends: blanks for what is empty, and asterisks for a stored password."""
        fields = {"conn_type": "llmbatch_openai", "host": server.url, "port": 443, "password": key}
        blanks = {"description": "", "login": "", "schema": "", "extra": "{}"}
        body = {"connection_id": connection_id, **fields, **blanks}
        answer: Json = airflow.call("POST", "/api/v2/connections/test", body)
        return answer

    airflow.add_connection("stored", conn_type="llmbatch_openai", host=server.url, port=443, password=server.api_key)
    accepted = {"status": True, "message": "The server at 127.0.0.1 accepts the key, and it has no batches yet."}
    assert (found("new", server.api_key), found("stored", "***")) == (accepted, accepted)
    assert found("new", "sk-wrong-0987654321") == {
        "status": False,
        "message": "The server at 127.0.0.1 was asked to list the batches and answered 401 invalid_api_key: Incorrect "
        "API key provided. Nothing was billed. A retry would be refused again: mend the key in the connection.",
    }
    assert found("new", "") == {
        "status": False,
        "message": "The connection has no API key (its field password). Nothing was sent. A server that needs no key "
        "takes any text there.",
    }
