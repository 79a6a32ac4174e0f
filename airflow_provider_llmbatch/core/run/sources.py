"""Records out of files, queries and callables: each as the JSON of its columns, with the place where it stood.

Everything streams. A byte order mark, as spreadsheets write it, is left out: nothing of the input reaches the provider
byte for byte.
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final, Literal, cast, get_args

import msgspec

from airflow_provider_llmbatch.adapters.lines import split_lines
from airflow_provider_llmbatch.core.jsonl import BOM, read_blocks
from airflow_provider_llmbatch.core.reading import open_to_read
from airflow_provider_llmbatch.core.run.requests import TEXT_COLUMN
from airflow_provider_llmbatch.errors import BatchInputError, StorageError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from airflow_provider_llmbatch.core.storage import StoragePath

Format = Literal["jsonl", "csv", "parquet"]

_FORMAT_OF_SUFFIX: Final[Mapping[str, Format]] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",  # as warehouses export it; a JSON array is told from it by its first line
    ".csv": "csv",
    ".parquet": "parquet",
}
_GZIP: Final = b"\x1f\x8b"  # RFC 1952
_LONGEST_RECORD: Final = 64 * 1024 * 1024  # bytes; more than any provider takes as one request
_encode = msgspec.json.Encoder().encode


class Origin(msgspec.Struct, frozen=True, gc=False):
    """Where records come from.

    :param unit: What its numbers count.
    """

    name: str
    unit: str = "Record"

    def refused(self, number: int, problem: str) -> BatchInputError:
        """:param problem: Completes "Line 17 of reviews.jsonl …"."""
        return BatchInputError(
            f"{self.unit} {number:,} of {self.name} {problem}. Nothing was uploaded or billed. A retry would find the "
            "same: mend the input."
        )


class Record(msgspec.Struct, frozen=True, gc=False):
    """One record of an input.

    :param raw: The JSON object of its columns. From JSON lines it is taken as it is, and whoever decodes it finds out
        whether it is one.
    :param number: Its place in its origin, from 1.
    :param is_text: It was only a text, which is its column ``prompt`` now.
    """

    raw: bytes
    origin: Origin
    number: int
    is_text: bool = False

    def refused(self, problem: str) -> BatchInputError:
        """:param problem: Completes "Line 17 of reviews.jsonl …"."""
        return self.origin.refused(self.number, problem)


@dataclass(frozen=True)
class FileSource:
    """A file of records.

    :param name: What to call it in messages: the URI as the user wrote it.
    :param format: By default as its suffix says.
    """

    path: Path | StoragePath
    name: str
    format: Format | None = None

    @property
    def known_format(self) -> Format:
        """:raises BatchInputError: Its suffix tells none."""
        name = self.name.lower().removesuffix(".gz")
        found = self.format or _FORMAT_OF_SUFFIX.get(PurePath(name).suffix)
        if found not in get_args(Format):
            raise BatchInputError(
                f"The format of {self.name} is not known"
                + ("" if self.format is None else f", and {self.format!r} is none")
                + ". Nothing was uploaded or billed. "
                + f"Pass source_format=, one of {', '.join(get_args(Format))}.{self.hint}"
            )
        return cast("Format", found)

    @property
    def hint(self) -> str:
        """What to say besides of a name that looks as if it meant several files."""
        if PurePath(self.name).suffix and "*" not in self.name:
            return ""
        return " A source is a file, or a list of files: no folder is searched, and no pattern expanded."


def file_records(sources: Sequence[FileSource], *, columns: Collection[str] | None = None) -> Iterator[Record]:
    """The records of files, one file after the other.

    :param columns: All that is needed of them, where leaving others out saves reading them (Parquet); ``None``: all.
    :raises BatchInputError: A file is not there, is not to be read, or is not in its format; with line and file.
    :raises StorageError: Its storage broke down meanwhile.
    """
    for source in sources:
        kind = source.known_format
        with _opened(source) as stream:
            if kind == "parquet":
                from airflow_provider_llmbatch.core.run.parquet import parquet_records  # noqa: PLC0415 - brings pyarrow

                yield from parquet_records(stream, Origin(source.name), columns)
            else:
                yield from _lines_of_text(stream, kind, source.name)


def given_records(items: Iterable[object], *, name: str) -> Iterator[Record]:
    """Records from Python: mappings of columns (or ready lines as mappings), or texts, each of which is a prompt.

    :param name: What to call the whole in messages, such as ``the query on warehouse``.
    :raises BatchInputError: An item is something else, or has a value that JSON does not know.
    """
    origin = Origin(name)
    for number, item in enumerate(items, 1):
        if isinstance(item, dict):  # the usual case first: asking whether something is any Mapping is slow
            yield Record(encoded(item, origin, number), origin, number)
        elif isinstance(item, str):
            yield Record(encoded({TEXT_COLUMN: item}, origin, number), origin, number, is_text=True)
        elif isinstance(item, Mapping):
            yield Record(encoded(item, origin, number), origin, number)
        else:
            raise origin.refused(number, f"is {_article(type(item).__name__)}, and neither a text nor a mapping")


def encoded(item: Mapping[Any, Any], origin: Origin, number: int) -> bytes:
    """A record as JSON: dates and times in ISO 8601, decimals as texts, bytes in base64, NaN as null.

    :raises BatchInputError: It has a value that JSON does not know.
    """
    try:
        return _encode(item)
    except (TypeError, ValueError, RecursionError) as error:
        problem = str(error)
    try:
        return _encode(dict(item))  # a driver's own kind of mapping
    except (TypeError, ValueError, RecursionError):
        raise origin.refused(number, f"cannot be written as JSON ({problem})") from None


def _opened(source: FileSource) -> BinaryIO:
    try:
        return open_to_read(source.path, source.name)
    except StorageError as error:
        cause = error.__cause__
        if isinstance(cause, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError):
            raise BatchInputError(
                f"The source {source.name} cannot be opened ({type(cause).__name__}: {cause}). Nothing was uploaded "
                f"or billed.{source.hint}"
            ) from cause
        raise


def _lines_of_text(stream: BinaryIO, kind: Format, name: str) -> Iterator[Record]:
    """JSON lines or CSV, which warehouses export in gzip; what a file begins with tells, whatever its name is."""
    read = _json_lines if kind == "jsonl" else _csv_rows
    origin = Origin(name, "Line")
    if cast("io.BufferedReader", stream).peek(len(_GZIP))[: len(_GZIP)] != _GZIP:
        yield from read(stream, origin)
        return
    try:
        with gzip.GzipFile(fileobj=stream) as unpacked:
            yield from read(cast("BinaryIO", unpacked), origin)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BatchInputError(
            f"{name} cannot be unpacked ({type(error).__name__}: {error}): it is cut off or damaged. Nothing was "
            "uploaded or billed."
        ) from error


def _json_lines(stream: BinaryIO, origin: Origin) -> Iterator[Record]:
    blank = 0
    for number, line in enumerate(split_lines(_bounded(read_blocks(stream), origin)), 1):
        raw = line.removeprefix(BOM).strip() if number == 1 else line.strip()
        if not raw:
            blank = blank or number
            continue
        if blank:  # and not at the end, where it says nothing
            raise origin.refused(blank, "is blank")
        if number == 1 and raw.startswith(b"["):
            raise origin.refused(number, "begins a JSON array: give each record a line of its own, without commas")
        if not raw.isascii():
            _check_utf8(raw, origin, number)
        yield Record(raw, origin, number)


def _check_utf8(line: bytes, origin: Origin, number: int) -> None:
    try:
        line.decode()
    except UnicodeDecodeError as error:
        raise origin.refused(number, f"is not UTF-8 (byte {error.start + 1} of the line)") from None


def _bounded(blocks: Iterator[bytes], origin: Origin) -> Iterator[bytes]:
    """The same blocks, until a line grows too long to be one."""
    length = lines = 0
    for block in blocks:
        end = block.rfind(b"\n")
        lines += block.count(b"\n")
        length = length + len(block) if end < 0 else len(block) - end - 1
        if length > _LONGEST_RECORD:
            raise origin.refused(lines + 1, f"is longer than {_LONGEST_RECORD:,} bytes: it is no line of records")
        yield block


def _csv_rows(stream: BinaryIO, origin: Origin) -> Iterator[Record]:
    # For the whole process, since csv knows no other; its default of 128 KiB is less than some documents have.
    csv.field_size_limit(max(_LONGEST_RECORD, csv.field_size_limit()))
    number = 1
    blank = 0
    try:
        # Lines with their ends: csv itself puts together what quotes hold together.
        with io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines, strict=True)
            header = next(reader, None)
            if header is None:
                return
            _check_header(header, origin)
            width = len(header)
            number = reader.line_num + 1
            for row in reader:
                if not row:
                    blank = blank or number
                elif blank:  # as above
                    raise origin.refused(blank, "is blank")
                elif len(row) != width:
                    raise origin.refused(number, f"has {len(row)} fields, but the header has {width}")
                else:
                    yield Record(_encode(dict(zip(header, row, strict=True))), origin, number)
                number = reader.line_num + 1
    except csv.Error as error:
        raise origin.refused(number, f"is not CSV: {error}") from None
    except UnicodeDecodeError as error:
        raise origin.refused(number, f"or one soon after it is not UTF-8 ({error.reason})") from None


def _check_header(header: list[str], origin: Origin) -> None:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise origin.refused(1, f'is the header, and names the column "{twice[0]}" twice')
    if not header:
        raise origin.refused(1, "is blank, where the header with the names of the columns should be")


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"
