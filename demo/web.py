"""``python -m demo.web``: the nightly DAG in Airflow's web interface, on a real model on this machine, until Ctrl-C."""

from __future__ import annotations

import argparse
import secrets
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import httpx

from demo.batch_server import BatchServer
from demo.environment import CHECKOUT, DAG_ID, PYTHON, Environment, inherited
from demo.processes import Processes
from demo.screen import MODEL_NAMES, Screen
from demo.stopping import DemoError, Stopped, only_one_demo

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping, Sequence

_PORT: Final = 8080
_START_SECONDS: Final = 180.0
_COMPONENTS: Final = ("scheduler", "triggerer", "dag_processor", "metadatabase")


class WebAirflow:
    """API server, scheduler, triggerer and dag processor, each a process that listens on loopback or not at all.

    Not ``airflow standalone``, which opens its log servers to the network and leaves children behind.
    """

    def __init__(self, environment: Environment, processes: Processes, log: BinaryIO) -> None:
        self.url = f"http://127.0.0.1:{_free_port(_PORT)}"
        self._processes = processes
        self._log = log
        self._variables = inherited() | environment.airflow_variables() | self._settings()
        self._http = httpx.Client(base_url=self.url, timeout=30.0, trust_env=False)
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def _settings(self) -> dict[str, str]:
        return {
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API__SECRET_KEY": secrets.token_hex(32),
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__CORE__PARALLELISM": "4",
            # Nobody else reaches this Airflow, so nobody needs to log in.
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
            "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
            "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "False",  # only the run that somebody asks for
        }

    def start(self) -> None:
        """Start everything; returns when Airflow calls itself healthy.

        :raises DemoError: A process ended, or it takes too long.
        """
        self._start("db", "migrate")
        if self._running.pop("db").wait():
            raise DemoError("Airflow could not make its database.")
        self._start("api-server", "--host", "127.0.0.1", "--port", self.url.rpartition(":")[2], "--workers", "1")
        self._start("scheduler", "--skip-serve-logs")
        self._start("triggerer", "--skip-serve-logs")
        self._start("dag-processor")
        deadline = time.monotonic() + _START_SECONDS
        while not self._is_healthy():
            if time.monotonic() > deadline:
                raise DemoError(f"Airflow was not healthy after {_START_SECONDS:.0f} s.")
            self.check()
            time.sleep(0.5)
        token = self._http.get("/auth/token").raise_for_status().json()["access_token"]
        self._http.headers["Authorization"] = f"Bearer {token}"

    def _start(self, name: str, *arguments: str) -> None:
        self._running[name] = self._processes.start(
            [*PYTHON, "-m", "airflow", name, *arguments], env=self._variables, log=self._log, heard=False
        )

    def _is_healthy(self) -> bool:
        try:
            health = self._http.get("/api/v2/monitor/health").json()
        except (httpx.HTTPError, ValueError):
            return False  # it does not listen yet
        return all(health[name]["status"] == "healthy" for name in _COMPONENTS)

    def check(self) -> None:
        """:raises DemoError: A process of Airflow has ended."""
        for name, process in self._running.items():
            if process.poll() is not None:
                raise DemoError(f"Airflow's {name} ended before its time.")

    @property
    def version(self) -> str:
        return str(self._call("GET", "/api/v2/version")["version"])

    def set_connection(self, conn_id: str, **fields: str | int) -> None:
        body = {"connection_id": conn_id, **fields}
        if self._http.get(f"/api/v2/connections/{conn_id}").is_success:
            self._call("PATCH", f"/api/v2/connections/{conn_id}", body)
        else:
            self._call("POST", "/api/v2/connections", body)

    def trigger(self, dag_id: str, conf: Mapping[str, str]) -> str:
        """Unpause a DAG as soon as Airflow knows it, and run it once; returns the run's address."""
        deadline = time.monotonic() + _START_SECONDS
        while not self._http.get(f"/api/v2/dags/{dag_id}").is_success:
            if time.monotonic() > deadline:
                raise DemoError(f"Airflow did not find the DAG {dag_id}.")
            time.sleep(0.5)
        run = self._call("POST", f"/api/v2/dags/{dag_id}/dagRuns", {"logical_date": None, "conf": dict(conf)})
        self._call("PATCH", f"/api/v2/dags/{dag_id}", {"is_paused": False})
        return f"{self.url}/dags/{dag_id}/runs/{run['dag_run_id']}"

    def _call(self, method: str, path: str, body: object = None) -> dict[str, object]:
        answer = self._http.request(method, path, json=body)
        if not answer.is_success:
            raise DemoError(f"Airflow refused {method} {path}: {answer.status_code} {answer.text[:300]}")
        found: dict[str, object] = answer.json()
        return found


def _free_port(wanted: int) -> int:
    for port in (wanted, 0):
        try:
            with socket.create_server(("127.0.0.1", port)) as listener:
                return int(listener.getsockname()[1])
        except OSError:
            continue  # somebody else's server stands there
    raise DemoError("No port is free.")


def show(environment: Environment, screen: Screen, *, engine: str, bare: bool) -> None:
    """Run until a signal ends it.

    :param bare: Whether to leave connection and run to whoever looks, and only tell what to enter.
    :raises DemoError: Something did not work.
    :raises Stopped: A signal asked to end; nothing that was started is left then.
    """

    def stop(number: int, _frame: object) -> None:
        raise Stopped(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    begun = time.monotonic()
    with environment.log_file.open("wb") as log, Processes() as processes:
        server = BatchServer(environment, processes, engine=engine, provider="openai", log=log)
        url = server.wait_until_listening()
        if url is None:
            raise DemoError("The batch server ended before its time.")
        screen.fact("Real model", MODEL_NAMES[engine], f"ready in {time.monotonic() - begun:.1f} s")
        screen.fact("Batch server", url, "ready")
        airflow = WebAirflow(environment, processes, log)
        airflow.start()
        screen.fact(f"Airflow {airflow.version}", airflow.url, f"ready in {time.monotonic() - begun:.1f} s")
        screen.line()
        if bare:
            screen.line(f"Connection llmbatch_default of the type LLM Batch: OpenAI, base URL {url}, API key")
            screen.line(f"{server.api_key} is yours to add, and the DAG {DAG_ID} to run.")
        else:
            airflow.set_connection(
                "llmbatch_default",
                conn_type="llmbatch_openai",
                host=url,
                port=httpx.URL(url).port or 80,
                password=server.api_key,
            )
            address = airflow.trigger(DAG_ID, {"output": environment.output.as_uri()})
            screen.line(f"DAG {DAG_ID} runs now:")
            screen.line(f"  {address}")
        screen.line()
        screen.line("Ctrl-C stops everything.")
        while True:
            airflow.check()
            time.sleep(1.0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exits with 128 and the number of the signal that ended it, or with 1 and a reason."""
    parser = argparse.ArgumentParser(prog="python -m demo.web", description=__doc__)
    parser.add_argument("--engine", choices=sorted(MODEL_NAMES), default="local", help="default: %(default)s")
    parser.add_argument("--home", type=Path, help="Airflow home of the demo (default: .airflow/web in the checkout)")
    parser.add_argument("--bare", action="store_true", help="add no connection and run nothing")
    options = parser.parse_args(arguments)
    environment = Environment((options.home or CHECKOUT / ".airflow" / "web").resolve())
    screen = Screen()
    return only_one_demo(
        environment, screen, lambda: show(environment, screen, engine=options.engine, bare=options.bare)
    )


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr] # ticks, in any locale
    sys.exit(main())
