"""One look at all batches of a connection that are due: through the provider's list, and singly."""

from __future__ import annotations

import asyncio
import random
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, TypeVar

from airflow_provider_llmbatch.core.watcher.reading import PAGE_SIZE, Pages, Reading, pages_to_read
from airflow_provider_llmbatch.errors import AccessRefusedError, LLMBatchError, RateLimitError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from airflow_provider_llmbatch.adapters.base import Adapter
    from airflow_provider_llmbatch.core.telemetry import Telemetry
    from airflow_provider_llmbatch.core.watcher.route import Route
    from airflow_provider_llmbatch.core.watcher.watched import WatchedBatches
    from airflow_provider_llmbatch.models import Batch

ResultT = TypeVar("ResultT")

_SINGLE_CALLS_AT_ONCE: Final = 4  # of one connection, so that it leaves threads to the others
_FAILURES_THAT_TELL: Final = 3  # single calls in a row that fail tell of the connection, and not of a batch
_LIST_FAILURES: Final = 3  # in a row, before it is tried without the list
_SECONDS_WITHOUT_LIST: Final = 600.0
_SECONDS_OF_KNOWN_PAGES: Final = 3600.0


class Cycles:
    """Makes one cycle after the other; what it learns of the list serves the next ones.

    :param name: The connection's id.
    :param time: Seconds, of any origin.
    """

    def __init__(
        self, name: str, route: Route, batches: WatchedBatches, time: Callable[[], float], telemetry: Telemetry
    ) -> None:
        self._name = name
        self._route = route
        self._batches = batches
        self._time = time
        self._telemetry = telemetry
        self._jitter = 0.0  # one for all batches of a cycle, so that they stay together
        self._page_size = PAGE_SIZE
        self._list_failures = 0
        self._list_again_at = 0.0
        self._forget_pages_at = time() + _SECONDS_OF_KNOWN_PAGES
        self._troubles = 0
        self._is_forgiven = False
        self.pages_read = 0
        """Of the list, in the last look."""

    async def look(self) -> LLMBatchError | None:
        """Look at all batches that are due, with no more calls than there are batches; what is left over is due soon.

        :return: What ails the connection, rather than single batches.
        """
        self._jitter = random.uniform(-1.0, 1.0)
        self.pages_read = 0
        trouble: LLMBatchError | None = None
        refused: dict[str, AccessRefusedError] = {}
        told: set[str] = set()
        try:
            await self._route.open()
        except LLMBatchError as error:
            trouble = error
        else:
            survey = self._batches.survey()
            await asyncio.sleep(0)  # with thousands of batches, each of these steps takes milliseconds
            expected = Pages(survey.pages, self._page_size).worth_looking_for(survey.due, survey.soon)
            await asyncio.sleep(0)
            pages, shown, trouble = await self._read_list(expected)
            self.pages_read = pages
            if trouble is None:
                left = [batch_id for batch_id in survey.due if batch_id not in shown]
                most = len(expected) - pages
                self._batches.postpone(left[most:])
                calls = await self._ask_singly(left[:most])
                trouble, refused, told = calls.trouble, calls.refused, calls.told
                if trouble is None and self._list_failures >= _LIST_FAILURES:
                    self._do_without_list()
        await self._tell(trouble, refused, told)
        await self._batches.wake_all()
        return trouble

    async def _read_list(self, expected: dict[str, int]) -> tuple[int, set[str], LLMBatchError | None]:
        """Read the list as far as it pays; returns how many calls that took, and which batches it showed."""
        reading = Reading(expected, pages_to_read(expected.values()) if self._may_list() else 0)
        pages: Iterator[Sequence[Batch]] | None = None

        def next_page(adapter: Adapter) -> Sequence[Batch] | None:
            nonlocal pages
            pages = pages or adapter.batch_pages()
            return next(pages, None)

        shown: set[str] = set()
        while reading.goes_on:
            try:
                page = await self._call(next_page, "list")
            except LLMBatchError as error:
                return reading.pages + 1, shown, self._list_trouble(error)
            if page is None:
                break
            self._list_failures = 0
            if not reading.pages:
                self._page_size = max(len(page), 1)
            ours = await self._batches.see_page(page, reading.pages + 1, jitter=self._jitter)
            shown.update(ours)
            reading.took(page[-1].id if page else "", ours)
        for batch_id, page_number in reading.missed.items():
            self._batches.expect(batch_id, page_number)
        return reading.pages, shown, None

    def _may_list(self) -> bool:
        now = self._time()
        if now >= self._forget_pages_at:  # new batches push others back, and lists catch up
            self._batches.forget_pages()
            self._forget_pages_at = now + _SECONDS_OF_KNOWN_PAGES
        return now >= self._list_again_at

    def _list_trouble(self, error: LLMBatchError) -> LLMBatchError | None:
        """What a failure of the list means: nothing, if the batches may still be asked for singly."""
        if error.status_code == HTTPStatus.UNAUTHORIZED or isinstance(error, RateLimitError):
            return error
        if isinstance(error, UnavailableError):
            self._list_failures += 1
            # Perhaps the list alone is broken: single calls tell.
            return error if self._list_failures < _LIST_FAILURES else None
        self._do_without_list()  # there is none, or none for this key
        return None

    def _do_without_list(self) -> None:
        self._list_again_at = self._time() + _SECONDS_WITHOUT_LIST
        self._list_failures = 0

    async def _ask_singly(self, batch_ids: Sequence[str]) -> _SingleCalls:
        async def look(batch_id: str) -> Batch:
            return await self._call(lambda adapter: adapter.retrieve_batch(batch_id), "single")

        calls = _SingleCalls(batch_ids, look, self._batches, self._jitter)
        at_once = min(1 if self._troubles or self._route.is_doubtful else _SINGLE_CALLS_AT_ONCE, len(batch_ids))
        await asyncio.gather(*(calls.make() for _ in range(at_once)))
        return calls

    async def _call(self, function: Callable[[Adapter], ResultT], kind: str) -> ResultT:
        self._telemetry.count("poll.calls", connection=self._name, kind=kind)
        try:
            return await self._route.call(function)
        except LLMBatchError as error:
            self._telemetry.count("poll.errors", connection=self._name, error=type(error).__name__)
            raise

    async def _tell(
        self, trouble: LLMBatchError | None, refused: dict[str, AccessRefusedError], told: set[str]
    ) -> None:
        is_refused = bool(refused) or isinstance(trouble, AccessRefusedError)
        if is_refused:
            has_changed = await self._route.renew()
            if has_changed and not self._is_forgiven:
                self._is_forgiven = True  # once in a row: some backends say something else each time
                return
        self._is_forgiven = False
        if trouble is None:
            self._troubles = 0
            await self._batches.see(refused, jitter=self._jitter)
            return
        self._troubles += 1
        # What passes is told when it has come twice: a single failure is nothing to write into thousands of logs.
        if self._troubles > 1 or not isinstance(trouble, UnavailableError):
            await self._batches.see_everywhere(trouble, besides=told, jitter=self._jitter)


