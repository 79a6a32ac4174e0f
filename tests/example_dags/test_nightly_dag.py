"""The example in a real Airflow, in a process and a home of its own: about 20 s, nearly all of it Airflow's start."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from support.server import RunningServer

Told = dict[str, Any]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("output")


@pytest.fixture(scope="module")
def run(echo_server: RunningServer, example_dags: Path, output: Path, tmp_path_factory: pytest.TempPathFactory) -> Told:
    home = tmp_path_factory.mktemp("airflow_home")
    connection = {
        "conn_type": "llmbatch_openai",
        "host": echo_server.url,
        "password": echo_server.api_key,
        "extra": {"listing_lag": 0},
    }
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "_AIRFLOW"))}
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("run_once.py"), example_dags, output.as_uri(), home / "told.json"],
        env={
            **variables,
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(example_dags),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW_CONN_LLMBATCH_DEFAULT": json.dumps(connection),
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        },
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    told: Told = json.loads((home / "told.json").read_text())
    return told


def test_the_example_loads_as_one_dag_that_runs_every_night(run: Told) -> None:
    assert run["import_errors"] == {}
    assert run["dags"] == ["nightly_batch_inference"]
    assert (run["schedule"], run["catchup"], run["retries"]) == ("0 1 * * *", False, [2])


def test_its_five_tasks_follow_each_other_and_all_succeed(run: Told) -> None:
    assert run["upstream"] == {
        "build_requests": [],
        "create_file": ["build_requests"],
        "classify": ["create_file"],
        "download": ["classify"],
        "join": ["download"],
    }
    assert (run["state"], run["tasks"]) == ("success", dict.fromkeys(run["upstream"], "success"))


def test_the_engine_echo_labels_nothing_and_still_every_review_is_in_the_table_once(
    run: Told, example_dags: Path, output: Path
) -> None:
    with (example_dags / "data" / "product_reviews.csv").open(newline="", encoding="utf-8") as table:
        reviews = list(csv.DictReader(table))
    with (output / run["run_id"] / "reviews_labelled.csv").open(newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    kept = ("review_id", "review", "truth")
    assert [[row[name] for name in kept] for row in rows] == [[row[name] for name in kept] for row in reviews]
    assert Counter((row["label"], row["outcome"]) for row in rows) == {("", "invalid"): 64}
    assert min(int(row["prompt_tokens"]) for row in rows) > 0
