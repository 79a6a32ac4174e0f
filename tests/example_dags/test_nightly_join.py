"""What the example makes of results, without Airflow's machinery around it."""

from __future__ import annotations

import csv
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_llmbatch.core.jsonl import check_requests

if TYPE_CHECKING:
    from types import ModuleType

ROW = {"review_id": "r-1", "product": "kettle", "review": "Lovely.", "truth": "positive", "difficulty": "easy"}
FAILURES = ["failed", "expired", "cancelled", "missing"]


def succeeded(content: str | None, custom_id: str = "r-1") -> dict[str, object]:
    body = {
        "choices": [{"message": {"content": content}}],
        "usage": {"prompt_tokens": 50, "completion_tokens": 7, "total_tokens": 57},
    }
    response = {"status_code": 200, "request_id": "req_1", "body": body}
    return {"custom_id": custom_id, "outcome": "succeeded", "response": response, "error": None}


def not_answered(outcome: str, custom_id: str = "r-1") -> dict[str, object]:
    return {"custom_id": custom_id, "outcome": outcome, "response": None, "error": {"code": "c", "message": "m"}}


def test_a_request_asks_for_one_of_the_two_labels(nightly: ModuleType) -> None:
    line = nightly.request_line(ROW)
    assert {name: line[name] for name in ("custom_id", "method", "url")} == {
        "custom_id": "r-1",
        "method": "POST",
        "url": "/v1/chat/completions",
    }
    body = line["body"]
    assert body["model"] == nightly.MODEL
    assert "Lovely." in body["messages"][-1]["content"]
    schema = body["response_format"]["json_schema"]["schema"]
    assert schema["properties"] == {"sentiment": {"type": "string", "enum": ["positive", "negative"]}}
    assert (schema["required"], schema["additionalProperties"]) == (["sentiment"], False)


def test_the_truth_is_not_in_the_request(nightly: ModuleType) -> None:
    assert nightly.request_line(ROW) == nightly.request_line(ROW | {"truth": "negative", "difficulty": "hard"})


def test_an_answer_becomes_a_label_with_its_tokens(nightly: ModuleType) -> None:
    assert nightly.labelled_row(ROW, succeeded('{"sentiment": "negative"}')) == {
        "review_id": "r-1",
        "review": "Lovely.",
        "truth": "positive",
        "label": "negative",
        "outcome": "succeeded",
        "prompt_tokens": 50,
        "completion_tokens": 7,
    }


@pytest.mark.parametrize(
    "content",
    [
        *(None, "", "positive", "null", '["positive"]', '{"sentiment": "posi', '{"sentiment": "neutral"}'),
        *('{"mood": "positive"}', '{"sentiment": ["positive"]}', '{"sentiment": {"positive": 1}}'),
    ],
)
def test_an_answer_without_a_usable_label_is_invalid_and_its_tokens_count(
    nightly: ModuleType, content: str | None
) -> None:
    row = nightly.labelled_row(ROW, succeeded(content))
    assert (row["label"], row["outcome"], row["prompt_tokens"], row["completion_tokens"]) == (None, "invalid", 50, 7)


@pytest.mark.parametrize("outcome", FAILURES)
def test_a_row_that_was_not_answered_keeps_its_outcome(nightly: ModuleType, outcome: str) -> None:
    row = nightly.labelled_row(ROW, not_answered(outcome))
    assert (row["label"], row["outcome"], row["prompt_tokens"], row["completion_tokens"]) == (None, outcome, 0, 0)


def test_a_row_that_no_result_names_is_missing(nightly: ModuleType) -> None:
    row = nightly.labelled_row(ROW, None)
    assert (row["label"], row["outcome"], row["prompt_tokens"], row["completion_tokens"]) == (None, "missing", 0, 0)


RESULT = st.one_of(
    st.sampled_from(['{"sentiment": "positive"}', '{"sentiment": "negative"}', "rubbish", None]).map(succeeded),
    st.sampled_from(FAILURES).map(not_answered),
)
NUMBERS = st.integers(1, 80)  # beyond 64 there is no such review


@settings(max_examples=40, deadline=None)
@given(found=st.dictionaries(NUMBERS, RESULT, max_size=80), order=st.randoms(use_true_random=False))
def test_every_row_is_in_the_table_exactly_once_whatever_came_back(
    nightly: ModuleType, found: dict[int, dict[str, object]], order: object
) -> None:
    results = [result | {"custom_id": f"review-{number:03}"} for number, result in found.items()]
    order.shuffle(results)  # type: ignore[attr-defined] # a random.Random
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "results.jsonl").write_text("".join(json.dumps(result) + "\n" for result in results))
        joined = nightly.join.function((folder / "results.jsonl").as_uri(), folder.as_uri())
        with Path(joined.removeprefix("file://")).open(newline="", encoding="utf-8") as table:
            rows = list(csv.DictReader(table))
    assert [row["review_id"] for row in rows] == [f"review-{number:03}" for number in range(1, 65)]
    by_id = {str(result["custom_id"]): result["outcome"] for result in results}
    for row in rows:
        expected = by_id.get(row["review_id"], "missing")
        assert row["outcome"] in ({"succeeded", "invalid"} if expected == "succeeded" else {expected})
        assert bool(row["label"]) == (row["outcome"] == "succeeded")


def test_the_requests_of_the_table_are_a_valid_batch(nightly: ModuleType, tmp_path: Path) -> None:
    from airflow_provider_llmbatch.adapters.openai import OpenAIAdapter

    written = Path(nightly.build_requests.function(tmp_path.as_uri()).removeprefix("file://"))
    with written.open("rb") as lines:
        checked = check_requests(lines, name=written.name, limits=OpenAIAdapter.limits)
    assert checked.requests == 64
