"""Records out of files, queries and callables, each with its place, and errors that name it."""

from __future__ import annotations

import datetime as dt
import gzip
import io
import json
import tracemalloc
import uuid
from decimal import Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import pytest
from support.object_storage import airflow_memory
from upath import UPath

from airflow_provider_llmbatch.core.run.sources import FileSource, Origin, Record, file_records, given_records
from airflow_provider_llmbatch.core.storage import Folder
from airflow_provider_llmbatch.errors import BatchInputError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airflow_provider_llmbatch.core.run.sources import Format

SAME_AGAIN = "Nothing was uploaded or billed. A retry would find the same: mend the input."


def source(folder: Path, content: bytes | str, name: str = "in.jsonl", kind: Format | None = None) -> FileSource:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return FileSource(path, name, kind)


def raws(*sources: FileSource) -> list[bytes]:
    return [record.raw for record in file_records(sources)]


def refusal(*sources: FileSource) -> str:
    with pytest.raises(BatchInputError) as refused:
        list(file_records(sources))
    return str(refused.value)


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"], ids=["no line end", "LF", "CRLF"])
def test_json_lines_are_taken_as_they_stand_with_their_numbers(end: bytes, tmp_path: Path) -> None:
    content = '{"a": 1.50,  "b":"ä\\u00e4"}'.encode() + (end or b"\n") + b'{"a":2}' + end
    origin = Origin("in.jsonl", "Line")
    assert list(file_records([source(tmp_path, content)])) == [
        Record('{"a": 1.50,  "b":"ä\\u00e4"}'.encode(), origin, 1),
        Record(b'{"a":2}', origin, 2),
    ]


def test_several_files_of_several_formats_follow_each_other(tmp_path: Path) -> None:
    records = list(
        file_records(
            [
                source(tmp_path, '{"a":"1"}\n', "one.ndjson"),
                source(tmp_path, "a\r\n2\r\n", "two.CSV"),
                source(tmp_path, "", "none.json"),
                source(tmp_path, '{"a":"3"}', "three.txt", "jsonl"),
            ]
        )
    )
    assert [(record.raw, record.origin.name, record.number) for record in records] == [
        (b'{"a":"1"}', "one.ndjson", 1),
        (b'{"a":"2"}', "two.CSV", 2),
        (b'{"a":"3"}', "three.txt", 1),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a":1}\n\n{"a":2}', "Line 2 of in.jsonl is blank"),
        (b'{"a":1}\n\n \t\n{"a":2}\n\n', "Line 2 of in.jsonl is blank"),
        (b'{"a":1}\n{"a":"\xe4"}', "Line 2 of in.jsonl is not UTF-8 (byte 7 of the line)"),
        (b'[{"a":1},\n', "Line 1 of in.jsonl begins a JSON array: give each record a line of its own, without commas"),
        ('{"a":1}'.encode("utf-16"), "Line 1 of in.jsonl is not UTF-8 (byte 1 of the line)"),
    ],
)
def test_bad_json_lines_are_named(content: bytes, message: str, tmp_path: Path) -> None:
    assert refusal(source(tmp_path, content)) == f"{message}. {SAME_AGAIN}"


@pytest.mark.parametrize("name", ["in.jsonl", "in.csv"])
def test_a_byte_order_mark_is_left_out(name: str, tmp_path: Path) -> None:
    content = '\ufeff{"a":"1"}' if name == "in.jsonl" else "\ufeffa\n1\n"
    assert raws(source(tmp_path, content, name)) == [b'{"a":"1"}']


def test_a_file_without_line_ends_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    with path.open("wb") as stream:
        stream.write(b"{}\n")
        stream.truncate(70_000_000)
    assert refusal(FileSource(path, "in.jsonl")) == (
        f"Line 2 of in.jsonl is longer than 67,108,864 bytes: it is no line of records. {SAME_AGAIN}"
    )


def test_csv_rows_become_records_of_texts_numbered_by_the_line_they_begin_in(tmp_path: Path) -> None:
    content = 'id,text\n1,"two\nlines, ""quoted"""\n2,\n'
    assert [
        (json.loads(record.raw), record.number) for record in file_records([source(tmp_path, content, "a.csv")])
    ] == [
        ({"id": "1", "text": 'two\nlines, "quoted"'}, 2),
        ({"id": "2", "text": ""}, 4),
    ]


