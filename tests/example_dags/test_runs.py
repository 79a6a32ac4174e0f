"""Every example in a real Airflow. One file, since each worker that runs tests of it runs all examples once."""

from __future__ import annotations

import csv
import json
from collections import Counter
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pytest
from packaging.version import Version

if TYPE_CHECKING:
    from pathlib import Path

    from support.server import RunningServer

Told = dict[str, Any]
LANGUAGES = ["French", "German", "Spanish"]
PRODUCTS = ["garden hose", "rice cooker", "reading lamp", "folding chair"]

NOT_RUN = {"approved_run"} if Version(version("apache-airflow-core")) < Version("3.3") else set()
"""Before, ``dag.test()`` hands no answers of people on."""


def test_every_file_of_the_folder_loads_as_one_dag_and_all_of_them_are_run(examples: Told, example_dags: Path) -> None:
    assert examples["import_errors"] == {}
    assert examples["dags"] == sorted(path.stem for path in example_dags.glob("*.py"))
    assert set(examples) == {"import_errors", "dags", *examples["dags"]} - NOT_RUN


@pytest.fixture
def nightly_run(examples: Told) -> Told:
    told: Told = examples["nightly_batch_inference"]
    return told


def test_the_nightly_dag_runs_every_night(nightly_run: Told) -> None:
    assert (nightly_run["schedule"], nightly_run["catchup"], nightly_run["retries"]) == ("0 1 * * *", False, [2])


def test_its_tasks_follow_each_other_and_all_succeed(nightly_run: Told) -> None:
    assert nightly_run["upstream"] == {
        "build_requests": [],
        "create_file": ["build_requests"],
        "classify": ["create_file"],
        "bill": ["classify"],
        "download": ["classify"],
        "join": ["download"],
    }
    assert (nightly_run["state"], nightly_run["tasks"]) == (
        "success",
        dict.fromkeys(nightly_run["upstream"], "success"),
    )


