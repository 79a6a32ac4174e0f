"""Starts whenever new labels are there: `labelled_reviews.py` publishes them, and the event says where.

asset labelled_reviews ──► count
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from airflow.sdk import DAG, Asset, ObjectStoragePath, task

LABELLED = Asset("labelled_reviews")

with DAG(
    "count_labels",
    description="Count the labels of each result set as soon as it is published",
    schedule=[LABELLED],
    tags=["example", "llmbatch"],
    doc_md=__doc__,
):

    @task(inlets=[LABELLED])
    def count(triggering_asset_events: Any, inlet_events: Any) -> dict[str, int]:
        """Over all sets since the last run; of the latest one, if the DAG is started by hand."""
        events = triggering_asset_events.get(LABELLED) or inlet_events[LABELLED][-1:]
        found: Counter[str] = Counter()
        for event in events:
            manifest_path = ObjectStoragePath(event.extra["manifest"])
            for part in json.loads(manifest_path.read_text())["parts"]:
                with (manifest_path.parent / part["uri"]).open() as rows:
                    for row in map(json.loads, rows):
                        found[row["parsed"]["sentiment"] if row["parsed"] else row["outcome"]] += 1
        return dict(found)

    count()
