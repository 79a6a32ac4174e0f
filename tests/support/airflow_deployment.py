"""A whole Airflow on loopback: API server, scheduler, dag-processor and triggerers as processes of their own.

    with airflow_deployment(home, dags_folder) as airflow:
        airflow.add_connection("llm", conn_type="llmbatch_openai", host=url, password=key)
        run = airflow.trigger("my_dag", {"param": 1})
        run.wait_for_task("my_task", lambda task: task["state"] == "deferred")
        assert run.wait_for_end() == "success"

SQLite and LocalExecutor, so that nothing but Airflow is needed. Everything that was started is dead at the end of the
block, however it ends.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

import httpx
import psutil
from cryptography.fernet import Fernet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

Json = dict[str, Any]
T = TypeVar("T")

_START_SECONDS: Final = 120.0  # healthy in about 20 s on two idle cores
_WAIT_SECONDS: Final = 180.0
_PAUSE_SECONDS: Final = 0.2
_CALLS_WHEN_LOCKED: Final = 20
_CALLS_WITHOUT_ANSWER: Final = 4
_HEALTH_NAMES: Final = ("metadatabase", "scheduler", "triggerer", "dag_processor")
_RUN_ENDS: Final = ("success", "failed")


@dataclass(frozen=True)
class Component:
    """One process of Airflow and all that it starts: they share a session, by which they are found again."""

    name: str
    process: subprocess.Popen[bytes]
    output: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def members(self) -> list[int]:
        """Pids of the process and its living descendants, also of those whose parent is dead."""
        return [pid for pid in psutil.pids() if _session_of(pid) == self.pid]

    def send(self, number: signal.Signals) -> None:
        """A signal to all of them, as the stop of a service sends it; returns at once."""
        for pid in self.members():
            _signal(pid, number)

    def kill(self) -> None:
        """SIGKILL to all of them, as when a machine dies; returns when they are gone."""
        while members := self.members():
            for pid in members:
                _signal(pid, signal.SIGKILL)
            if self.process.poll() is None:
                self.process.wait()
            time.sleep(0.01)
        self.process.wait()  # one that ended by itself is waited for too, or it stays a zombie

    def tail(self) -> str:
        return self.output.read_text(errors="replace")[-3000:] if self.output.exists() else ""


def _session_of(pid: int) -> int | None:
    try:
        return None if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE else os.getsid(pid)
    except (psutil.NoSuchProcess, ProcessLookupError):
        return None


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it ended by itself in between
        os.kill(pid, number)


@dataclass(frozen=True)
class DagRun:
    """One run, seen through the REST API as the user interface sees it."""

    airflow: AirflowDeployment
    dag_id: str
    run_id: str

    def _path(self, rest: str = "") -> str:
        return f"/api/v2/dags/{self.dag_id}/dagRuns/{self.run_id}{rest}"

    @property
    def state(self) -> str:
        return str(self.airflow.get(self._path())["state"])

    def wait_for_end(self, *, seconds: float = _WAIT_SECONDS) -> str:
        """How the run ended: ``success`` or ``failed``."""
        return self.airflow.wait(f"the end of {self.run_id}", lambda: self.state in _RUN_ENDS and self.state, seconds)

    def _task_path(self, task_id: str, map_index: int) -> str:
        return self._path(f"/taskInstances/{task_id}" + ("" if map_index < 0 else f"/{map_index}"))

    def task(self, task_id: str, map_index: int = -1) -> Json:
        """The task instance: its ``state``, ``try_number``, ``pid``, ``trigger`` and more."""
        return self.airflow.get(self._task_path(task_id, map_index))

    def wait_for_task(
        self, task_id: str, condition: Callable[[Json], object], *, seconds: float = _WAIT_SECONDS
    ) -> Json:
        """The task instance as soon as it fulfils the condition."""

        def fulfilled() -> Json | None:
            task = self.task(task_id)
            return task if condition(task) else None

        return self.airflow.wait(f"{task_id} of {self.dag_id} {self.run_id}", fulfilled, seconds)

    def xcom(self, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        path = self._path(f"/taskInstances/{task_id}/xcomEntries/{key}")
        return self.airflow.get(path, deserialize=True, map_index=map_index)["value"]

    def log(self, task_id: str, try_number: int = 1, map_index: int = -1) -> list[Json]:
        """Lines of the task's log, none before that try: in the order and with the fields that users see."""
        path = self._path(f"/taskInstances/{task_id}/logs/{try_number}")
        answer = self.airflow.find(path, full_content=True, map_index=map_index)
        lines: list[Json] = answer["content"] if answer else []
        return lines

    def links(self, task_id: str, map_index: int = -1) -> dict[str, str | None]:
        """The task's buttons, and where they lead; one that leads nowhere is greyed out."""
        path = self._path(f"/taskInstances/{task_id}/links")
        links: dict[str, str | None] = self.airflow.get(path, map_index=map_index)["extra_links"]
        return links

    def mark(self, task_id: str, state: str, map_index: int = -1) -> None:
        """Mark the task ``failed`` or ``success``, as a person does in the user interface."""
        self.airflow.call("PATCH", self._task_path(task_id, map_index), {"new_state": state})

    def mark_run(self, state: str) -> None:
        self.airflow.call("PATCH", self._path(), {"state": state})

    def delete(self) -> None:
        self.airflow.call("DELETE", self._path())

    def delete_task(self, task_id: str) -> None:
        self.airflow.call("DELETE", self._task_path(task_id, -1))

    def clear(self, *task_ids: str) -> None:
        body = {"dag_run_id": self.run_id, "task_ids": task_ids, "dry_run": False, "only_failed": False}
        self.airflow.call("POST", f"/api/v2/dags/{self.dag_id}/clearTaskInstances", body)


