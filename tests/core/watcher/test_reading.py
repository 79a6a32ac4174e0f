"""When the list is read and when it is left: calls are counted over accounts of every kind."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_llmbatch.core.watcher.reading import UNKNOWN, Pages, Reading, pages_to_read

PAGE = 10


def cycle(account: list[str], pages: dict[str, int]) -> tuple[int, int]:
    """One cycle on an account, newest first; returns the pages read and the batches asked for singly.

    ``pages`` holds the batches that are due, and learns where they are.
    """
    expected = Pages(pages, PAGE).expected(pages)
    reading = Reading(expected, pages_to_read(expected.values()))
    shown: set[str] = set()
    while reading.goes_on and reading.pages * PAGE < len(account):
        page = account[reading.pages * PAGE :][:PAGE]
        ours = [batch_id for batch_id in page if batch_id in pages]
        pages.update(dict.fromkeys(ours, reading.pages + 1))
        shown.update(ours)
        reading.took(page[-1], ours)
    pages.update(reading.missed)
    return reading.pages, len(pages) - len(shown)


def account_of(watched: int, *, foreign_before: int = 0, foreign_after_each: int = 0) -> list[str]:
    account = [f"foreign-{n}" for n in range(foreign_before)]
    for n in range(watched):
        account += [f"ours-{n}", *(f"foreign-{n}-{k}" for k in range(foreign_after_each))]
    return account


def unknown(watched: int) -> dict[str, int]:
    return {f"ours-{n}": UNKNOWN for n in range(watched)}


def test_an_account_of_our_own_is_read_page_by_page_and_nothing_is_asked_for_singly() -> None:
    assert cycle(account_of(1_000, foreign_after_each=0), unknown(1_000)) == (100, 0)


def test_few_batches_are_asked_for_singly() -> None:
    assert [cycle(account_of(n), unknown(n)) for n in range(6)] == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 0)]


def test_reading_ends_with_the_last_batch_that_is_looked_for_however_long_the_list_is() -> None:
    assert cycle([*account_of(25), *(f"old-{n}" for n in range(10_000))], unknown(25)) == (3, 0)


def test_foreign_batches_in_between_are_read_past_as_long_as_that_saves_calls() -> None:
    assert cycle(account_of(100, foreign_after_each=3), unknown(100)) == (40, 0)


def test_batches_that_the_list_never_shows_are_soon_asked_for_without_it() -> None:
    account, due = [f"foreign-{n}" for n in range(100_000)], unknown(200)
    pages = [cycle(account, due)[0] for _ in range(12)]
    assert pages == [23, 68, *[0] * 10]


def test_batches_far_back_in_the_list_are_asked_for_singly_while_the_front_is_read() -> None:
    account = [*account_of(40), *(f"foreign-{n}" for n in range(1_000)), "far-1", "far-2"]
    due = {**unknown(40), "far-1": UNKNOWN, "far-2": UNKNOWN}
    assert [cycle(account, due) for _ in range(3)] == [(7, 2), (4, 2), (4, 2)]


def test_batches_that_were_never_seen_are_looked_for_behind_those_that_were() -> None:
    seen = {f"seen-{n}": n // PAGE + 1 for n in range(25)}
    pages = Pages({**seen, **unknown(20)}, PAGE)
    assert pages.expected(unknown(20)) == {f"ours-{n}": 3 if n < 5 else 4 if n < 15 else 5 for n in range(20)}


def test_batches_that_soon_are_due_are_taken_along_only_where_due_ones_would_be_asked_for_singly() -> None:
    pages = Pages({f"ours-{n}": n // PAGE + 1 for n in range(100)}, PAGE)
    everything = [f"ours-{n}" for n in range(100)]
    scattered, together = everything[::15], everything[:10]
    assert list(pages.worth_looking_for(scattered, everything)) == everything
    assert list(pages.worth_looking_for(together, everything)) == together


def test_batches_that_begin_to_be_watched_anywhere_in_the_list_are_found_by_reading_it() -> None:
    account = [f"ours-{n}" for n in range(1_000)]
    first, rest = dict.fromkeys(account[-600:], UNKNOWN), dict.fromkeys(account[:-600], UNKNOWN)
    assert cycle(account, first) == (100, 0)
    assert cycle(account, rest) == (40, 0)


def test_a_page_that_comes_again_ends_the_reading() -> None:
    expected = Pages(unknown(100), PAGE).expected(unknown(100))
    reading = Reading(expected, pages_to_read(expected.values()))
    reading.took("b", [])
    assert reading.goes_on
    reading.took("c", [])
    reading.took("b", [])
    assert not reading.goes_on


@settings(max_examples=40)
@given(
    account=st.lists(st.booleans(), max_size=200),
    unlisted=st.integers(0, 20),
    hints=st.lists(st.integers(0, 40), min_size=220, max_size=220),
)
def test_no_cycle_needs_many_more_calls_than_there_are_batches(
    account: list[bool], unlisted: int, hints: list[int]
) -> None:
    ids = [f"{'ours' if ours else 'foreign'}-{n}" for n, ours in enumerate(account)]
    due = [batch_id for batch_id in ids if batch_id.startswith("ours")] + [f"ours-hidden-{n}" for n in range(unlisted)]
    pages = dict(zip(due, hints, strict=False))
    for _ in range(4):
        read, singly = cycle(ids, pages)
        assert read <= len(due)
        assert read + singly <= 2 * len(due)
    assert sum(cycle(ids, dict(pages))) <= 1.5 * len(due) + 3
