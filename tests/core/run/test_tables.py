"""Rows as Parquet: the same columns of the same types in every file, in row groups of bounded size."""

from __future__ import annotations

import builtins
import io
import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from pyarrow import parquet

from airflow_provider_llmbatch.core.run import tables
from airflow_provider_llmbatch.core.run.tables import check_format, table
from airflow_provider_llmbatch.errors import BatchInputError

if TYPE_CHECKING:
    from collections.abc import Iterable

SCHEMA = """\
key: string
input: string
outcome: string
text: string
parsed: string
error: struct<code: string, message: string>
finish_reason: string
usage: struct<input_tokens: int64, input_tokens_details: struct<cached_tokens: int64, \
cache_write_tokens: int64, audio_tokens: int64, image_tokens: int64>, output_tokens: int64, output_tokens_details: \
struct<reasoning_tokens: int64, audio_tokens: int64, image_tokens: int64>, total_tokens: int64>
cost_usd: decimal128(38, 18)
refusal: string
tool_calls: string
embedding: list<item: float>
body: string
provider: string
model: string
batch_id: string
attempt: int32
"""
END: dict[str, Any] = {"provider": "openai", "model": None, "batch_id": "batch_1", "attempt": 1}
USAGE = {
    "input_tokens": 1,
    "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 6, "audio_tokens": None, "image_tokens": None},
    "output_tokens": 3,
    "output_tokens_details": {"reasoning_tokens": 4, "audio_tokens": 7, "image_tokens": None},
    "total_tokens": 5,
}


def written(rows: Iterable[tuple[bytes, dict[str, Any]]]) -> parquet.ParquetFile:
    stream = io.BytesIO()
    rows_out = table("parquet", stream)
    for head, tail in rows:
        rows_out.add(head, json.dumps(tail).encode()[1:])
    assert rows_out.finish() == len(stream.getvalue())
    return parquet.ParquetFile(stream)


@pytest.mark.parametrize("rows", [[], [(b"", {"outcome": "missing", **END})]], ids=["no rows", "only nulls"])
def test_the_columns_do_not_depend_on_what_the_rows_hold(rows: list[tuple[bytes, dict[str, Any]]]) -> None:
    schema = written(rows).schema_arrow
    assert "".join(f"{field.name}: {field.type}\n" for field in schema).replace("element", "item") == SCHEMA


def test_every_field_comes_back_and_nested_ones_as_json() -> None:
    head = b'"key":"caf\xc3\xa9","input":{"x": 1.0}'
    tail = {
        "outcome": "succeeded",
        "text": "a\u2028\n",
        "parsed": {"label": "good"},
        "error": {"code": None, "message": "m"},
        "finish_reason": "stop",
        "usage": USAGE,
        "cost_usd": 0.0000125,
        "refusal": "No.",
        "tool_calls": [{"id": 1}],
        "embedding": [0.5, 1],
        "body": {"n": 2},
        **END,
    }
    [row] = written([(head, tail)]).read().to_pylist()
    assert row == {
        **tail,
        "key": "caf\u00e9",
        "cost_usd": Decimal("0.0000125"),
        "input": '{"x": 1.0}',
        "parsed": '{"label": "good"}',
        "tool_calls": '[{"id": 1}]',
        "body": '{"n": 2}',
    }


@pytest.mark.parametrize(
    ("key", "text"),
    [(b'"a\\n"', "a\n"), (b"7", "7"), (b"7.0", "7.0"), (b'{"a":1}', '{"a":1}'), (b"null", None), (b'"null"', "null")],
)
def test_a_key_is_its_text_or_its_json(key: bytes, text: str | None) -> None:
    [row] = written([(b'"key":' + key, {"outcome": "missing", **END})]).read().to_pylist()
    assert row == {**dict.fromkeys(row), "key": text, "outcome": "missing", **END}


def test_a_vector_that_holds_no_numbers_is_kept_as_the_body() -> None:
    [row] = written([(b"", {"outcome": "succeeded", "embedding": ["a"], **END})]).read().to_pylist()
    assert (row["embedding"], row["body"]) == (None, '["a"]')


def test_row_groups_are_bounded_by_bytes_and_by_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    def groups(rows: int, text: str) -> list[int]:
        file = written((b'"key":%d' % n, {"outcome": "succeeded", "text": text, **END}) for n in range(rows))
        assert [row["key"] for row in file.read(["key"]).to_pylist()] == [str(n) for n in range(rows)]
        return [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]

    monkeypatch.setattr(tables, "_GROUP_BYTES", 10_000)
    assert groups(25, "x" * 900) == [10, 10, 5]
    monkeypatch.setattr(tables, "_GROUP_ROWS", 4)
    assert groups(10, "") == [4, 4, 2]


def test_without_pyarrow_parquet_is_refused_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_pyarrow(name: str, *args: Any) -> Any:
        if name.partition(".")[0] == "pyarrow":
            raise ImportError(name)
        return real(name, *args)

    check_format("parquet")
    monkeypatch.setattr(builtins, "__import__", without_pyarrow)
    check_format("jsonl")
    with pytest.raises(BatchInputError) as refused:
        check_format("parquet")
    assert str(refused.value) == (
        "Parquet needs pyarrow, which is not installed: pip install 'airflow-provider-llmbatch[parquet]', or choose "
        'format="jsonl". Nothing was uploaded or billed.'
    )
