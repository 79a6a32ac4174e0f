"""Whether every row has a key of its own, told on disk, since the keys of a large input do not fit into memory.

Of each key 16 bytes of its hash are kept, sorted into 256 piles, and the piles are searched one by one at the end.
Memory: a block for each pile, and a 256th of the hashes. Disk: 24 bytes a row.
"""

from __future__ import annotations

import hashlib
import struct
import tempfile
from array import array
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from typing import BinaryIO

_PILES: Final = 256
_ENTRY: Final = struct.Struct("<16sQ")
_BLOCK_BYTES: Final = 128 * _ENTRY.size


class UniqueKeys:
    """Keys by the ordinals of their rows."""

    def __init__(self) -> None:
        # One file for all piles: with a file each, other machines' limits on open files would be reached.
        self._file = cast("BinaryIO", tempfile.TemporaryFile())  # noqa: SIM115 - closed by ``close``
        self._end = 0
        self._blocks = [bytearray() for _ in range(_PILES)]
        self._offsets = [array("Q") for _ in range(_PILES)]

    def add(self, key: bytes, ordinal: int) -> None:
        digest = hashlib.blake2b(key, digest_size=16).digest()
        pile = digest[0]
        block = self._blocks[pile]
        block += _ENTRY.pack(digest, ordinal)
        if len(block) >= _BLOCK_BYTES:
            self._offsets[pile].append(self._end)
            self._end += self._file.write(block)
            block.clear()

    def first_repeated(self) -> tuple[int, int] | None:
        """The first row that has the key of an earlier one, and that one; ``None`` if there is none."""
        found: list[tuple[int, int]] = []
        for pile in range(_PILES):
            first: dict[bytes, int] = {}
            for digest, ordinal in self._entries(pile):
                earlier = first.setdefault(digest, ordinal)
                if earlier != ordinal:
                    found.append((ordinal, earlier))
                    break
        return min(found, default=None)

    def close(self) -> None:
        self._file.close()

    def _entries(self, pile: int) -> list[tuple[bytes, int]]:
        stored = bytearray()
        for offset in self._offsets[pile]:
            self._file.seek(offset)
            stored += self._file.read(_BLOCK_BYTES)
        return list(_ENTRY.iter_unpack(stored + self._blocks[pile]))
