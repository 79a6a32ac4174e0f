"""Which batches to see through the provider's list, and which by a call each. Pure.

A page shows many batches for one call, but perhaps none of ours: accounts hold other people's batches, and lists lag.
So each batch remembers the page it was last seen on, the cheapest cut is made between the pages that are read and the
batches that are asked for singly, and reading goes on only as long as it pays. Pages count from 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PAGE_SIZE: Final = 100
"""How many batches a page shows as long as none was seen; what OpenAI and Vertex AI are asked for."""

UNKNOWN: Final = 0
"""The page of a batch that was never looked for in the list."""

_FEW: Final = 4  # fewer than so many are asked for singly: a page weighs more than a batch
_WORTH: Final = 2  # batches that a page has to show on average to be planned for: their positions are guesses
_SLACK: Final = 2  # pages read beyond the plan, since new batches push the older ones back
_PATIENCE: Final = 3  # pages read after one that paid


def expected_pages(pages: Mapping[str, int], page_size: int) -> dict[str, int]:
    """Where each batch is looked for: those that were never seen are taken to fill the first pages.

    :param pages: By batch, the page it was last seen on.
    """
    expected, unknown = {}, 0
    for batch_id, page in pages.items():
        expected[batch_id] = page or unknown // page_size + 1
        unknown += page == UNKNOWN
    return expected


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
        self._unseen = set(expected)
        self._hoped_for = {batch_id for batch_id, page in expected.items() if page <= planned}
        self._limit = min(planned + _SLACK, len(expected)) if planned else 0
        self._last_ids: set[str] = set()
        self._repeats = False

    @property
    def goes_on(self) -> bool:
        """Whether another page may save calls: the last batch that is looked for takes one anyway."""
        return len(self._hoped_for) > 1 and self.pages < self._limit and not self._repeats

    def took(self, last_id: str, shown: Iterable[str]) -> None:
        """Count a page.

        :param last_id: The last batch on it, whosever it is: a page that ends as an earlier one is that page.
        :param shown: Which of the batches that are looked for are on it.
        """
        self.pages += 1
        before = len(self._unseen)
        self._unseen.difference_update(shown)
        self._hoped_for &= self._unseen
        if before - len(self._unseen) > 1:
            self._limit = min(max(self._limit, self.pages + _PATIENCE), len(self._expected))
        self._repeats = last_id in self._last_ids
        self._last_ids.add(last_id)

    @property
    def missed(self) -> dict[str, int]:
        """The batches that were not where they were looked for, and the pages to look on next time: further back."""
        expected = {batch_id: self._expected[batch_id] for batch_id in self._unseen}
        return {batch_id: 2 * self.pages for batch_id, page in expected.items() if page <= self.pages}
