"""Everything that real runs write is searched for the API key: home, database, logs, results, both streams."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from airflow import __version__ as airflow_version
from packaging.version import Version
from support.server import running_server

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "sk-recognisable-5f1d0c77a2e94b36"
WRONG_KEY = "sk-recognisable-wrong-81b6e3d29c"
PROMPT = "a prompt that is looked for"
BODY = {"model": "echo", "messages": [{"role": "user", "content": PROMPT}]}
LINE = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": BODY}

# At DEBUG, dag.test() of Airflow 3.2 writes each secret that it was asked to mask; 3.3 does not.
AIRFLOWS_OWN = rb"(?m)^.* msg=MaskSecret\(.*\n" if Version(airflow_version) < Version("3.3") else rb"(?!)"

PIPELINE = """
from airflow.sdk import DAG
from airflow_provider_llmbatch.operators.batch import LLMBatchCreateBatchOperator, LLMBatchDownloadResultsOperator
from airflow_provider_llmbatch.operators.file import LLMBatchCreateFileOperator
from airflow_provider_llmbatch.operators.run import LLMBatchRunOperator

with DAG({dag_id!r}, schedule=None, default_args={{"llmbatch_conn_id": {dag_id!r}}}):
    file = LLMBatchCreateFileOperator(task_id="create_file", source={source!r}, retries=0)
    batch = LLMBatchCreateBatchOperator(
        task_id="create_batch", input_file_id=file.output, metadata={{"of": "scan"}}, deferrable=True,
        min_poll_interval=0.2, max_poll_interval=0.2, retries=0,
    )
    LLMBatchDownloadResultsOperator(
        task_id="download", batch_id=batch.output, destination={destination!r}, retries=0
    )
    LLMBatchRunOperator(
        task_id="run", source={records!r}, output={output!r}, prompt="{{text}}", model="echo", deferrable=True,
        min_poll_interval=0.2, max_poll_interval=0.2, retries=0,
    )
"""


class Written(NamedTuple):
    """What the runs left: every file below their folder, and their streams.

    :param states: How each DAG's run ended.
    """

    states: dict[str, str]
    folder: Path
    streams: bytes

    def texts(self) -> Iterator[tuple[str, bytes]]:
        yield "streams", self.streams
        for path in sorted(self.folder.rglob("*")):
            if path.is_file():
                yield str(path.relative_to(self.folder)), path.read_bytes()


def forms_of(secret: str) -> list[bytes]:
    """The secret as it is, and the middle of its base64, at each of the three places where it may stand in a text."""
    shifted = (base64.b64encode(b"x" * shift + secret.encode()) for shift in range(3))
    # A form's first and last characters depend on what stands beside it.
    return [secret.encode(), secret.encode().hex().encode(), *(text[4:-6] for text in shifted)]


def places_of(secret: str, written: Written) -> list[str]:
    forms = forms_of(secret)
    return [name for name, content in written.texts() if any(form in content for form in forms)]


def add_pipeline(dags: Path, dag_id: str, folder: Path) -> None:
    folder.mkdir()
    source, destination = folder / "requests.jsonl", folder / "results.jsonl"
    source.write_text(json.dumps(LINE) + "\n")
    records, output = folder / "records.jsonl", folder / "output"
    records.write_text(json.dumps({"text": PROMPT}) + "\n")
    places = {"source": source, "destination": destination, "records": records, "output": output}
    code = PIPELINE.format(dag_id=dag_id, **{name: str(place) for name, place in places.items()})
    (dags / f"{dag_id}.py").write_text(code)


def run_pipelines(folder: Path, url: str, keys: dict[str, str]) -> Written:
    """One DAG, connection and folder for each key, all in one process, since Airflow takes ten seconds to begin."""
    home, dags = folder / "airflow_home", folder / "dags"
    dags.mkdir()
    connections = {}
    for name, key in keys.items():
        add_pipeline(dags, name, folder / name)
        connection = {"conn_type": "llmbatch_openai", "host": url, "password": key, "extra": {"listing_lag": 0}}
        connections[f"AIRFLOW_CONN_{name.upper()}"] = json.dumps(connection)
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "_AIRFLOW"))}
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("run_pipeline.py"), dags],
        env={
            **variables,
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            # At DEBUG Airflow's own supervisor logs each secret that it is told to mask (3.3.2, supervisor.py).
            "AIRFLOW__LOGGING__NAMESPACE_LEVELS": "airflow_provider_llmbatch=DEBUG, httpx=DEBUG, httpcore=DEBUG",
            **connections,
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:].decode()
    lines = [line.partition("=") for line in done.stdout.decode().splitlines()]
    states = {name: state for name, _, state in lines if name in keys}
    return Written(states, folder, re.sub(AIRFLOWS_OWN, b"", done.stdout))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_server(tmp_path_factory.mktemp("server"), api_key=KEY) as server:
        yield server.url


@pytest.fixture(scope="module")
def written(url: str, tmp_path_factory: pytest.TempPathFactory) -> Written:
    return run_pipelines(tmp_path_factory.mktemp("written"), url, {"accepted": KEY, "refused": WRONG_KEY})


def test_a_run_that_succeeds_writes_its_key_nowhere(written: Written) -> None:
    assert written.states["accepted"] == "success"
    assert (written.folder / "accepted" / "results.jsonl").read_text().count('"outcome":"succeeded"') == 1
    assert places_of(KEY, written) == []


def test_a_run_whose_key_is_refused_writes_it_nowhere(written: Written) -> None:
    assert written.states["refused"] == "failed"
    assert b"mend the key in the connection" in written.streams
    assert places_of(WRONG_KEY, written) == []


def test_prompts_and_answers_are_in_the_input_and_the_results_only(written: Written) -> None:
    places = [re.sub("/data/[^/]+/", "/data/*/", place) for place in places_of(PROMPT, written)]
    assert [place for place in places if not place.startswith("refused/")] == [
        "accepted/output/data/*/part-00000.jsonl",
        "accepted/records.jsonl",
        "accepted/requests.jsonl",
        "accepted/results.jsonl",
    ]


def test_the_search_reaches_the_database_with_its_xcoms_dags_and_rendered_fields(written: Written) -> None:
    result = json.loads((written.folder / "accepted" / "results.jsonl").read_text())
    assert result["custom_id"] == "a"
    found = {name: places_of(name, written) for name in ("create_batch", "output_file_id", "input_file_id")}
    assert {name: "airflow_home/airflow.db" in places for name, places in found.items()} == dict.fromkeys(found, True)


@pytest.mark.parametrize(
    "planted",
    [
        f"Bearer {KEY}".encode(),
        *(base64.b64encode(b"x" * n + KEY.encode() + b"yz") for n in range(4)),
        KEY.encode().hex().encode(),
    ],
    ids=["plain", "base64", "base64 at 1", "base64 at 2", "base64 at 3", "hex"],
)
def test_the_search_finds_a_key_that_is_there(planted: bytes, tmp_path: Path) -> None:
    deep = tmp_path / "airflow_home" / "logs" / "run"
    deep.mkdir(parents=True)
    (deep / "attempt=1.log").write_bytes(b"before " + planted + b" after")
    (deep / "attempt=2.log").write_bytes(b"nothing")
    assert places_of(KEY, Written("success", tmp_path, b"")) == ["airflow_home/logs/run/attempt=1.log"]
    assert places_of(KEY, Written("success", tmp_path / "none", planted)) == ["streams"]
