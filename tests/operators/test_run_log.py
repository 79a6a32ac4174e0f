"""What the log of a run says of its errors: how many, which, and where to look; never what a provider may quote."""

from __future__ import annotations

from typing import Any

import structlog
from airflow.sdk.log import mask_secret
from structlog.testing import capture_logs

from airflow_provider_llmbatch.core.run.manifest import ErrorEntry, Fingerprints, Manifest, RunIdentity
from airflow_provider_llmbatch.models import Usage
from airflow_provider_llmbatch.operators.run_log import tell_errors

SECRET = "sk-a-secret-that-airflow-knows-0123456789"
URI = "data/p/part-00002.jsonl"
MANIFEST = Manifest(
    run=RunIdentity(key="llmb-k"),
    provider="openai",
    source="in.csv",
    fingerprints=Fingerprints(rows="", parameters=""),
    started_at=0,
    publish_id="p",
    published_at=0,
    format="jsonl",
    rows=1_300,
    outcomes={"failed": 1_300},
    usage=Usage(),
    errors=(
        ErrorEntry(outcome="failed", code="content_filter", count=1_200, uri=URI, line=18),
        ErrorEntry(outcome="invalid", code="not_json", count=100, uri=URI, line=3),
    ),
)


def said(examples: dict[Any, str]) -> list[dict[str, Any]]:
    with capture_logs() as lines:
        tell_errors(MANIFEST, examples, structlog.get_logger())
    return [{**line} for line in lines]


def test_each_error_has_a_line_with_its_count_and_the_place_of_an_example() -> None:
    assert said({}) == [
        {
            "event": f"1,200 failed (content_filter), for example line 18 of {URI}",
            "log_level": "warning",
            "outcome": "failed",
            "code": "content_filter",
            "count": 1_200,
        },
        {
            "event": f"100 invalid (not_json), for example line 3 of {URI}",
            "log_level": "warning",
            "outcome": "invalid",
            "code": "not_json",
            "count": 100,
        },
    ]


def test_a_message_that_is_asked_for_is_on_one_line_masked_and_only_then_cut() -> None:
    mask_secret(SECRET)
    message = f"{'x' * 180}\n  {SECRET} was\nrefused {'y' * 100}"
    first, second = said({("failed", "content_filter"): message})
    quoted = first["event"].partition(f"line 18 of {URI}: ")[2]
    assert quoted == f"{'x' * 180} *** was refused yyy…"
    assert second["event"].endswith(URI)
