"""The record of what was paid for: kept whole, and what cannot be read is never taken for absent."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.stores import FileStore

from airflow_provider_llmbatch.core.ledger import BatchRecord, FileRecord, Ledger, MemoryStore
from airflow_provider_llmbatch.errors import LedgerError

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import JsonValue

INTENDED = BatchRecord(number=1, key="llmb-k", input_file_id="file-1", state="intended", intended_at=1.5, max_tries=2)
CREATED = INTENDED.model_copy(update={"state": "created", "batch_id": "batch_1"})
UPLOADED = FileRecord(filename="in.jsonl", sha256="00ff", file_id="file-1")
KEPT: dict[str, JsonValue] = {
    "schema_version": 1,
    "number": 1,
    "key": "llmb-k",
    "input_file_id": "file-1",
    "state": "created",
    "intended_at": 1.5,
    "max_tries": 2,
    "batch_id": "batch_1",
}


class Unwell(MemoryStore):
    def get(self, key: str) -> JsonValue:
        raise TimeoutError(f"no answer for {key}")

    def set(self, key: str, value: JsonValue) -> None:
        raise PermissionError(f"404 for {key} ({type(value).__name__})")


def batches(store: MemoryStore | FileStore) -> Ledger[BatchRecord]:
    return Ledger(store, "batch", BatchRecord, durable=True)


def test_nothing_written_is_nothing_read() -> None:
    assert batches(MemoryStore()).read() is None


@pytest.mark.parametrize("record", [INTENDED, INTENDED.model_copy(update={"state": "refused"}), CREATED])
def test_what_was_written_is_read_by_another_process(record: BatchRecord, tmp_path: Path) -> None:
    batches(FileStore(tmp_path / "ledger.json")).write(record)
    assert batches(FileStore(tmp_path / "ledger.json")).read() == record


def test_records_of_several_names_stand_in_one_store() -> None:
    store = MemoryStore()
    files = Ledger(store, "file", FileRecord, durable=True)
    files.write(UPLOADED)
    batches(store).write(CREATED)
    assert (files.read(), batches(store).read(), store.get("batch")) == (UPLOADED, CREATED, KEPT)


@pytest.mark.parametrize(
    "kept",
    [
        {},
        [],
        "text",
        0,
        {**KEPT, "schema_version": 2},
        {**KEPT, "of_next_release": True},
        {**KEPT, "state": "paid"},
        {**KEPT, "number": None},
        {name: value for name, value in KEPT.items() if name != "key"},
        # Taken for a refusal, these would have another batch made without a look.
        {**KEPT, "batch_id": None},
        {**KEPT, "batch_id": ""},
        {**KEPT, "state": "refused"},
    ],
)
def test_what_is_no_record_of_ours_stops_the_task(kept: JsonValue) -> None:
    store = MemoryStore()
    store.set("batch", kept)
    with pytest.raises(LedgerError) as unreadable:
        batches(store).read()
    assert re.fullmatch(
        r"The record 'batch' of this task was written by another release, or by something else \(\d+ fields do not "
        r"fit\)\. Nothing was submitted, since going on could pay twice\. Delete that key from the task's state if its "
        r"batch is not wanted any more\.",
        str(unreadable.value),
    )


def test_a_store_that_does_not_answer_stops_the_task() -> None:
    with pytest.raises(LedgerError) as unreadable:
        batches(Unwell()).read()
    assert str(unreadable.value) == (
        "The record 'batch' of this task could not be read (TimeoutError: no answer for batch). Nothing was submitted, "
        "since going on could pay twice. A retry reads it again."
    )
    assert isinstance(unreadable.value.__cause__, TimeoutError)


def test_a_store_that_keeps_nothing_stops_the_attempt() -> None:
    with pytest.raises(LedgerError) as unwritten:
        batches(Unwell()).write(INTENDED)
    assert str(unwritten.value) == (
        "The record 'batch' of this task could not be written (PermissionError: 404 for batch (dict)), so this attempt "
        "stops here. If another attempt has taken its place, that one goes on; else a retry looks at the provider "
        "before it submits anything."
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=5,
)


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from(sorted(KEPT)), json_values))
def test_whatever_stands_there_it_is_a_whole_record_or_an_error(changed: dict[str, JsonValue]) -> None:
    store = MemoryStore()
    store.set("batch", {**KEPT, **changed})
    try:
        record = batches(store).read()
    except LedgerError:
        return
    assert record is not None
    assert (record.state == "created") == bool(record.batch_id)
