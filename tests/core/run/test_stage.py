"""The stage: every split of every input merges back to the same rows, within the limits, and is there whole or not at
all."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from array import array
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.object_storage import airflow_memory
from support.staged import CHAT, lines, made, staged

from airflow_provider_llmbatch.adapters.base import Limits
from airflow_provider_llmbatch.core.costs.volume import Texts, Volume
from airflow_provider_llmbatch.core.jsonl import check_requests
from airflow_provider_llmbatch.core.run.requests import RequestTemplate, Row
from airflow_provider_llmbatch.core.run.sources import given_records
from airflow_provider_llmbatch.core.run.splitting import StagePart
from airflow_provider_llmbatch.core.run.stage import SplitLimits, Stage, Subset
from airflow_provider_llmbatch.core.storage import Folder
from airflow_provider_llmbatch.errors import LedgerError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "stage", private=True)


def test_a_part_has_its_requests_and_its_rows_beside_them(folder: Folder) -> None:
    stage = staged(folder, [made(0, key=b'"a"'), made(1)])
    requests = (
        b'{"custom_id":"0","method":"POST","url":"/v1/chat/completions","body":{"model": "m", "text": "x"}}\n'
        b'{"custom_id":"1","method":"POST","url":"/v1/chat/completions","body":{"model": "m", "text": "x"}}\n'
    )
    [part] = stage.parts
    with stage.requests(part) as stream, stage.rows_of(part) as rows:
        assert (stream.read(), rows.read()) == (
            requests,
            b'{"ordinal":0,"key":"a","input":{"n":0}}\n{"ordinal":1,"key":null,"input":{"n":1}}\n',
        )
    assert part == StagePart(
        number=0,
        rows=2,
        bytes=len(requests),
        sha256=hashlib.sha256(requests).hexdigest(),
        model="m",
        endpoint=CHAT,
        tokens=14,
        first=0,
        last=1,
        volume=Volume(rows=2, bytes=54, texts=Texts(letters=2, punctuation=4), answers=2, unbounded=2),
    )
    hashes = [hashlib.blake2b(b"source %d" % n, digest_size=32).digest() for n in range(2)]
    sum_of_hashes = sum(int.from_bytes(each, "little") for each in hashes)
    assert (stage.rows, stage.bytes, stage.rows_sha256) == (
        2,
        len(requests),
        hashlib.sha256((sum_of_hashes % 2**256).to_bytes(32, "little")).hexdigest(),
    )
    assert folder.local is not None
    assert sorted(path.name for path in folder.local.iterdir()) == [
        "part-00000.requests.jsonl",
        "part-00000.rows.jsonl",
        "stage.json",
    ]


def test_a_row_without_columns_has_no_input(folder: Folder) -> None:
    template = RequestTemplate("{a}", key="a", columns=())
    stage = staged(folder, template.rows(given_records([{"a": 1}], name="ask")))
    with stage.rows_of(stage.parts[0]) as rows:
        assert rows.read() == b'{"ordinal":0,"key":1}\n'


def test_a_stage_is_opened_as_it_was_written(folder: Folder) -> None:
    stage = staged(folder, map(made, range(5)), SplitLimits(max_rows=2, max_bytes=1_000))
    opened = Stage.open(folder)
    assert opened is not None
    assert (opened.parts, opened.rows, opened.bytes, opened.rows_sha256) == (
        stage.parts,
        stage.rows,
        stage.bytes,
        stage.rows_sha256,
    )
    assert Stage.open(folder.child("none")) is None


def test_it_lies_in_an_object_store_just_as_well() -> None:
    with airflow_memory() as bucket:
        stage = staged(Folder(bucket / "stage"), map(made, range(5)), SplitLimits(max_rows=2, max_bytes=1_000))
        opened = Stage.open(Folder(bucket / "stage"))
        assert opened is not None
        assert [[line["custom_id"] for line in lines(opened, part)] for part in stage.parts] == [
            ["0", "1"],
            ["2", "3"],
            ["4"],
        ]
        opened.write_subset(opened.parts[1], 2, [3])
        assert [line["custom_id"] for line in lines(opened, opened.parts[1], 2)] == ["3"]
        opened.delete()
        assert Stage.open(Folder(bucket / "stage")) is None


def test_models_and_endpoints_that_alternate_get_parts_of_their_own(folder: Folder) -> None:
    rows = [
        made(number, model="m" if number % 2 else "n", url="/v1/responses" if number % 3 == 2 else CHAT)
        for number in range(12)
    ]
    stage = staged(folder, rows)
    assert [(part.number, part.model, part.endpoint, list(stage.ordinals(part))) for part in stage.parts] == [
        (0, "n", CHAT, [0, 4, 6, 10]),
        (1, "m", CHAT, [1, 3, 7, 9]),
        (2, "n", "/v1/responses", [2, 8]),
        (3, "m", "/v1/responses", [5, 11]),
    ]


def test_ordinals_are_a_range_where_they_follow_each_other(folder: Folder) -> None:
    stage = staged(folder, [made(0), made(1), made(2, model="n"), made(3)])
    assert [stage.ordinals(part) for part in stage.parts] == [array("Q", [0, 1, 3]), range(2, 3)]


def test_the_lines_that_are_wanted_again_are_written_and_no_others(folder: Folder) -> None:
    stage = staged(folder, [made(number, model="n" if number == 2 else "m", text=str(number)) for number in range(6)])
    part = stage.parts[0]
    subset = stage.write_subset(part, 2, array("Q", [5, 2, 0, 99, 3]))
    with stage.requests(part, 2) as stream:
        content = stream.read()
    assert subset == Subset(rows=3, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    assert lines(stage, part, 2) == [line for line in lines(stage, part) if line["custom_id"] in {"0", "3", "5"}]
    assert stage.ordinals(part, 2) == array("Q", [0, 3, 5])
    assert stage.write_subset(part, 2, {0, 3, 5}) == subset


def test_what_lies_in_the_folder_is_replaced(folder: Folder) -> None:
    staged(folder, map(made, range(5)), SplitLimits(max_rows=1, max_bytes=1_000))
    stage = staged(folder, map(made, range(2)))
    assert folder.local is not None
    assert (len(list(folder.local.iterdir())), len(stage.parts)) == (3, 1)


def test_a_deleted_stage_is_none(folder: Folder) -> None:
    staged(folder, [made(0)]).delete()
    assert (Stage.open(folder), folder.local and folder.local.exists()) == (None, False)


@pytest.mark.parametrize(
    "content", [b"{}", b"half", b'{"schema_version":2,"rows":0,"bytes":0,"rows_sha256":"","parts":[]}']
)
def test_what_is_no_stage_is_not_taken_for_an_absent_one(content: bytes, folder: Folder) -> None:
    folder.put("stage.json", content)
    with pytest.raises(LedgerError, match="was written by another release, or by something else"):
        Stage.open(folder)


# Properties

texts = st.text('xy{}é\n"', max_size=40)
inputs = st.lists(st.tuples(st.sampled_from(["m", "m", "m", "n", None]), texts), min_size=1, max_size=30)
some_limits = st.builds(
    SplitLimits,
    max_rows=st.integers(1, 12),
    max_bytes=st.integers(400, 2_000),
    max_tokens=st.none() | st.integers(60, 200),
)


@settings(max_examples=30)
@given(inputs, some_limits, st.data())
def test_every_split_of_every_input_merges_back_to_the_same_rows_within_the_limits(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str | None, str]],
    limits: SplitLimits,
    data: st.DataObject,
) -> None:
    folder = Folder(tmp_path_factory.getbasetemp() / "split")
    stage = staged(folder, [made(number, model=model, text=text) for number, (model, text) in enumerate(rows)], limits)

    merged: dict[int, Any] = {}
    for place, part in enumerate(stage.parts):
        with stage.requests(part) as stream:
            content = stream.read()
        ordinals = list(stage.ordinals(part))
        requests = lines(stage, part)
        assert part.number == place
        assert (part.rows, part.bytes, part.sha256) == (
            len(requests),
            len(content),
            hashlib.sha256(content).hexdigest(),
        )
        assert part.rows <= limits.max_rows
        assert part.bytes <= limits.max_bytes
        assert limits.max_tokens is None or part.tokens <= limits.max_tokens
        assert ordinals == sorted(ordinals) == [int(request["custom_id"]) for request in requests]
        assert (part.first, part.last) == (ordinals[0], ordinals[-1])
        assert {request["body"]["model"] for request in requests} == {part.model}
        with stage.rows_of(part) as stream:
            kept = [json.loads(line) for line in stream]
        assert kept == [{"ordinal": n, "key": None, "input": {"n": n}} for n in ordinals]
        with stage.requests(part) as stream:  # what uploads a single file finds nothing wrong with it either
            checked = check_requests(stream, name="part", limits=Limits(limits.max_rows, limits.max_bytes))
        assert (checked.sha256, checked.requests) == (part.sha256, part.rows)
        merged |= {int(request["custom_id"]): request["body"] for request in requests}

        wanted = data.draw(st.sets(st.sampled_from(ordinals)))
        subset = stage.write_subset(part, 2, wanted)
        again = lines(stage, part, 2)
        assert again == [request for request in requests if int(request["custom_id"]) in wanted]
        assert subset.rows == len(again)
        assert list(stage.ordinals(part, 2)) == sorted(wanted)

    assert merged == {number: {"model": model, "text": text} for number, (model, text) in enumerate(rows)}
    assert list(merged) == list(range(len(rows))) or len({model for model, _ in rows}) > 1
    assert (stage.rows, stage.bytes) == (len(rows), sum(part.bytes for part in stage.parts))


@given(st.integers(1, 10), st.none() | st.integers(1, 20), st.integers(1, 10), st.none() | st.integers(1, 20))
def test_the_lower_one_of_two_limits_holds(rows: int, own_rows: int | None, size: int, own_size: int | None) -> None:
    limits = SplitLimits.of(Limits(rows, size), max_rows=own_rows, max_bytes=own_size, max_tokens=7)
    assert limits == SplitLimits(min(rows, own_rows or rows), min(size, own_size or size), 7, Limits(1, 1).endpoints)


def test_memory_holds_buffers_and_not_the_input(folder: Folder) -> None:
    text = "x" * 5_000

    def rows() -> Iterator[Row]:
        for number in range(4_000):
            yield made(number, text=text, key=b"%d" % number)

    tracemalloc.start()
    try:
        stage = staged(folder, rows(), SplitLimits(1_500, 100_000_000))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert stage.bytes > 20_000_000
    assert peak < 6_000_000
