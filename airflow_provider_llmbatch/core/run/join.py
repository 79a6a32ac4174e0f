"""The answers of all attempts at a part, one for each of its rows, by the row's place in the part.

Answers come in no order, and a row may have several, so an index of 12 bytes a row says which one counts and where it
is. Memory: that index, and one line.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from array import array
from bisect import bisect_left
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final, cast

from airflow_provider_llmbatch.adapters.lines import split_lines
from airflow_provider_llmbatch.core.jsonl import read_blocks
from airflow_provider_llmbatch.core.run.answers import answers_name
from airflow_provider_llmbatch.errors import ResultSetError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import BinaryIO

    from airflow_provider_llmbatch.core.run.stage import Ordinals
    from airflow_provider_llmbatch.core.storage import Folder

# An entry of the index: rank of the outcome, number of the file from 1, and offset in it; 0 where there is nothing yet.
_RANK: Final = 62
_FILE: Final = 54
_OFFSETS: Final = (1 << _FILE) - 1
_FILES: Final = (1 << _RANK - _FILE) - 1
_RANK_OF: Final = {b"succ": 2, b"inva": 1}  # the rest weighs nothing: of those, the last attempt's counts

_ORDINAL_AT: Final = len(b'{"ordinal":')
_OUTCOME: Final = b'"outcome":"'
_WORD_AT: Final = len(_OUTCOME)


class BestAnswers:
    """One answer for each row: a succeeded one, else an invalid one, else what the last attempt said.

    :param streams: The files of answers, in the order of their attempts; local.
    :raises ResultSetError: A line is none of these rows' answers.
    """

    def __init__(self, streams: Sequence[tuple[str, BinaryIO]], ordinals: Ordinals) -> None:
        self._files = [stream.fileno() for _, stream in streams]
        self._index = array("Q", bytes(8 * len(ordinals)))
        self._lengths = array("I", bytes(4 * len(ordinals)))
        for number, (name, stream) in enumerate(streams, 1):
            try:
                self._enter(number, stream, ordinals)
            except ValueError as error:
                raise ResultSetError(
                    f"{name} in the stage is not what was landed ({error}). Nothing was published; what was billed "
                    "can be landed again as long as the provider keeps it. Delete that file and clear the task."
                ) from error

    def tail(self, place: int) -> bytes | None:
        """The answer from ``"outcome"`` to its closing brace; ``None`` if no attempt has one."""
        entry = self._index[place]
        if not entry:
            return None
        # Not through a buffer, which would read a block for each line that is out of order.
        return os.pread(self._files[(entry >> _FILE & _FILES) - 1], self._lengths[place], entry & _OFFSETS)

    def _enter(self, number: int, stream: BinaryIO, ordinals: Ordinals) -> None:
        index, lengths, place_of, rank_of = self._index, self._lengths, _places(ordinals), _RANK_OF.get
        offset = 0
        for line in split_lines(read_blocks(stream)):
            size = len(line)
            end = line.index(b",", _ORDINAL_AT)
            place = place_of(int(line[_ORDINAL_AT:end]))
            tail = line.index(_OUTCOME, end)
            rank = rank_of(line[tail + _WORD_AT : tail + _WORD_AT + 4], 0)
            before = index[place]
            if not before or rank > before >> _RANK or not rank | before >> _RANK:
                index[place] = rank << _RANK | number << _FILE | offset + tail
                lengths[place] = size - tail
            offset += size + 1


def _places(ordinals: Ordinals) -> Callable[[int], int]:
    """Where an ordinal stands; raises ``ValueError`` for one that is of another part."""
    if isinstance(ordinals, range):
        return ordinals.index

    def place(ordinal: int) -> int:
        found = bisect_left(ordinals, ordinal)
        if found == len(ordinals) or ordinals[found] != ordinal:
            raise ValueError(f"{ordinal} is not in this part")
        return found

    return place


@contextmanager
def best_answers(folder: Folder, part: int, attempts: Sequence[int], ordinals: Ordinals) -> Iterator[BestAnswers]:
    """Open what the attempts at a part landed; from an object store it is copied to this machine first.

    :param attempts: In ascending order; one that landed nothing is left out.
    """
    with ExitStack() as files:
        streams: list[tuple[str, BinaryIO]] = []
        for attempt in attempts:
            name = answers_name(part, attempt)
            stream = files.enter_context(folder.read(name))
            if folder.local is None:
                scratch = cast("BinaryIO", files.enter_context(tempfile.TemporaryFile()))
                shutil.copyfileobj(stream, scratch, 1024 * 1024)
                scratch.seek(0)
                stream.close()
                stream = scratch
            streams.append((folder.uri(name), stream))
        yield BestAnswers(streams, ordinals)