class _SingleCalls:
    """Single calls for batches, by several coroutines at once, until one of them tells of the connection.

    :param look: Makes one call.
    """

    def __init__(
        self, batch_ids: Sequence[str], look: Callable[[str], Awaitable[Batch]], batches: WatchedBatches, jitter: float
    ) -> None:
        self._left = iter(batch_ids)
        self._look = look
        self._batches = batches
        self._jitter = jitter
        self._failures_in_a_row = 0
        self.trouble: LLMBatchError | None = None
        self.refused: dict[str, AccessRefusedError] = {}
        """Not told yet."""
        self.told: set[str] = set()
        """Those whose failure was told."""

    async def make(self) -> None:
        while self.trouble is None and (batch_id := next(self._left, None)) is not None:
            try:
                look: Batch | LLMBatchError = await self._look(batch_id)
            except LLMBatchError as error:
                look = error
            self._count(batch_id, look)
            if not isinstance(look, AccessRefusedError):
                await self._batches.see({batch_id: look}, jitter=self._jitter)

    def _count(self, batch_id: str, look: Batch | LLMBatchError) -> None:
        if isinstance(look, AccessRefusedError):
            self.refused[batch_id] = look
        elif isinstance(look, UnavailableError):
            self.told.add(batch_id)
        else:
            self._failures_in_a_row = 0
            return
        self._failures_in_a_row += 1
        tells = look.status_code == HTTPStatus.UNAUTHORIZED or isinstance(look, RateLimitError)
        if tells or self._failures_in_a_row >= _FAILURES_THAT_TELL:
            self.trouble = look
