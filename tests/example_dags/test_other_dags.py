"""The smaller examples in a real Airflow: async tasks, and a batch that no DAG made."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

Told = dict[str, Any]
LANGUAGES = ["French", "German", "Spanish"]
PRODUCTS = ["garden hose", "rice cooker", "reading lamp", "folding chair"]


def test_every_file_of_the_folder_loads_as_one_dag_and_all_of_them_are_run(examples: Told, example_dags: Path) -> None:
    assert examples["import_errors"] == {}
    assert examples["dags"] == sorted(path.stem for path in example_dags.glob("*.py"))
    assert set(examples) == {"import_errors", "dags", *examples["dags"]}


def test_the_async_tasks_follow_each_other_and_succeed(examples: Told) -> None:
    run = examples["async_tasks"]
    assert run["upstream"] == {
        "write_requests": [],
        "submit": ["write_requests"],
        "wait": ["submit"],
        "land": ["wait"],
    }
    assert (run["state"], run["tasks"]) == ("success", dict.fromkeys(run["upstream"], "success"))


def test_the_async_tasks_land_every_answer_of_every_batch(examples: Told, output: Path) -> None:
    folder = output / examples["async_tasks"]["run_id"]
    landed = {language: json.loads((folder / f"{language}.json").read_text()) for language in LANGUAGES}
    assert landed == {
        language: {
            product: f"Translate into {language}, and answer with the translation only: {product}"
            for product in PRODUCTS
        }
        for language in LANGUAGES
    }


def test_the_sensor_waits_for_the_batch_and_its_results_are_landed(
    examples: Told, foreign_batch: str, output: Path
) -> None:
    run = examples["wait_for_batch"]
    assert run["upstream"] == {"wait": [], "download": ["wait"]}
    assert (run["state"], run["tasks"]) == ("success", dict.fromkeys(run["upstream"], "success"))
    with (output / f"{foreign_batch}.jsonl").open() as lines:
        results = [json.loads(line) for line in lines]
    assert sorted((result["custom_id"], result["outcome"]) for result in results) == [
        ("row-0", "succeeded"),
        ("row-1", "succeeded"),
        ("row-2", "succeeded"),
    ]
