"""A real Airflow on PostgreSQL whose one triggerer waits for 1,000 batches in 100 tasks of ten, and is restarted.

Each of the mapped tasks is an ``LLMBatchRunOperator`` that cuts its input into ten parts. When all of them wait, the
triggerer gets SIGTERM, as from a deployment, and another one takes its place; then the batches end. Counted are the
batches at the server, the tasks' ends, and the status calls of the triggerers, which alone reach the server through a
recording proxy. Needs PostgreSQL's server (Debian: postgresql) and psycopg2-binary and asyncpg beside the test tools;
as root it runs as the user ``postgres``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from loopback import KEY, running_server
from report import Row, add_json_option, end_well_when_told_to, publish, versions

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.airflow_deployment import AirflowDeployment

if TYPE_CHECKING:
    from collections.abc import Iterator

PARTS = 10
ENDED = ("completed", "failed", "expired", "cancelled")
TASK_SECONDS = 1_800.0
CONNECTION = "AIRFLOW_CONN_LLMBATCH_DEFAULT"
DAG = """
import json
from pathlib import Path
from airflow.sdk import DAG
from airflow_provider_llmbatch.operators.run import LLMBatchRunOperator

with DAG("many", schedule=None, max_active_tasks=1000):
    LLMBatchRunOperator.partial(
        task_id="run", prompt="{{text}}", model="echo", key="id", max_rows_per_batch=1, max_parallel_batches={parts},
        deferrable=True, retries=3,
    ).expand_kwargs(json.loads(Path({places!r}).read_text()))
"""


class Deployment(AirflowDeployment):
    """On PostgreSQL, its triggerers seeing the provider through the recording proxy."""

    def __init__(self, home: Path, dags: Path, database: str, *, url: str, proxy: str) -> None:
        address = database.removeprefix("postgresql")
        self._uri = f"postgresql+psycopg2{address}"
        self._proxy = proxy
        variables = {
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": self._uri,
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": f"postgresql+asyncpg{address}",
            CONNECTION: connection(url),
        }
        super().__init__(home, dags, variables)

    def _database(self, lock_timeout: int) -> str:
        del lock_timeout
        return self._uri

    def start_triggerer(self) -> Any:
        workers = self._environment[CONNECTION]
        self._environment[CONNECTION] = connection(self._proxy)
        try:
            return super().start_triggerer()
        finally:
            self._environment[CONNECTION] = workers


class Calls:
    """What went through the proxy."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.after_end = 0
        self._ended: set[str] = set()
        self._lock = threading.Lock()

    def saw(self, method: str, path: str, body: bytes) -> None:
        with self._lock:
            if method != "GET":
                self.kinds[f"{method} {path.rpartition('/')[2]}"] += 1
                return
            found = json.loads(body)
            is_list = found.get("object") == "list"
            self.kinds["lists" if is_list else "single looks"] += 1
            if not is_list:
                self.after_end += found["id"] in self._ended
            self._ended |= {
                each["id"] for each in (found["data"] if is_list else [found]) if each.get("status") in ENDED
            }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=100, help="each with ten batches (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=420, help="that a batch takes (default: %(default)s)")
    add_json_option(parser)
    options = parser.parse_args()
    end_well_when_told_to()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        faults = folder / "faults.json"
        faults.write_text(json.dumps({"requests": [{"fault": "delay", "seconds": options.seconds}]}))
        many = str(options.tasks * PARTS + 1)
        server = stack.enter_context(running_server(folder, "--faults", str(faults), "--concurrency", many))
        calls = Calls()
        proxy = stack.enter_context(recording_proxy(server.url, calls))
        database = stack.enter_context(postgresql())
        dags, home = folder / "dags", folder / "home"
        dags.mkdir()
        home.mkdir()
        write_dag(dags, folder, options.tasks)
        airflow = Deployment(home, dags, database, url=server.url, proxy=proxy)
        stack.callback(airflow.stop)
        airflow.start()
        found = watched(airflow, options.tasks, calls)
        with server.client() as client:
            statuses = Counter(batch["status"] for batch in batches(client))
    batches_made = options.tasks * PARTS
    checks = {
        f"all {options.tasks} tasks succeed": found["succeeded"] == options.tasks,
        f"{batches_made:,} batches, all completed": dict(statuses) == {"completed": batches_made},
        "none polled after its end": calls.after_end == 0,
        "nothing but looks": set(calls.kinds) <= {"lists", "single looks"},
    }
    figures: dict[str, float | str] = {**found, **{f"triggerer's {kind}": str(n) for kind, n in calls.kinds.items()}}
    figures |= {"batches": json.dumps(statuses), "polled after their end": str(calls.after_end)}
    missed = [name for name, holds in checks.items() if not holds]
    row = Row(f"{batches_made:,} batches", figures, ", ".join(missed or checks), not missed)
    about = versions("apache-airflow", "airflow-provider-llmbatch")
    title = f"{batches_made:,} batches in {options.tasks} tasks of a real Airflow, with a restart of its triggerer"
    return publish(title, about, [row], options.json)


