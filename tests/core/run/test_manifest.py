from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airflow_provider_llmbatch.core.run.manifest import (
    OUTCOMES,
    Fingerprints,
    Manifest,
    RunIdentity,
    read_manifest,
    total_outcomes,
    total_usage,
)
from airflow_provider_llmbatch.core.storage import Folder
from airflow_provider_llmbatch.errors import ResultSetError
from airflow_provider_llmbatch.models import InputTokensDetails, Outcome, OutputTokensDetails, Usage

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST = Manifest(
    run=RunIdentity(key="llmb-1"),
    provider="openai",
    source="in.jsonl",
    fingerprints=Fingerprints(rows="aa", parameters="bb", model="m-1"),
    started_at=1,
    publish_id="p-1",
    published_at=2,
    format="jsonl",
    rows=0,
    outcomes={},
    usage=Usage(),
)


def test_a_manifest_is_read_as_it_was_written_whatever_a_later_release_adds(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    assert read_manifest(folder) is None
    folder.put("manifest.json", MANIFEST.model_dump_json().replace('{"run":{', '{"new":1,"run":{"new":[],', 1).encode())
    assert read_manifest(folder) == MANIFEST


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", MANIFEST.model_copy(update={"schema_version": 2}).model_dump_json().encode(), b"\xff"],
)
def test_what_is_no_manifest_of_ours_stops_before_anything_is_touched(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(ResultSetError) as unreadable:
        read_manifest(Folder(tmp_path))
    assert str(unreadable.value).startswith(f"{tmp_path}/manifest.json is no manifest that this release can read (")
    assert "Nothing was published and nothing there was touched" in str(unreadable.value)


def test_outcomes_add_up_without_those_that_never_came() -> None:
    assert total_outcomes([]) == {}
    assert total_outcomes([{"missing": 1, "succeeded": 2}, {"succeeded": 3, "failed": 0}]) == {
        "succeeded": 5,
        "missing": 1,
    }
    assert set(OUTCOMES) == set(Outcome.__args__)  # type: ignore[attr-defined]


def test_usage_adds_up_in_every_detail() -> None:
    one = Usage(
        input_tokens=1,
        input_tokens_details=InputTokensDetails(cached_tokens=2),
        output_tokens=3,
        output_tokens_details=OutputTokensDetails(reasoning_tokens=4),
        total_tokens=5,
    )
    assert total_usage([one, Usage(input_tokens=10, total_tokens=10), one]) == Usage(
        input_tokens=12,
        input_tokens_details=InputTokensDetails(cached_tokens=4),
        output_tokens=6,
        output_tokens_details=OutputTokensDetails(reasoning_tokens=8),
        total_tokens=20,
    )
