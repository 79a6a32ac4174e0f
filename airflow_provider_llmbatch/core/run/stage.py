"""The stage: a run's own copy of its input, cut into parts that a provider takes, written before anything is uploaded.

A query or a generator run twice may give other rows; so landing, resubmission and resume read only what lies here. It
is there once ``stage.json`` is, which is written last. Memory: some buffers, whatever the number of rows.
"""

from __future__ import annotations

import hashlib
from array import array
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from pydantic import ValidationError

from airflow_provider_llmbatch.adapters.lines import split_lines
from airflow_provider_llmbatch.core.jsonl import read_blocks
from airflow_provider_llmbatch.core.run.splitting import REQUEST_HEAD, SplitLimits, StageIndex, StagePart
from airflow_provider_llmbatch.core.run.staging import Staging
from airflow_provider_llmbatch.errors import LedgerError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import BinaryIO

    from structlog.typing import FilteringBoundLogger

    from airflow_provider_llmbatch.core.run.requests import Row
    from airflow_provider_llmbatch.core.run.staging import LineCheck
    from airflow_provider_llmbatch.core.storage import Folder

__all__ = ["Ordinals", "SplitLimits", "Stage", "StagePart", "Subset", "write_stage"]

_INDEX: Final = "stage.json"
_ORDINAL_AT: Final = len(REQUEST_HEAD)
_BLOCK_BYTES: Final = 1024 * 1024

Ordinals: TypeAlias = range | array  # type: ignore[type-arg] # an array can be subscripted only from Python 3.12 on
"""Ordinals of rows in ascending order: a range, or 8 bytes each (``array("Q")``)."""


@dataclass(frozen=True)
class Subset:
    """The lines of a part that are submitted again."""

    rows: int
    bytes: int
    sha256: str


class Stage:
    """A whole stage. Its files: the requests of each part, in the order of their ordinals, and its rows beside them.

    A line of rows is ``{"ordinal":…,"key":…,"input":{…}}``, without ``input`` if no columns are kept.
    """

    def __init__(self, folder: Folder, index: StageIndex) -> None:
        self.folder = folder
        self.parts = index.parts
        self.rows = index.rows
        self.bytes = index.bytes
        self.rows_sha256 = index.rows_sha256

    @classmethod
    def open(cls, folder: Folder) -> Stage | None:
        """The stage in a folder; ``None`` if none was completed there.

        :raises StorageError: That cannot be told.
        :raises LedgerError: There is something that is no stage.
        """
        content = folder.get(_INDEX)
        if content is None:
            return None
        try:
            return cls(folder, StageIndex.model_validate_json(content))
        except ValidationError as error:
            raise LedgerError(
                f"{folder.uri(_INDEX)} was written by another release, or by something else ({error.error_count()} "
                "fields do not fit). Nothing was submitted, since going on could pay twice. Delete that file if the "
                "run's batches are not wanted any more; a retry then reads the source again."
            ) from error

    def requests(self, part: StagePart, attempt: int = 1) -> BinaryIO:
        """What is uploaded for an attempt: OpenAI batch lines whose ``custom_id`` is the row's ordinal.

        :raises StorageError: It is not there, or cannot be read.
        """
        return self.folder.read(part.requests_name(attempt))

    def rows_of(self, part: StagePart) -> BinaryIO:
        """The keys and columns of a part's rows.

        :raises StorageError: They are not there, or cannot be read.
        """
        return self.folder.read(part.rows_name)

    def ordinals(self, part: StagePart, attempt: int = 1) -> Ordinals:
        """The rows that an attempt asks for.

        :raises StorageError: They cannot be read.
        """
        if attempt == 1 and part.last - part.first + 1 == part.rows:
            return range(part.first, part.last + 1)
        with self.requests(part, attempt) as stream:
            return array("Q", (ordinal for ordinal, _ in _numbered(stream)))

    def write_subset(self, part: StagePart, attempt: int, ordinals: Iterable[int]) -> Subset:
        """Write what an attempt after the first asks for: the lines of these rows. Repeating it writes the same.

        :param ordinals: In any order; those of other parts are left out.
        :raises StorageError: It could not be written.
        """
        wanted = bytearray(part.last - part.first + 1)  # one byte a row
        for ordinal in ordinals:
            if part.first <= ordinal <= part.last:
                wanted[ordinal - part.first] = 1
        digest = hashlib.sha256()
        rows = size = 0
        with self.requests(part) as stream, self.folder.write(part.requests_name(attempt)) as out:
            for block, count in _chosen(stream, wanted, part.first):
                rows += count
                size += out.write(block)
                digest.update(block)
        return Subset(rows, size, digest.hexdigest())

    def delete(self) -> None:
        """Delete it, its index first, so that a half-deleted stage is none.

        :raises StorageError: Something could not be deleted.
        """
        self.folder.delete(_INDEX)
        self.folder.delete_tree()


def write_stage(
    folder: Folder,
    rows: Iterable[Row],
    *,
    limits: SplitLimits,
    check: Callable[[], LineCheck | None] | None = None,
    unique_key: bool = False,
    log: FilteringBoundLogger,
) -> Stage:
    """Stage an input. What lies in the folder is replaced; what cannot be staged whole leaves nothing.

    :param rows: Read once, to their end.
    :param check: Makes what the provider asks of the lines of one part besides, if anything: ``adapter.line_check``.
    :param unique_key: Whether two rows with the same key are an error.
    :raises BatchInputError: The input is empty, a row cannot be sent, or two rows have the same key.
    :raises StorageError: The stage could not be written.
    """
    folder.delete(_INDEX)
    folder.delete_tree()
    staging = Staging(folder, limits, check, unique_key=unique_key, log=log)
    try:
        with staging:
            index = staging.staged(rows)
        folder.put(_INDEX, index.model_dump_json().encode())
    except BaseException:
        with suppress(StorageError):
            folder.delete_tree()
        raise
    return Stage(folder, index)


def _numbered(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    for line in split_lines(read_blocks(stream)):
        yield int(line[_ORDINAL_AT : line.index(b'"', _ORDINAL_AT)]), line


def _chosen(stream: BinaryIO, wanted: bytearray, first: int) -> Iterator[tuple[bytes, int]]:
    """Blocks of the wanted lines, and how many there are in each."""
    lines: list[bytes] = []
    size = 0
    for ordinal, line in _numbered(stream):
        if wanted[ordinal - first]:
            lines.append(line)
            size += len(line)
            if size >= _BLOCK_BYTES:
                yield b"\n".join(lines) + b"\n", len(lines)
                lines, size = [], 0
    if lines:
        yield b"\n".join(lines) + b"\n", len(lines)