def test_csv_may_hold_a_document_in_a_field(tmp_path: Path) -> None:
    text = "x" * 1_000_000
    assert raws(source(tmp_path, f"a\n{text}\n", "a.csv")) == [json.dumps({"a": text}, separators=(",", ":")).encode()]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\n1,2\n3\n", "Line 3 of in.csv has 1 fields, but the header has 2"),
        (b"a,b\n1,2\n\n3,4\n", "Line 3 of in.csv is blank"),
        (b"a,b,a\n1,2,3\n", 'Line 1 of in.csv is the header, and names the column "a" twice'),
        (b"\na,b\n", "Line 1 of in.csv is blank, where the header with the names of the columns should be"),
        (b'a,b\n1,"half\n', "Line 2 of in.csv is not CSV: unexpected end of data"),
        (b'a,b\n1,"half" x\n', "Line 2 of in.csv is not CSV: ',' expected after '\"'"),
        (b"a\n\xe4\n", "Line 1 of in.csv or one soon after it is not UTF-8 (invalid continuation byte)"),
    ],
)
def test_bad_csv_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    assert refusal(source(tmp_path, content, "in.csv")) == f"{message}. {SAME_AGAIN}"


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [("in.txt", None, ""), ("in.txt.gz", None, ""), ("in.jsonl", "xml", ", and 'xml' is none")],
)
def test_a_format_that_is_not_known_is_asked_for(name: str, kind: str | None, said: str, tmp_path: Path) -> None:
    assert refusal(source(tmp_path, "{}", name, cast("Format", kind))) == (
        f"The format of {name} is not known{said}. Nothing was uploaded or billed. Pass source_format=, one of jsonl, "
        "csv, parquet."
    )