def watched(airflow: AirflowDeployment, tasks: int, calls: Calls) -> dict[str, float]:
    """Run the DAG, restart the triggerer in the middle, and wait for the end."""
    started = time.monotonic()
    run = airflow.trigger("many")

    def states() -> Counter[str]:
        path = f"/api/v2/dags/many/dagRuns/{run.run_id}/taskInstances"
        found = airflow.get(path, limit=1000)["task_instances"]
        return Counter(str(task["state"]) for task in found)

    airflow.wait("all tasks to wait", lambda: states()["deferred"] == tasks, TASK_SECONDS)
    all_wait = time.monotonic() - started
    before = calls.kinds.total()
    [first] = [component for component in airflow.components if component.name == "triggerer"]
    first.process.send_signal(signal.SIGTERM)
    first.process.wait(60)
    first.kill()
    airflow.components.remove(first)
    airflow.start_triggerer()
    end = run.wait_for_end(seconds=TASK_SECONDS)
    del end  # the states of the tasks tell more
    return {
        "succeeded": float(states()["success"]),
        "s until all waited": all_wait,
        "s in all": time.monotonic() - started,
        "calls before the restart": float(before),
    }


def write_dag(dags: Path, folder: Path, tasks: int) -> None:
    places = []
    for number in range(tasks):
        source = folder / f"input-{number}.jsonl"
        rows = ({"id": f"{number}-{row}", "text": f"say {number} {row}"} for row in range(PARTS))
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
        places.append({"source": str(source), "output": str(folder / "output" / str(number))})
    listed = folder / "places.json"
    listed.write_text(json.dumps(places))
    (dags / "many.py").write_text(DAG.format(parts=PARTS, places=str(listed)).replace("{{text}}", "{text}"))


def batches(client: httpx.Client) -> Iterator[dict[str, Any]]:
    after: dict[str, str] = {}
    while True:
        page = client.get("batches", params={"limit": "100", **after}).raise_for_status().json()
        yield from page["data"]
        if not page["has_more"]:
            return
        after = {"after": page["last_id"]}


def connection(url: str) -> str:
    extra = {"listing_lag": 0}
    return json.dumps({"conn_type": "llmbatch_openai", "host": url, "password": KEY, "extra": extra})


@contextmanager
def recording_proxy(url: str, calls: Calls) -> Iterator[str]:
    """Forwards to the server, and tells what it saw."""
    client = httpx.Client(base_url=url.removesuffix("/v1"), timeout=60, trust_env=False)

    class Forward(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {"Authorization": self.headers["Authorization"], "Content-Type": "application/json"}
            answer = client.request(self.command, self.path, content=body, headers=headers)
            calls.saw(self.command, self.path, answer.content)
            self.send_response(answer.status_code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_GET = do_POST = do_DELETE = forward  # noqa: N815 - the names that http.server calls

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Forward)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{proxy.server_address[1]}/v1"
    finally:
        proxy.shutdown()


@contextmanager
def postgresql() -> Iterator[str]:
    """A database of its own on loopback; its URI."""
    [tools] = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1:] or [Path(shutil.which("initdb") or "").parent]
    user = "postgres" if os.geteuid() == 0 else None
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name,
        socket.create_server(("127.0.0.1", 0)) as free,
    ):
        port = free.getsockname()[1]
        free.close()
        if user:
            shutil.chown(name, user)
        data = Path(name) / "data"
        make = [str(tools / "initdb"), "-D", str(data), "-U", "airflow", "--auth=trust", "--no-sync"]
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL, user=user, cwd=name)
        serve = [str(tools / "postgres"), "-D", str(data), "-p", str(port), "-k", name, "-c", "max_connections=300"]
        server = subprocess.Popen([*serve, "-c", "fsync=off"], stderr=subprocess.DEVNULL, user=user, cwd=name)
        try:
            ready = [str(tools / "pg_isready"), "-h", "127.0.0.1", "-p", str(port), "-q"]
            while subprocess.run(ready, check=False).returncode:
                assert server.poll() is None, "PostgreSQL ended"
                time.sleep(0.1)
            yield f"postgresql://airflow@127.0.0.1:{port}/postgres"
        finally:
            server.send_signal(signal.SIGINT)
            server.wait()


if __name__ == "__main__":
    sys.exit(main())
