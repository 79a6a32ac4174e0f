"""Which batches to see through the provider's list, and which by a call each. Pure.

A page shows many batches for one call, but perhaps none of ours: accounts hold other people's batches, and lists lag.
So each batch remembers the page it was last seen on, the cheapest cut is made between the pages that are read and the
batches that are asked for singly, and reading goes on only as long as it pays. Pages count from 1.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from itertools import count, repeat
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

PAGE_SIZE: Final = 100
"""How many batches a page shows as long as none was seen; what OpenAI and Vertex AI are asked for."""

UNKNOWN: Final = 0
"""The page of a batch that was never looked for in the list."""

_FEW: Final = 4  # fewer than so many are asked for singly: a page weighs more than a batch
_WORTH: Final = 2  # batches that a page has to show on average to be planned for: their positions are guesses
_SLACK: Final = 2  # pages read beyond the plan, since new batches push the older ones back
_PATIENCE: Final = 3  # pages read after one that paid
_SAVED_BY_ONE: Final = 10  # calls for each page that may be read for nothing
_VAIN: Final = 4  # reading ends when not even every fourth batch was where it was looked for


class Pages:
    """Where watched batches are in the list.

    :param of_watched: The page that each was last seen on.
    :param size: How many batches a page shows.
    """

    def __init__(self, of_watched: Mapping[str, int], size: int) -> None:
        self._of_watched = of_watched
        self._size = size

    def expected(self, batch_ids: Iterable[str]) -> dict[str, int]:
        """Where to look for batches: those that were never seen fill what others leave of the first pages."""
        pages = {batch_id: self._of_watched[batch_id] for batch_id in batch_ids}
        unknown = [batch_id for batch_id, page in pages.items() if page == UNKNOWN]
        if unknown:
            room = self._room()
            pages.update(zip(unknown, room, strict=False))
        return pages

    def worth_looking_for(self, due: Iterable[str], soon: Iterable[str]) -> dict[str, int]:
        """The batches to look for, and where: those that are due, and with them those that soon are, if that helps.

        It does where batches that the list shows are due one after the other: looked at together they become due
        together.
        """
        expected = self.expected(due)
        read = pages_to_read(expected.values())
        singly = sum(page > read for page in expected.values())
        return self.expected(soon) if singly >= _FEW else expected

    def _room(self) -> Iterator[int]:
        taken = Counter(self._of_watched.values())
        for page in count(1):
            yield from repeat(page, self._size - taken[page])


def pages_to_read(expected: Iterable[int]) -> int:
    """How many pages make the fewest calls, the batches beyond them asked for singly; 0 to read none."""
    pages = sorted(expected)
    best, fewest = 0, len(pages)
    for shown, page in enumerate(pages, 1):
        calls = page + len(pages) - shown
        if calls < fewest and shown >= max(_FEW, page * _WORTH):
            best, fewest = page, calls
    return best


class Reading:
    """One pass through the list.

    :param expected: The page of each batch that is looked for.
    :param planned: How many pages are worth it, as far as is known beforehand.
    """

    def __init__(self, expected: Mapping[str, int], planned: int) -> None:
        self.pages = 0
        self._expected = expected
        self._in_order = sorted(expected.values())
        self._unseen = set(expected)
        self._hoped_for = {batch_id for batch_id, page in expected.items() if page <= planned}
        self._limit = planned + _SLACK
        self._last_ids: set[str] = set()
        self._is_vain = False

    @property
    def goes_on(self) -> bool:
        """Whether another page may save calls: the last batch that is looked for takes one anyway."""
        most = min(self._limit + self._in_vain, len(self._expected))
        return len(self._hoped_for) > 1 and self.pages < most and not self._is_vain

    def took(self, last_id: str, shown: Collection[str]) -> None:
        """Count a page.

        :param last_id: The last batch on it, whosever it is: a page that ends as an earlier one is that page.
        :param shown: Which of the batches that are looked for are on it.
        """
        self.pages += 1
        before = len(self._unseen)
        self._unseen.difference_update(shown)
        self._hoped_for.difference_update(shown)
        if before - len(self._unseen) > 1:
            self._limit = max(self._limit, self.pages + _PATIENCE)
        overdue = bisect_right(self._in_order, self.pages - _SLACK - self._in_vain)
        seen = len(self._expected) - len(self._unseen)
        self._is_vain = last_id in self._last_ids or seen * _VAIN < overdue
        self._last_ids.add(last_id)

    @property
    def _in_vain(self) -> int:
        """How many pages may be read for nothing: few beside the calls that finding the batches would save."""
        return len(self._hoped_for) // _SAVED_BY_ONE

    @property
    def missed(self) -> dict[str, int]:
        """The batches that were hoped for in vain, and the pages to look on next time: further back."""
        if not self.pages:
            return {}
        return {batch_id: 2 * max(self.pages, self._expected[batch_id]) for batch_id in self._hoped_for}