def test_the_engine_echo_labels_nothing_and_still_every_review_is_in_the_table_once(
    nightly_run: Told, example_dags: Path, output: Path
) -> None:
    with (example_dags / "data" / "product_reviews.csv").open(newline="", encoding="utf-8") as table:
        reviews = list(csv.DictReader(table))
    with (output / nightly_run["run_id"] / "reviews_labelled.csv").open(newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    kept = ("review_id", "review", "truth")
    assert [[row[name] for name in kept] for row in rows] == [[row[name] for name in kept] for row in reviews]
    assert Counter((row["label"], row["outcome"]) for row in rows) == {("", "invalid"): 64}
    assert min(int(row["prompt_tokens"]) for row in rows) > 0


def test_only_the_connection_changes_to_run_the_nightly_dag_on_azure(
    nightly_on_azure: Told, nightly_run: Told, output: Path
) -> None:
    assert (nightly_on_azure["state"], nightly_on_azure["tasks"]) == ("success", nightly_run["tasks"])
    azure, openai = output / "azure" / nightly_on_azure["run_id"], output / nightly_run["run_id"]
    assert (azure / "reviews_labelled.csv").read_text() == (openai / "reviews_labelled.csv").read_text()


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


def rows_of(manifest: Path) -> list[Told]:
    """The rows of a published set, as a reader finds them: through its manifest."""
    parts = json.loads(manifest.read_text())["parts"]
    return [json.loads(line) for part in parts for line in (manifest.parent / part["uri"]).read_text().splitlines()]


def test_the_nightly_run_answers_every_review_once_and_the_engine_echo_fits_no_label(
    examples: Told, example_dags: Path, output: Path
) -> None:
    run = examples["nightly_run"]
    assert (run["schedule"], run["catchup"], run["retries"]) == ("0 1 * * *", False, [2])
    assert run["upstream"] == {"classify": [], "report": ["classify"]}
    assert (run["state"], run["tasks"]) == ("success", dict.fromkeys(run["upstream"], "success"))
    with (example_dags / "data" / "product_reviews.csv").open(newline="", encoding="utf-8") as table:
        reviews = list(csv.DictReader(table))
    rows = rows_of(output / "nightly_run" / run["run_id"] / "manifest.json")
    assert [(row["key"], row["input"], row["outcome"], row["parsed"]) for row in rows] == [
        (review["review_id"], {"review": review["review"], "truth": review["truth"]}, "invalid", None)
        for review in reviews
    ]


def test_each_of_ten_partitions_has_a_manifest_of_its_own(examples: Told, example_dags: Path, output: Path) -> None:
    run = examples["run_partitions"]
    mapped = [f"summarize_{number}" for number in range(10)]
    assert (run["state"], run["tasks"]) == ("success", dict.fromkeys(["partitions", *mapped, "collect"], "success"))
    assert run["labels"] == [f"partition={number}" for number in range(10)]
    manifests = sorted((output / "run_partitions" / run["run_id"]).glob("partition=*/summaries/manifest.json"))
    assert len(manifests) == 10
    with (example_dags / "data" / "product_reviews.csv").open(newline="", encoding="utf-8") as table:
        reviews = [review["review_id"] for review in csv.DictReader(table)]
    rows = [[(row["key"], row["outcome"]) for row in rows_of(manifest)] for manifest in manifests]
    assert rows == [[(review, "succeeded") for review in reviews[number::10]] for number in range(10)]


def test_what_the_decorated_function_yields_is_asked(examples: Told, output: Path) -> None:
    run = examples["decorated"]
    assert run["upstream"] == {"products": [], "slogans": ["products"], "print_slogans": ["slogans"]}
    assert (run["state"], run["tasks"]) == ("success", dict.fromkeys(run["upstream"], "success"))
    rows = rows_of(output / "decorated" / run["run_id"] / "manifest.json")
    assert [(row["key"], row["text"]) for row in rows] == [
        ({"product": product, "language": language}, f"Write a slogan in {language} for a {product}.")
        for product in PRODUCTS
        for language in LANGUAGES
    ]


def test_what_is_published_is_an_asset_whose_event_leads_the_next_dag_to_it(examples: Told, output: Path) -> None:
    run, next_run = examples["labelled_reviews"], examples["count_labels"]
    assert (run["state"], run["tasks"]) == ("success", {"classify": "success"})
    assert (output / "labelled_reviews" / run["run_id"] / "manifest.json").exists()
    assert (next_run["schedule"], next_run["state"], next_run["counted"]) == (
        ["labelled_reviews"],
        "success",
        {"invalid": 64},
    )


def last_event(lineage: list[Told], job: str) -> Told:
    return next(event for event in reversed(lineage) if event["job"]["name"] == job)


def datasets_of(event: Told) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    inputs, outputs = ([(each["namespace"], each["name"]) for each in event[side]] for side in ("inputs", "outputs"))
    return inputs, outputs


def test_open_lineage_follows_the_rows_through_the_tasks_of_a_dag(
    lineage: list[Told], examples: Told, output: Path
) -> None:
    folder = output / examples["nightly_batch_inference"]["run_id"]
    ends = {
        name: last_event(lineage, f"nightly_batch_inference.{name}") for name in ("create_file", "classify", "download")
    }
    assert {event["eventType"] for event in ends.values()} == {"COMPLETE"}
    (source, uploaded), (asked, answered), (landed, table) = (datasets_of(event) for event in ends.values())
    assert (source, table) == ([("file", f"{folder}/requests.jsonl")], [("file", f"{folder}/results.jsonl")])
    assert (uploaded, answered) == (asked, landed)
    assert ends["download"]["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == 64


def test_open_lineage_is_told_of_a_whole_run_and_of_its_model(
    lineage: list[Told], examples: Told, example_dags: Path, output: Path
) -> None:
    folder = output / "nightly_run" / examples["nightly_run"]["run_id"]
    event = last_event(lineage, "nightly_run.classify")
    assert (event["eventType"], datasets_of(event)) == (
        "COMPLETE",
        ([("file", f"{example_dags}/data/product_reviews.csv")], [("file", str(folder))]),
    )
    assert event["inputs"][0]["inputFacets"]["inputStatistics"]["rowCount"] == 64
    assert event["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == 64
    facet = event["run"]["facets"]["llmbatch"]
    assert {name: facet[name] for name in ("provider", "requestedModel", "rows", "outcomes", "manifest")} == {
        "provider": "openai",
        "requestedModel": "smollm2-135m-instruct",
        "rows": 64,
        "outcomes": {"invalid": 64},
        "manifest": f"{(output / 'nightly_run').as_uri()}/{folder.name}/manifest.json",
    }
    assert (facet["inputTokens"] > 0, facet["batches"]) == (True, 1)


def test_open_lineage_is_sent_no_key_and_no_review(
    lineage: list[Told], echo_server: RunningServer, example_dags: Path
) -> None:
    with (example_dags / "data" / "product_reviews.csv").open(newline="", encoding="utf-8") as table:
        reviews = [review["review"] for review in csv.DictReader(table)]
    sent = json.dumps([event for event in lineage if "RunOperator" in json.dumps(event)], ensure_ascii=False)
    assert [each for each in (echo_server.api_key, *reviews) if each in sent] == []
    assert sent.count("llmbatch") > 0


def test_a_run_without_a_known_price_waits_until_somebody_approves(examples: Told, output: Path) -> None:
    if "approved_run" in NOT_RUN:
        pytest.skip("dag.test() hands people's answers on from Airflow 3.3 on")
    run = examples["approved_run"]
    assert run["upstream"] == {
        "estimate": [],
        "is_dear": ["estimate"],
        "approve": ["is_dear"],
        "classify": ["approve", "is_dear"],
    }
    assert (run["state"], run["tasks"]) == ("success", dict.fromkeys(run["upstream"], "success"))
    manifest = json.loads((output / "approved_run" / run["run_id"] / "manifest.json").read_text())
    [estimate] = manifest["estimate"]["models"]
    assert (estimate["rows"], estimate["output_tokens"]["high"], estimate["cost_usd"]) == (64, 64 * 48, None)
