"""A run of ``real_airflow/dags``, whose only task waits for a batch or several, at a server that holds no other ones.

wait = begin(airflow, server, "deferred", "my_connection")
airflow.unpause("deferred")
wait.is_told("0/1 done")
"""

from __future__ import annotations

import json
import tempfile
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_llmbatch.adapters.openai import OpenAIAdapter, OpenAISettings

if TYPE_CHECKING:
    from airflow_provider_llmbatch.models import Batch
    from support.airflow_deployment import AirflowDeployment, DagRun
    from support.fault_proxy import FaultProxy
    from support.gated_server import GatedServer

Json = dict[str, Any]
CONSOLE: Final = "https://console.example/batches/"


@dataclass(frozen=True)
class Wait:
    run: DagRun
    server: GatedServer

    @property
    def airflow(self) -> AirflowDeployment:
        return self.run.airflow

    def batches(self) -> list[Batch]:
        with closing(at(self.server)) as adapter:
            return sorted(adapter.list_batches(), key=lambda batch: batch.id)

    def batch(self) -> Batch:
        [batch] = self.batches()
        return batch

    def is_told(self, text: str, *, try_number: int = 1, map_index: int = -1, times: int = 1) -> None:
        """Wait until the task's log contains a text, so many times."""
        self.airflow.wait(
            f"{text!r} in the log of {self.run.dag_id}",
            lambda: json.dumps(self.run.log("wait", try_number, map_index)).count(text) >= times,
        )

    def has_begun(self, *, times: int = 1) -> None:
        """Wait until a first look at what it waits for was logged, by so many triggers or workers.

        Of ``run_uploading``, whose second upload never ends: until its first batch is there.
        """
        if self.run.dag_id == "run_uploading":
            self.is_told("Created batch ")
        else:
            self.is_told("0/2 done" if self.run.dag_id.startswith("run_") else "0/1 done", times=times)

    def status_of(self, batch_id: str) -> str:
        return {batch.id: batch.status for batch in self.batches()}[batch_id]

    def is_cancelled(self, batch_id: str) -> None:
        self.airflow.wait(
            f"{batch_id} to be cancelled", lambda: self.status_of(batch_id) in ("cancelling", "cancelled")
        )
        self.server.let_pass(len(self.batches()))  # what the engine is at work on; a cancelled batch ends after that
        self.airflow.wait(f"the end of {batch_id}", lambda: self.status_of(batch_id) == "cancelled")

    def ends_well(self, *, batch_id: str, tries: int) -> None:
        """Let the batch end, and see that the task made no other one and was not failed by what it went through."""
        assert (self.batch().id, self.batch().status) == (batch_id, "in_progress")
        self.server.let_pass(1)
        assert self.run.wait_for_end() == "success"
        assert (self.batch().id, self.batch().status) == (batch_id, "completed")
        assert self.run.xcom("wait") == batch_id
        self._took(tries)

    def publishes(self, *, batch_ids: list[str], tries: int) -> None:
        """Let the batches of a run end, and see that it made no other ones, and published one row for each answer."""
        assert [(batch.id, batch.status) for batch in self.batches()] == [(each, "in_progress") for each in batch_ids]
        self.server.let_pass(len(batch_ids))
        assert self.run.wait_for_end() == "success"
        assert [(batch.id, batch.status) for batch in self.batches()] == [(each, "completed") for each in batch_ids]
        manifest = Path(self.run.xcom("wait", "manifest"))
        parts = json.loads(manifest.read_text())["parts"]
        lines = [line for part in parts for line in (manifest.parent / part["uri"]).read_text().splitlines()]
        rows = [(row["key"], row["outcome"], row["text"]) for row in map(json.loads, lines)]
        assert rows == [(0, "succeeded", "say 0"), (1, "succeeded", "say 1")]
        assert sorted(json.loads(line)["batch_id"] for line in lines) == batch_ids
        self._took(tries)

    def _took(self, tries: int) -> None:
        """The first try, or at least so many.

        One more begins where what was deferred a moment ago goes on before a busy scheduler heard of the worker's end,
        which it then takes for a failure.
        """
        found = self.run.task("wait")["try_number"]
        assert found == tries or found > tries > 1

    def goes_on(self, *, batch_id: str) -> None:
        """The next try finds the batch and waits for it, and it ends well."""
        self.is_told(f"{batch_id} was created by an earlier try: waiting for it, nothing is paid again", try_number=2)
        self.is_told("0/1 done", try_number=2)
        self.ends_well(batch_id=batch_id, tries=2)


def at(server: GatedServer) -> OpenAIAdapter:
    return OpenAIAdapter(OpenAISettings(api_key=server.api_key, base_url=server.url))


def upload(server: GatedServer, number: int) -> str:
    body = {"model": "m", "messages": [{"role": "user", "content": f"say {number}"}]}
    line = {"custom_id": "r", "method": "POST", "url": "/v1/chat/completions", "body": body}
    with closing(at(server)) as adapter:
        return adapter.create_file(BytesIO(json.dumps(line).encode() + b"\n"), filename="requests.jsonl").id


def conf_of(dag_id: str, server: GatedServer) -> Json:
    if dag_id.startswith("run_"):
        folder = Path(tempfile.mkdtemp())
        records = ({"id": number, "text": f"say {number}"} for number in range(2))
        (folder / "in.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        return {"source": str(folder / "in.jsonl"), "output": str(folder / "out")}
    file_ids = [upload(server, number) for number in range(2)]
    conf: Json = {"input_file_id": file_ids[0], "input_file_ids": file_ids}
    if dag_id.startswith("sensor"):
        with closing(at(server)) as adapter:
            conf["batch_id"] = adapter.create_batch(file_ids[0], endpoint="/v1/chat/completions").id
    return conf


def begin(
    airflow: AirflowDeployment, server: GatedServer, dag_id: str, name: str, *, through: FaultProxy | None = None
) -> Wait:
    """A run through a connection of its own; it begins when its DAG is unpaused."""
    extra = {"listing_lag": 0, "console_url": CONSOLE + "{batch_id}"}
    host = (through or server).url
    airflow.add_connection(name, conn_type="llmbatch_openai", host=host, password=server.api_key, extra=extra)
    return Wait(airflow.create_run(dag_id, conf_of(dag_id, server) | {"connection": name}), server)
