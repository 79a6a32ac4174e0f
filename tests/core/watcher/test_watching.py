"""The watcher on a clock that jumps: how many calls it makes and when, whom it wakes, and what ends a wait."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
from typing import Any

import pytest
from support.heard import Heard
from support.virtual_time import EPOCH
from support.watching import DAY, Bench, HangError, Key, PagedProvider, account, names, plan_of, watched

from airflow_provider_llmbatch.core.joint_wait import Due, Ended, JointVerdict
from airflow_provider_llmbatch.core.polling import OutOfTime
from airflow_provider_llmbatch.errors import (
    RateLimitError,
    UnavailableError,
)
from airflow_provider_llmbatch.models import Batch

HOUR = 3_600.0
DOWN = UnavailableError("The provider is down.", status_code=503)


def test_a_thousand_tasks_that_begin_together_share_ten_calls_and_only_whose_batch_changed_wakes() -> None:
    provider = account(1_000)

    async def play(made: Bench) -> None:
        tasks = [made.wait(batch_id) for batch_id in names(1_000)]
        await asyncio.sleep(5)
        assert provider.calls_of("list") == provider.calls_of() == 10
        assert [len(task.told) for task in tasks] == [1] * 1_000
        provider.change("batch_00007", request_counts={"total": 9, "completed": 4})
        await asyncio.sleep(20)
        assert provider.calls_of() == 20
        assert [n for n, task in enumerate(tasks) if len(task.told) > 1] == [7]
        provider.finish("batch_00123")
        await asyncio.sleep(20)
        assert tasks[123].verdict == Ended()
        assert [task.verdict for task in tasks].count(None) == 999
        assert made.keys == ["key-1"]

    watched(provider, play)


@pytest.mark.parametrize(
    ("count", "max_interval", "seconds"), [(100, 300.0, 10), (1_000, 300.0, 20), (1_000, 12.0, 12), (5_000, 300.0, 30)]
)
def test_a_long_list_is_read_the_less_often_the_more_pages_it_has_however_tasks_came(
    count: int, max_interval: float, seconds: float
) -> None:
    provider = account(count)

    async def play(made: Bench) -> None:
        for number, batch_id in enumerate(names(count), 1):
            made.wait(batch_id, longest=max_interval)
            if number % (count // 20) == 0:
                await asyncio.sleep(1)
        await asyncio.sleep(40)
        provider.made.clear()
        await asyncio.sleep(120)
        begun = sorted({call.at for call in provider.made})
        assert provider.calls_of("list") == provider.calls_of() == len(begun) * count // provider.page_size
        assert {later - earlier for earlier, later in itertools.pairwise(begun)} == {seconds}

    watched(provider, play)


def test_what_a_task_is_told_is_small() -> None:
    provider = account(1)
    provider.change("batch_00000", metadata={"note": "x" * 500}, input_file_id="file-1", in_progress_at=int(EPOCH))

    async def play(made: Bench) -> None:
        task = made.wait("batch_00000")
        await asyncio.sleep(5)
        [told] = task.told
        batch = told["batch_00000"]
        assert isinstance(batch, Batch)
        assert batch.model_dump(exclude_none=True, exclude_defaults=True) == {
            "id": "batch_00000",
            "status": "in_progress",
            "created_at": int(EPOCH),
            "in_progress_at": int(EPOCH),
        }

    watched(provider, play)


def test_old_batches_are_looked_at_seldom_and_the_young_ones_need_one_page() -> None:
    provider = account(1_000, age=DAY / 2)
    provider.hold("young_1", "young_2", "young_3", "young_4", "young_5")

    async def play(made: Bench) -> None:
        for batch_id in list(provider.batches):
            made.wait(batch_id, deadline=2 * DAY)
        await asyncio.sleep(265)
        cycles = [call.at for call in provider.made]
        assert cycles[:11] == [1.0] * 11
        assert len(cycles) - 11 == len(set(cycles[11:])) == 24  # a page each, at pauses that begin to grow
        await asyncio.sleep(40)
        assert provider.calls_of() - len(cycles) in (11 + 1, 11 + 2, 11 + 3)

    watched(provider, play)


def test_an_account_with_many_foreign_batches_never_costs_more_calls_than_batches() -> None:
    provider = account(60, foreign=300, age=DAY / 2)

    async def play(made: Bench) -> None:
        tasks = [made.wait(batch_id, deadline=3 * DAY) for batch_id in names(60)]
        await asyncio.sleep(2 * HOUR)
        by_cycle: dict[float, int] = {}
        for call in provider.made:
            by_cycle[call.at] = by_cycle.get(call.at, 0) + 1
        assert max(by_cycle.values()) <= 60
        assert all(task.told for task in tasks)

    watched(provider, play)


def test_what_the_list_does_not_show_yet_is_asked_for_singly_in_the_same_cycle() -> None:
    provider = account(200)
    provider.hidden = set(names(200)[-3:])

    async def play(made: Bench) -> None:
        tasks = [made.wait(batch_id) for batch_id in names(200)]
        await asyncio.sleep(5)
        assert all(task.told for task in tasks)
        assert sorted(call.what for call in provider.made) == [*sorted(provider.hidden), "list", "list"]
        provider.hidden = set()
        await asyncio.sleep(10)
        assert provider.calls_of() == 5 + 2

    watched(provider, play)


def test_a_server_that_repeats_its_first_page_is_read_twice() -> None:
    provider = account(500)
    provider.repeats = True

    async def play(made: Bench) -> None:
        tasks = [made.wait(batch_id) for batch_id in names(500)]
        await asyncio.sleep(5)
        assert provider.calls_of("list") == 2
        assert provider.calls_of() == 500 - 100 + 2
        assert all(task.told for task in tasks)

    watched(provider, play)


def test_a_batch_that_the_list_calls_otherwise_is_known_by_that_name_after_one_look() -> None:
    provider = account(100)
    provider.listed_id = lambda batch_id: f"projects/123/{batch_id}"

    async def play(made: Bench) -> None:
        tasks = [made.wait(batch_id) for batch_id in names(100)]
        await asyncio.sleep(5)
        before = provider.calls_of()
        provider.finish("batch_00042")
        await asyncio.sleep(10)
        assert provider.calls_of() - before <= 2
        assert [n for n, task in enumerate(tasks) if task.verdict == Ended()] == [42]

    watched(provider, play)


@pytest.mark.parametrize(
    ("more", "verdict", "at"),
    [
        ({"deadline": 95.0}, OutOfTime(), 95.0),
        ({"deadline": -1_000.0}, OutOfTime(), 1.0),
        ({"resubmit_at": EPOCH + 42.0}, Due(), 42.0),
    ],
    ids=["deadline", "passed long ago", "moment of what waits for room"],
)
def test_time_ends_a_wait(more: dict[str, Any], verdict: JointVerdict, at: float) -> None:
    async def play(made: Bench) -> None:
        task = made.wait(*names(3), **more)
        await made.running[0]
        assert (task.verdict, asyncio.get_running_loop().time()) == (verdict, pytest.approx(at))

    watched(account(3), play)


def test_a_wait_for_nothing_but_a_moment_makes_no_call() -> None:
    provider = account(3)

    async def play(made: Bench) -> None:
        task = made.wait(resubmit_at=EPOCH + 42.0)
        await made.running[0]
        assert (task.verdict, provider.calls_of(), made.keys) == (Due(), 0, [])

    watched(provider, play)


@pytest.mark.parametrize("trouble", [DOWN, RateLimitError("Slow down.", retry_after=DAY), HangError()])
def test_the_deadline_is_kept_while_nothing_answers(trouble: Exception) -> None:
    provider = account(200)

    def plan(_: str) -> None:
        raise trouble

    async def play(made: Bench) -> None:
        tasks = [made.wait(batch_id, deadline=100.0) for batch_id in names(200)]
        provider.plan = plan
        await asyncio.gather(*made.running)
        assert [task.verdict for task in tasks] == [OutOfTime()] * 200
        assert 100.0 <= asyncio.get_running_loop().time() <= 131.0

    watched(provider, play)


def test_a_batch_that_ended_before_its_deadline_passed_has_ended() -> None:
    provider = account(1)

    async def play(made: Bench) -> None:
        provider.finish("batch_00000")
        task = made.wait("batch_00000", deadline=-1_000.0)
        await asyncio.sleep(2)
        assert task.verdict == Ended()

    watched(provider, play)


def test_the_parts_of_a_run_are_told_of_together_and_end_it_together() -> None:
    provider = account(300)
    parts = names(300)[::100]

    async def play(made: Bench) -> None:
        for batch_id in names(300):
            made.wait(batch_id)
        run = made.wait(*parts)
        any_end = made.wait(*parts, any_end=True)
        await asyncio.sleep(5)
        provider.finish(parts[0])
        await asyncio.sleep(10)
        assert (run.verdict, any_end.verdict) == (None, Ended())
        for batch_id in parts[1:]:
            provider.finish(batch_id)
        await asyncio.sleep(10)
        assert run.verdict == Ended()
        assert [sorted(told) for told in run.told] == [parts, parts[:1], parts[1:]]

    watched(provider, play)


def test_two_tasks_that_wait_for_one_batch_are_told_by_one_call_each_by_its_own_deadline() -> None:
    provider = account(1)

    async def play(made: Bench) -> None:
        short, long = made.wait("batch_00000", deadline=50.0), made.wait("batch_00000", deadline=DAY)
        await asyncio.sleep(5)
        assert provider.calls_of() == 1
        await asyncio.sleep(60)
        assert (short.verdict, long.verdict) == (OutOfTime(), None)
        provider.finish("batch_00000")
        await asyncio.sleep(20)
        assert long.verdict == Ended()

    watched(provider, play)


def test_the_last_task_that_leaves_closes_everything_and_the_next_one_begins_anew() -> None:
    provider = account(2)

    async def play(made: Bench) -> None:
        first, second = names(2)
        made.wait(first)
        made.wait(second)
        await asyncio.sleep(5)
        made.running[0].cancel()
        await asyncio.sleep(50)
        assert (provider.times_closed, made.threads.is_closed) == (0, False)
        assert provider.calls_of(first) == 1
        await made.stop()
        assert (provider.times_closed, made.threads.is_closed) == (1, True)
        assert len(asyncio.all_tasks()) == 1
        again = made.wait(first)
        provider.finish(first)
        await asyncio.sleep(5)
        assert (again.verdict, made.keys, provider.times_closed) == (Ended(), ["key-1", "key-1"], 2)

    watched(provider, play)


def test_connections_are_watched_apart_and_none_waits_for_one_that_hangs() -> None:
    provider, dead = account(20), PagedProvider()
    dead.hold(*names(20))

    def hang(_: str) -> None:
        raise HangError

    dead.plan = hang

    async def play(made: Bench) -> None:
        made.key = lambda: Key(dead)
        hanging = [made.wait(batch_id, name="dead") for batch_id in names(20)]
        await asyncio.sleep(5)
        made.key = lambda: Key(provider)
        tasks = [made.wait(batch_id) for batch_id in names(20)]
        await asyncio.sleep(60)
        provider.finish("batch_00003")
        await asyncio.sleep(10)
        assert tasks[3].verdict == Ended()
        assert [task.told for task in hanging] == [[]] * 20
        assert dead.calls_of() == 1

    watched(provider, play)


def test_what_nobody_foresaw_fails_the_wait_that_met_it_and_no_other() -> None:
    provider = account(3)

    def plan(what: str) -> None:
        if what == "batch_00001":
            raise KeyError("sk-secret-in-a-key-error")

    async def play(made: Bench) -> None:
        provider.plan = plan
        tasks = [made.wait(batch_id) for batch_id in names(3)]
        await asyncio.sleep(5)
        assert [str(task.verdict and getattr(task.verdict, "error", "")) for task in tasks] == [
            "None",
            "Looking failed in a way that nobody foresaw (KeyError).",
            "None",
        ]

    watched(provider, play)


def test_a_mistake_of_the_watcher_s_own_fails_the_waits_instead_of_leaving_them_asleep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def mistaken(*_: object) -> None:
        raise ZeroDivisionError

    async def play(made: Bench) -> None:
        monkeypatch.setattr("airflow_provider_llmbatch.core.watcher.cycle.pages_to_read", mistaken)
        made.wait("batch_00000")
        with pytest.raises(ZeroDivisionError):
            await made.running.pop()
        monkeypatch.undo()
        task = made.wait("batch_00000")
        await asyncio.sleep(5)
        assert task.told

    watched(account(1), play)


def test_nothing_of_the_first_task_s_context_reaches_the_watcher() -> None:
    of_task: contextvars.ContextVar[str] = contextvars.ContextVar("of_task", default="none")
    seen: list[str] = []
    provider = account(1)

    async def play(made: Bench) -> None:
        def key() -> Key:
            seen.append(of_task.get())
            return Key(provider)

        made.key = key
        of_task.set("the first task")
        made.wait("batch_00000")
        await asyncio.sleep(HOUR)
        assert len(seen) > 1
        assert set(seen) == {"none"}

    watched(provider, play)


def test_metrics_tell_of_batches_calls_and_errors() -> None:
    provider, heard = account(20), Heard()

    async def play(made: Bench) -> None:
        for batch_id in names(20):
            made.wait(batch_id)
        await asyncio.sleep(5)
        provider.plan = plan_of(DOWN, times=1)
        await asyncio.sleep(10)
        await made.stop()
        call = ("poll.calls", 1, {"connection": "conn", "kind": "list"})
        assert heard.told == [
            call,
            ("batches.watched", 20, {"connection": "conn"}),
            call,
            ("poll.errors", 1, {"connection": "conn", "error": "UnavailableError"}),
            ("batches.watched", 20, {"connection": "conn"}),
            ("batches.watched", 0, {"connection": "conn"}),
        ]

    watched(provider, play, telemetry=heard)
