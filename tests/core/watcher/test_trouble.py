"""The watcher on a clock that jumps: outages, refusals, rotated keys, and whom they concern."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs
from support.watching import DAY, Bench, Key, account, names, plan_of, watched

from airflow_provider_llmbatch.core.polling import GiveUp
from airflow_provider_llmbatch.errors import (
    AccessRefusedError,
    ConnectionSettingsError,
    LLMBatchError,
    NotFoundError,
    RateLimitError,
    UnavailableError,
)
from airflow_provider_llmbatch.models import Batch

HOUR = 3_600.0
DOWN = UnavailableError("The provider is down.", status_code=503)
REFUSED = AccessRefusedError("The provider refuses the key.", status_code=401)


def test_an_outage_of_hours_is_told_once_and_its_end_too() -> None:
    provider = account(120)

    async def play(made: Bench) -> None:
        tasks = [made.wait(batch_id) for batch_id in names(120)]
        await asyncio.sleep(60)
        provider.plan = plan_of(DOWN)
        before = provider.calls_of()
        with capture_logs() as lines:
            await asyncio.sleep(5 * HOUR)
            assert provider.calls_of() - before < 5 * HOUR / 300 * 4 + 20
            provider.plan = lambda _: None
            before = provider.calls_of()
            await asyncio.sleep(330)
            assert provider.calls_of() - before < 10
        assert [len(task.told) for task in tasks] == [3] * 120
        assert all(task.told[1].popitem()[1] is DOWN for task in tasks)
        assert [line["event"] for line in lines] == [
            "The provider is down. 120 batches of the connection 'conn' wait on.",
            "The connection 'conn' answers again.",
        ]
        assert [task.verdict for task in tasks] == [None] * 120

    watched(provider, play)


def test_a_single_failure_of_the_list_wakes_nobody() -> None:
    provider = account(120)

    async def play(made: Bench) -> None:
        tasks = [made.wait(batch_id) for batch_id in names(120)]
        await asyncio.sleep(5)
        provider.plan = plan_of(DOWN, times=1)
        with capture_logs() as lines:
            await asyncio.sleep(60)
        assert [len(task.told) for task in tasks] == [1] * 120
        assert lines == []

    watched(provider, play)


@pytest.mark.parametrize("count", [1, 200], ids=["singly", "listed"])
def test_a_provider_that_asks_for_patience_gets_it(count: int) -> None:
    provider = account(count)

    async def play(made: Bench) -> None:
        for batch_id in names(count):
            made.wait(batch_id)
        await asyncio.sleep(5)
        provider.plan = plan_of(RateLimitError("Slow down.", status_code=429, retry_after=900.0), times=1)
        before = provider.calls_of()
        await asyncio.sleep(900)
        assert provider.calls_of() - before == 1
        await asyncio.sleep(20)
        assert provider.calls_of() - before > 1

    watched(provider, play)


@pytest.mark.parametrize("count", [1, 3, 200])
def test_a_revoked_key_fails_every_wait_after_three_refusals_and_cancels_nothing(count: int) -> None:
    provider = account(count)

    async def play(made: Bench) -> None:
        tasks = [made.wait(batch_id) for batch_id in names(count)]
        await asyncio.sleep(5)
        provider.plan = plan_of(REFUSED)
        before = provider.calls_of()
        await asyncio.sleep(300)
        assert [task.verdict for task in tasks] == [GiveUp(REFUSED)] * count
        assert provider.calls_of() - before <= 5
        assert provider.calls == []  # of the verbs that change something

    watched(provider, play)


def test_a_key_that_is_no_longer_known_fails_those_too_whose_look_is_not_due() -> None:
    provider = account(2, age=DAY / 2)
    provider.hold("young")

    async def play(made: Bench) -> None:
        tasks = [made.wait(batch_id, deadline=2 * DAY) for batch_id in (*names(2), "young")]
        await asyncio.sleep(5)
        before = provider.calls_of()
        provider.plan = plan_of(REFUSED)
        await asyncio.sleep(100)
        assert [task.verdict for task in tasks] == [GiveUp(REFUSED)] * 3
        assert provider.calls_of() - before == 3

    watched(provider, play)


def test_a_key_that_was_rotated_is_used_before_the_refusal_of_the_old_one_counts() -> None:
    provider = account(100)
    keys = ["key-1"]

    async def play(made: Bench) -> None:
        made.key = lambda: Key(provider, keys[-1])
        tasks = [made.wait(batch_id) for batch_id in names(100)]
        await asyncio.sleep(5)
        for _ in range(5):
            keys.append(f"key-{len(keys) + 1}")
            provider.plan = plan_of(REFUSED, times=1)
            await asyncio.sleep(30)
        assert made.keys == ["key-1", "key-2", "key-3", "key-4", "key-5", "key-6"]
        assert [len(task.told) for task in tasks] == [1] * 100

    watched(provider, play)


def test_a_backend_that_says_something_else_each_time_does_not_make_refusals_endless() -> None:
    provider = account(100)

    async def play(made: Bench) -> None:
        made.key = lambda: Key(provider, f"key-{len(made.keys)}")
        tasks = [made.wait(batch_id) for batch_id in names(100)]
        provider.plan = plan_of(REFUSED)
        await asyncio.sleep(600)
        assert [task.verdict for task in tasks] == [GiveUp(REFUSED)] * 100
        assert provider.calls_of() <= 6

    watched(provider, play)


def test_a_refusal_of_one_batch_is_that_batch_s_own() -> None:
    provider = account(3)
    forbidden = AccessRefusedError("Not this one.", status_code=403)

    async def play(made: Bench) -> None:
        tasks = [made.wait(batch_id) for batch_id in names(3)]
        provider.plan = plan_of(forbidden, what="batch_00001")
        await asyncio.sleep(300)
        assert [task.verdict for task in tasks] == [None, GiveUp(forbidden), None]
        assert provider.calls_of("batch_00001") == 3

    watched(provider, play)


def test_a_batch_that_is_not_there_is_given_up_alone() -> None:
    provider = account(100)
    provider.hidden = {"batch_00050"}
    gone = NotFoundError("It is not there.", status_code=404)

    async def play(made: Bench) -> None:
        tasks = [made.wait(batch_id) for batch_id in names(100)]
        provider.plan = plan_of(gone, what="batch_00050")
        await asyncio.sleep(300)
        assert [n for n, task in enumerate(tasks) if task.verdict == GiveUp(gone)] == [50]
        assert provider.calls_of("batch_00050") == 3

    watched(provider, play)


@pytest.mark.parametrize(
    ("error", "seconds"),
    [(NotFoundError("No such path.", status_code=404), 15.0), (DOWN, 60.0)],
    ids=["there is none", "it is broken"],
)
def test_without_a_list_batches_are_asked_for_singly(error: LLMBatchError, seconds: float) -> None:
    provider = account(50)

    async def play(made: Bench) -> None:
        provider.plan = plan_of(error, what="list")
        tasks = [made.wait(batch_id) for batch_id in names(50)]
        await asyncio.sleep(seconds)
        assert [isinstance(task.told[-1].popitem()[1], Batch) for task in tasks] == [True] * 50
        before = provider.calls_of("list")
        await asyncio.sleep(300)
        assert provider.calls_of("list") == before

    watched(provider, play)


def test_the_connection_is_fetched_every_ten_minutes_and_opened_anew_only_if_it_says_something_else() -> None:
    provider, key = account(10, age=DAY / 2), ["key-1"]

    async def play(made: Bench) -> None:
        made.key = lambda: Key(provider, key[-1])
        made.wait(*names(10), deadline=2 * DAY)
        await asyncio.sleep(HOUR - 60)
        assert (made.keys, provider.times_closed) == (["key-1"] * 6, 0)
        key.append("key-2")
        await asyncio.sleep(HOUR / 4)
        assert (made.keys[-1], provider.times_closed) == ("key-2", 1)

    watched(provider, play)


def test_an_outage_of_airflow_s_own_while_it_looks_the_connection_up_anew_is_borne() -> None:
    provider = account(10, age=DAY / 2)

    async def play(made: Bench) -> None:
        task = made.wait(*names(10), deadline=2 * DAY)
        await asyncio.sleep(5)

        def gone() -> Key:
            raise ConnectionSettingsError("There is no such connection.")

        made.key = gone
        await asyncio.sleep(HOUR)
        before = provider.calls_of()
        await asyncio.sleep(HOUR)
        assert provider.calls_of() - before >= 10
        assert (task.verdict, provider.times_closed) == (None, 0)

    watched(provider, play)


def test_a_connection_that_cannot_be_used_fails_every_wait_at_once() -> None:
    error = ConnectionSettingsError("There is no such connection.")

    async def play(made: Bench) -> None:
        def gone() -> Key:
            raise error

        made.key = gone
        tasks = [made.wait(batch_id) for batch_id in names(20)]
        await asyncio.sleep(2)
        assert [task.verdict for task in tasks] == [GiveUp(error)] * 20

    watched(account(20), play)