@pytest.mark.parametrize("name", ["folder/", "folder", "*.jsonl"])
def test_what_looks_like_several_files_is_told_that_it_is_not_taken_for_that(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert refusal(FileSource(tmp_path / name, name, "jsonl")).endswith(
        " Nothing was uploaded or billed. A source is a file, or a list of files: no folder is searched, and no "
        "pattern expanded."
    )


@pytest.mark.parametrize(
    ("name", "content"), [("in.jsonl", b'{"a":"1"}\n\n \t\r\n'), ("in.csv", b"a\n1\n\n\r\n")], ids=["JSONL", "CSV"]
)
def test_blank_lines_at_the_end_say_nothing(name: str, content: bytes, tmp_path: Path) -> None:
    assert raws(source(tmp_path, content, name)) == [b'{"a":"1"}']


@pytest.mark.parametrize("name", ["in.jsonl.gz", "in.CSV.gz", "in.jsonl"])
def test_what_is_packed_with_gzip_is_unpacked_on_the_way(name: str, tmp_path: Path) -> None:
    plain = b"a,b\n1,2\n" if "CSV" in name else b'{"a":"1","b":"2"}\n'
    packed = gzip.compress(plain) + gzip.compress(plain.removeprefix(b"a,b\n"))  # as parallel exports are joined
    assert raws(source(tmp_path, packed, name)) == [b'{"a":"1","b":"2"}'] * 2


@pytest.mark.parametrize("damage", [lambda packed: packed[:-30], lambda packed: packed[:40] + b"x" * 40 + packed[80:]])
def test_a_packed_file_that_is_cut_off_or_damaged_is_refused(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    packed = gzip.compress(b"".join(b'{"a":"%d"}\n' % (n * n) for n in range(5_000)))
    message = refusal(source(tmp_path, damage(packed), "in.jsonl.gz"))
    assert message.startswith("in.jsonl.gz cannot be unpacked (")
    assert message.endswith("): it is cut off or damaged. Nothing was uploaded or billed.")


def test_a_source_that_is_not_there_is_no_outage(tmp_path: Path) -> None:
    assert refusal(FileSource(tmp_path / "in.jsonl", "in.jsonl")) == (
        "The source in.jsonl cannot be opened (FileNotFoundError: [Errno 2] No such file or directory: "
        f"'{tmp_path}/in.jsonl'). Nothing was uploaded or billed."
    )


def test_a_store_that_does_not_answer_is_one() -> None:
    class Down:
        name = "in.jsonl"

        def open(self, *_args: object, **_options: object) -> object:
            raise ConnectionError("reset")

    with pytest.raises(StorageError, match=r"in.jsonl could not be read .ConnectionError: reset"):
        list(file_records([FileSource(Down(), "in.jsonl")]))


def test_a_file_in_an_object_store_is_read_in_blocks() -> None:
    place = UPath(f"memory://{uuid.uuid4().hex}/in")
    lines = [b'{"a":"%d %b"}' % (number, b"x" * 1_000) for number in range(9_000)]
    Folder(place).put("in.jsonl", b"\n".join(lines))
    assert raws(FileSource(place / "in.jsonl", "memory://in.jsonl")) == lines


def test_airflows_own_paths_are_read_too() -> None:
    with airflow_memory() as bucket:
        Folder(bucket).put("in.csv", b"a\n1\n")
        assert raws(FileSource(bucket / "in.csv", "memory://in.csv")) == [b'{"a":"1"}']


def test_texts_and_mappings_are_records_too() -> None:
    items: list[object] = ['Say "hi"', {"a": 1}, MappingProxyType({"a": None})]
    origin = Origin("ask")
    assert list(given_records(items, name="ask")) == [
        Record(b'{"prompt":"Say \\"hi\\""}', origin, 1, is_text=True),
        Record(b'{"a":1}', origin, 2),
        Record(b'{"a":null}', origin, 3),
    ]


def test_values_of_databases_have_one_json_each() -> None:
    row = {
        "day": dt.date(2026, 11, 24),
        "time": dt.datetime(2026, 11, 24, 3, 10, tzinfo=dt.UTC),
        "price": Decimal("12.340"),
        "id": uuid.UUID(int=7),
        "image": b"\x00\xff",
        "none": float("nan"),
        "tags": ["a", "b"],
    }
    [record] = given_records([row], name="the query")
    assert json.loads(record.raw) == {
        "day": "2026-11-24",
        "time": "2026-11-24T03:10:00Z",
        "price": "12.340",
        "id": "00000000-0000-0000-0000-000000000007",
        "image": "AP8=",
        "none": None,
        "tags": ["a", "b"],
    }


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        (7, "is an int, and neither a text nor a mapping"),
        (["a"], "is a list, and neither a text nor a mapping"),
        ({"a": object()}, "cannot be written as JSON (Encoding objects of type object is unsupported)"),
        (
            {"a": "\ud83d"},
            (
                "cannot be written as JSON ('utf-8' codec can't encode character '\\ud83d' in position 0: "
                "surrogates not allowed)"
            ),
        ),
    ],
)
def test_what_is_no_record_is_named(item: object, problem: str) -> None:
    with pytest.raises(BatchInputError) as refused:
        list(given_records([{}, item], name="ask"))
    assert str(refused.value) == f"Record 2 of ask {problem}. {SAME_AGAIN}"


def test_nothing_is_taken_before_it_is_asked_for() -> None:
    taken: list[int] = []

    def items() -> Any:
        for number in range(5):
            taken.append(number)
            yield {"a": number}

    records = given_records(items(), name="ask")
    next(records)
    assert taken == [0]


@pytest.mark.parametrize("name", ["in.jsonl", "in.csv"])
def test_memory_holds_a_block_and_not_the_file(name: str) -> None:
    line = b'{"a":"' + b"x" * 2_000 + b'"}\n' if name == "in.jsonl" else b"x" * 2_000 + b"\n"

    class Endless(io.RawIOBase):
        left = 8_000

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any, /) -> int:
            count = min(len(buffer) // len(line), self.left)
            self.left -= count
            buffer[: count * len(line)] = line * count
            return count * len(line)

    class Place:
        def open(self, *_args: object, **_options: object) -> object:
            return io.BufferedReader(Endless(), 1_000_000)

    Place.name = name  # type: ignore[attr-defined]
    tracemalloc.start()
    try:
        count = sum(1 for _ in file_records([FileSource(cast("Any", Place()), name)]))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count >= 7_999
    assert peak < 8_000_000