class AirflowDeployment:
    """:param variables: More settings, as ``AIRFLOW__SECTION__KEY``."""

    def __init__(self, home: Path, dags_folder: Path, variables: Mapping[str, str]) -> None:
        self.home = home
        self.url = f"http://127.0.0.1:{_free_port()}"
        self.components: list[Component] = []
        self._fernet_key = Fernet.generate_key()
        self._environment = _environment(home, dags_folder, self.url, self._fernet_key.decode()) | dict(variables)
        self._client = httpx.Client(base_url=self.url, timeout=30, trust_env=False)

    def start(self) -> None:
        """Start everything and wait until Airflow calls itself healthy."""
        migrated = subprocess.run(
            [sys.executable, "-m", "airflow", "db", "migrate"],
            env=self._environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            check=False,
        )
        assert migrated.returncode == 0, migrated.stdout[-3000:] + migrated.stderr[-3000:]
        port = self.url.rpartition(":")[2]
        # Its event loop waits for SQLite's lock while a thread that has the lock waits for the event loop: only giving
        # up soon helps. Everybody else waits in patience.
        self._environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = self._database(lock_timeout=1)
        self._start_component("api-server", "--host", "127.0.0.1", "--port", port, "--workers", "1")
        self._environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = self._database(lock_timeout=60)
        self.start_scheduler()
        self._start_component("dag-processor")
        self.start_triggerer()
        self.wait("Airflow", self._is_healthy, _START_SECONDS)
        token = self.get("/auth/token")["access_token"]
        self._client.headers["Authorization"] = f"Bearer {token}"

    def _database(self, lock_timeout: int) -> str:
        return f"sqlite:///{self.home / 'airflow.db'}?timeout={lock_timeout}"

    def start_triggerer(self) -> Component:
        """One more triggerer; returns at once."""
        return self._start_component("triggerer", "--skip-serve-logs")

    def triggerer_of(self, task: Json) -> Component:
        """Where a deferred task waits; only for triggerers that were started one after the other."""
        jobs = self.get("/api/v2/jobs", job_type="TriggererJob", order_by="id")["jobs"]
        position = [job["id"] for job in jobs].index(task["triggerer_job"]["id"])
        return [component for component in self.components if component.name == "triggerer"][position]

    def start_scheduler(self) -> Component:
        """Another scheduler, with the workers that belong to it; returns at once."""
        return self._start_component("scheduler", "--skip-serve-logs")

    def _start_component(self, name: str, *arguments: str) -> Component:
        output = self.home / f"{name}-{len(self.components)}.out"
        with output.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "airflow", name, *arguments],
                env=self._environment,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        component = Component(name, process, output)
        self.components.append(component)
        return component

    def _is_healthy(self) -> bool:
        for component in self.components:
            assert component.process.poll() is None, f"{component.name} ended:\n{component.tail()}"
        try:
            health = self.get("/api/v2/monitor/health")
        except httpx.TransportError:
            return False
        return all(health[name]["status"] == "healthy" for name in _HEALTH_NAMES)

    def stop(self) -> None:
        self._client.close()
        for component in self.components:
            component.kill()

    def get(self, path: str, **query: str | int | bool) -> Json:
        answer: Json = self.call("GET", path, **query)
        return answer

    def call(self, method: str, path: str, body: object = None, /, **query: str | int | bool) -> Any:
        """One call of the REST API: the JSON of its answer, which must be a success."""
        response = self._request(method, path, body, query)
        assert response.is_success, f"{method} {path}: {response.status_code} {response.text}"
        return response.json() if response.content else None

    def find(self, path: str, **query: str | int | bool) -> Json | None:
        """What is there, or ``None`` as long as there is nothing."""
        response = self._request("GET", path, None, query)
        assert response.is_success or response.status_code == 404, f"{path}: {response.status_code} {response.text}"
        found: Json | None = response.json() if response.is_success else None
        return found

    def _request(self, method: str, path: str, body: object, query: Mapping[str, str | int | bool]) -> httpx.Response:
        response = self._answered(method, path, body, query)
        for _ in range(_CALLS_WHEN_LOCKED):
            if not (response.status_code == 500 and "Database error" in response.text):
                break
            time.sleep(_PAUSE_SECONDS)  # what was rolled back may be asked for again
            response = self._answered(method, path, body, query)
        return response

    def _answered(self, method: str, path: str, body: object, query: Mapping[str, str | int | bool]) -> httpx.Response:
        """Ask; what only reads is asked again if the API server, which waits for a lock now and then, says nothing."""
        for _ in range(_CALLS_WITHOUT_ANSWER):
            try:
                return self._client.request(method, path, json=body, params=query)
            except httpx.ReadTimeout:
                if method != "GET":
                    raise
        return self._client.request(method, path, json=body, params=query)

    def wait(self, what: str, look: Callable[[], T | Literal[False] | None], seconds: float = _WAIT_SECONDS) -> T:
        """The first thing that a look sees; after so many seconds without one, the components' output tells why."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if seen := look():
                return seen
            time.sleep(_PAUSE_SECONDS)
        tails = "\n".join(f"--- {component.name} {component.pid}\n{component.tail()}" for component in self.components)
        raise AssertionError(f"waited {seconds:.0f} s in vain for {what}\n{tails}")

    def add_connection(self, conn_id: str, *, extra: Mapping[str, object] | None = None, **fields: object) -> None:
        """``fields`` as in the REST API: ``conn_type``, ``host``, ``password`` and so on."""
        self.call(
            "POST", "/api/v2/connections", {"connection_id": conn_id, "extra": json.dumps(dict(extra or {})), **fields}
        )

    def trigger(self, dag_id: str, conf: Mapping[str, object] | None = None) -> DagRun:
        """Run a DAG now, as soon as Airflow knows it."""
        run = self.create_run(dag_id, conf)
        self.unpause(dag_id)
        return run

    def create_run(self, dag_id: str, conf: Mapping[str, object] | None = None) -> DagRun:
        """A run that begins when its DAG is not paused, which it is at first."""
        self.wait(f"DAG {dag_id}", lambda: self.find(f"/api/v2/dags/{dag_id}"), _START_SECONDS)
        body = {"logical_date": None, "conf": dict(conf or {})}
        return DagRun(self, dag_id, self.call("POST", f"/api/v2/dags/{dag_id}/dagRuns", body)["dag_run_id"])

    def unpause(self, dag_id: str) -> None:
        self.call("PATCH", f"/api/v2/dags/{dag_id}", {"is_paused": False})

    def trigger_kwargs(self, trigger_id: int) -> Json:
        """A trigger's arguments as they lie in the database; the REST API shows none of them."""
        with closing(sqlite3.connect(f"file:{self.home / 'airflow.db'}?mode=ro", uri=True)) as database:
            [[stored]] = database.execute("SELECT kwargs FROM trigger WHERE id = ?", [trigger_id]).fetchall()
        # A worker that defers hands them over in the clear; Airflow encrypts them only where it makes a trigger itself.
        kwargs: Json = json.loads(stored if stored.startswith("{") else Fernet(self._fernet_key).decrypt(stored))
        return kwargs


def _free_port() -> int:
    """Below those that systems hand out by themselves, since it is taken only some ten seconds later."""
    while True:
        port = random.randint(20_000, 30_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def _environment(home: Path, dags_folder: Path, url: str, fernet_key: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "_AIRFLOW"))}
    return inherited | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__SECRET_KEY": secrets.token_hex(16),
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags_folder),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__FERNET_KEY": fernet_key,
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
        "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.3",
        # A dead triggerer's triggers are taken over after so many seconds without a heartbeat.
        "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "1",
        "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "8",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }


@contextmanager
def airflow_deployment(
    home: Path, dags_folder: Path, variables: Mapping[str, str] | None = None
) -> Iterator[AirflowDeployment]:
    """Run an Airflow for the time of a block.

    :param home: An empty folder, which becomes AIRFLOW_HOME.
    """
    airflow = AirflowDeployment(home, dags_folder, variables or {})
    try:
        airflow.start()
        yield airflow
    finally:
        airflow.stop()
