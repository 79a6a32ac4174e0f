"""Records out of Parquet: of every type that has a JSON, a row group at a time."""

from __future__ import annotations

import datetime as dt
import json
import sys
import uuid
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from pyarrow import parquet as pq
from support.object_storage import airflow_memory

from airflow_provider_llmbatch.core.run.sources import FileSource, Origin, Record, file_records
from airflow_provider_llmbatch.errors import BatchInputError

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path


def records(path: Path, columns: Collection[str] | None = None) -> list[dict[str, Any]]:
    return [json.loads(record.raw) for record in file_records([FileSource(path, "in.parquet")], columns=columns)]


def refusal(path: Path) -> str:
    with pytest.raises(BatchInputError) as refused:
        records(path)
    return str(refused.value)


def test_records_are_numbered_over_all_row_groups(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": range(2_500)}), tmp_path / "in.parquet", row_group_size=1_100)
    found = list(file_records([FileSource(tmp_path / "in.parquet", "in.parquet")]))
    assert found == [Record(b'{"a":%d}' % n, Origin("in.parquet"), n + 1) for n in range(2_500)]


def test_values_have_the_json_that_those_of_databases_have(tmp_path: Path) -> None:
    moment = dt.datetime(2026, 11, 24, 3, 10, 0, 123456)  # noqa: DTZ001 - as columns without a zone have it
    columns = {
        "text": pa.array(["ä"]),
        "none": pa.array([None], pa.string()),
        "day": pa.array([moment.date()]),
        "ns": pa.array([1_795_489_800_123_456_789], pa.timestamp("ns", "UTC")),
        "us": pa.array([moment], pa.timestamp("us")),
        "price": pa.array([Decimal("12.340")]),
        "big": pa.array([2**62 + 1]),
        "nan": pa.array([float("nan")]),
        "raw": pa.array([b"\x00\xff"]),
        "tags": pa.array([["a", None]]),
        "place": pa.array([{"town": "Ulm", "zip": 7}]),
        "map": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
        "word": pa.array(["x"]).dictionary_encode(),
        "id": pa.array([uuid.UUID(int=7).bytes], pa.uuid()),
    }
    pq.write_table(pa.table(columns), tmp_path / "in.parquet")
    assert records(tmp_path / "in.parquet") == [
        {
            "text": "ä",
            "none": None,
            "day": "2026-11-24",
            "ns": "2026-11-24T03:10:00.123456Z",
            "us": "2026-11-24T03:10:00.123456",
            "price": "12.340",
            "big": 2**62 + 1,
            "nan": None,
            "raw": "AP8=",
            "tags": ["a", None],
            "place": {"town": "Ulm", "zip": 7},
            "map": {"k": 1},
            "word": "x",
            "id": "00000000-0000-0000-0000-000000000007",
        }
    ]


def test_only_the_columns_that_are_needed_are_read(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1], "b": [2], "c": [3]}), tmp_path / "in.parquet")
    assert records(tmp_path / "in.parquet", ("c", "a", "not there")) == [{"a": 1, "c": 3}]


def test_a_file_without_rows_has_no_records(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": pa.array([], pa.int64())}), tmp_path / "in.parquet")
    assert records(tmp_path / "in.parquet") == []


def test_it_is_read_from_an_object_store() -> None:
    with airflow_memory() as bucket:
        with bucket.joinpath("in.parquet").open("wb") as stream:
            pq.write_table(pa.table({"a": range(10)}), pa.PythonFile(stream._obj))
        found = list(file_records([FileSource(bucket / "in.parquet", "memory://in.parquet")]))
    assert [record.raw for record in found] == [b'{"a":%d}' % n for n in range(10)]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no Parquet at all", b"PAR1" + b"x" * 100 + b"PAR1"])
def test_what_is_no_parquet_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "in.parquet").write_bytes(content)
    message = refusal(tmp_path / "in.parquet")
    assert message.startswith("in.parquet cannot be read as Parquet (")
    assert message.endswith("), after 0 records. Nothing was uploaded or billed.")


def test_a_file_that_is_damaged_is_refused_with_what_was_read(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    pq.write_table(
        pa.table({"a": [f"text {n}" for n in range(3_000)]}), path, row_group_size=1_000, use_dictionary=False
    )
    content = bytearray(path.read_bytes())
    offset = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    content[offset : offset + 200] = b"\xff" * 200
    path.write_bytes(content)
    assert "after 1,000 records" in refusal(path)


def test_times_in_nanoseconds_are_read_wherever_they_stand(tmp_path: Path) -> None:
    moment, second = pa.timestamp("ns"), 1_000_000_001
    columns = {
        "time": pa.array([second], pa.time64("ns")),
        "duration": pa.array([second], pa.duration("ns")),
        "list": pa.array([[second]], pa.list_(moment)),
        "large": pa.array([[second]], pa.large_list(moment)),
        "struct": pa.array([{"at": second}], pa.struct({"at": moment})),
    }
    pq.write_table(pa.table(columns), tmp_path / "in.parquet")
    at = "1970-01-01T00:00:01"
    assert records(tmp_path / "in.parquet") == [
        {"time": "00:00:01", "duration": "PT1S", "list": [at], "large": [at], "struct": {"at": at}}
    ]


def test_a_date_beyond_all_calendars_is_refused_unless_nobody_needs_it(tmp_path: Path) -> None:
    dates = pa.array([0, 2**30], pa.date32())
    pq.write_table(pa.table({"a": [1, 2], "day": dates}), tmp_path / "in.parquet")
    assert refusal(tmp_path / "in.parquet") == (
        "in.parquet has a value that Python knows no type for (days=1073741824; must have magnitude <= 999999999), "
        "among the 1,000 records after number 0. Nothing was uploaded or billed. Mend it, or leave its column out: "
        "with columns=, what is named nowhere is not read."
    )
    assert records(tmp_path / "in.parquet", ("a",)) == [{"a": 1}, {"a": 2}]


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["x"]), pa.array(["y"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "in.parquet")
    assert refusal(tmp_path / "in.parquet") == (
        'in.parquet has two columns named "text". Nothing was uploaded or billed. Rename one of them.'
    )


def test_without_pyarrow_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert refusal(tmp_path / "in.parquet") == (
        "in.parquet is Parquet, and pyarrow, which reads it, is not installed. Nothing was uploaded or billed. Install "
        "airflow-provider-llmbatch[parquet]."
    )
