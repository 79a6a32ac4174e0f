"""The hook's verbs for async tasks, against the batch server."""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
import time
from typing import TYPE_CHECKING

import pytest
from support.fault_proxy import Delay, fault_proxy

from airflow_provider_llmbatch.errors import NotFoundError
from airflow_provider_llmbatch.hooks.batch import LLMBatchHook
from airflow_provider_llmbatch.models import File

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.server import RunningServer

VERBS = (
    "create_file",
    "retrieve_file",
    "list_files",
    "delete_file",
    "file_content",
    "create_batch",
    "retrieve_batch",
    "list_batches",
    "cancel_batch",
    "results",
    "estimate_cost",
    "batch_cost",
)


def requests(count: int) -> bytes:
    body = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}
    lines = (
        {"custom_id": f"row-{n}", "method": "POST", "url": "/v1/chat/completions", "body": body} for n in range(count)
    )
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


@pytest.fixture
def hook(echo_server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[LLMBatchHook]:
    monkeypatch.setenv(
        "AIRFLOW_CONN_ASYNC_SERVER",
        json.dumps({"conn_type": "llmbatch_openai", "host": echo_server.url, "password": echo_server.api_key}),
    )
    hook = LLMBatchHook("async_server")
    yield hook
    hook.adapter.close()


async def ended(hook: LLMBatchHook, batch_id: str) -> str:
    for _ in range(200):
        batch = await hook.aretrieve_batch(batch_id)
        if batch.is_terminal:
            return batch.status
        await asyncio.sleep(0.05)
    raise AssertionError(f"{batch_id} did not end")


def test_every_verb_has_a_twin_that_takes_the_same() -> None:
    for verb in VERBS:
        plain, twin = (inspect.signature(getattr(LLMBatchHook, name)) for name in (verb, f"a{verb}"))
        assert list(plain.parameters.values()) == list(twin.parameters.values()), verb


def test_a_batch_goes_through_all_async_verbs(hook: LLMBatchHook) -> None:
    async def whole_life() -> dict[str, object]:
        content = requests(250)
        file = await hook.acreate_file(content, filename="async.jsonl")
        found = await hook.aretrieve_file(file.id)
        listed = [f.id async for f in hook.alist_files(purpose="batch")]
        stored = b"".join([block async for block in hook.afile_content(file.id)])
        batch = await hook.acreate_batch(file.id, metadata={"of": "async"})
        status = await ended(hook, batch.id)
        batches = [b.id async for b in hook.alist_batches(limit=20)]
        results = [result.custom_id async for result in hook.aresults(batch.id)]
        after_the_end = await hook.acancel_batch(batch.id)
        await hook.adelete_file(file.id)
        with pytest.raises(NotFoundError):
            await hook.aretrieve_file(file.id)
        return {
            "found": found == file,
            "listed": file.id in listed,
            "stored": stored == content,
            "ended": (status, after_the_end.status, after_the_end.metadata),
            "batch listed": batch.id in batches,
            "results": sorted(results) == sorted(f"row-{n}" for n in range(250)),
        }

    assert asyncio.run(whole_life()) == {
        "found": True,
        "listed": True,
        "stored": True,
        "ended": ("completed", "completed", {"of": "async"}),
        "batch listed": True,
        "results": True,
    }


def test_many_at_once_make_one_connection_and_do_not_hold_up_the_event_loop(
    echo_server: RunningServer, hook: LLMBatchHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def at_once(slow: LLMBatchHook) -> tuple[float, float]:
        longest, looking = 0.0, True

        async def pulse() -> None:
            nonlocal longest
            while looking:
                before = time.monotonic()
                await asyncio.sleep(0.005)
                longest = max(longest, time.monotonic() - before)

        pulsing = asyncio.create_task(pulse())
        begun = time.monotonic()
        await asyncio.gather(*[slow.aretrieve_file(file.id) for _ in range(8)])
        took = time.monotonic() - begun
        looking = False
        await pulsing
        return longest, took

    with fault_proxy(echo_server.url) as proxy:
        monkeypatch.setenv(
            "AIRFLOW_CONN_SLOW_SERVER",
            json.dumps({"conn_type": "llmbatch_openai", "host": proxy.url, "password": echo_server.api_key}),
        )
        slow = LLMBatchHook("slow_server")
        file = hook.create_file(requests(1))
        proxy.rule("GET", "/files/", Delay(0.4), times=None)
        longest, took = asyncio.run(at_once(slow))
        slow.adapter.close()
    assert longest < 0.3
    assert took < 8 * 0.4 / 2


class Source:
    """What a verb returns, told about from the outside: how much was taken, and whether it was closed."""

    def __init__(self, *, fails_after: int | None = None, slow: threading.Event | None = None) -> None:
        self.taken = 0
        self.closed = threading.Event()
        self._fails_after = fails_after
        self._slow = slow
        self._made: list[Iterator[File]] = []

    def files(self) -> Iterator[File]:
        # Kept, since what nobody holds is closed by being forgotten.
        self._made.append(self._files())
        return self._made[-1]

    def _files(self) -> Iterator[File]:
        try:
            while True:
                if self._slow is not None:
                    self._slow.wait(5)
                if self.taken == self._fails_after:
                    raise NotFoundError("gone")
                self.taken += 1
                yield File(id=f"file-{self.taken}")
        finally:
            self.closed.set()


@pytest.fixture
def listing(hook: LLMBatchHook, monkeypatch: pytest.MonkeyPatch) -> Source:
    source = Source()
    monkeypatch.setattr(hook, "list_files", lambda **_: source.files())
    return source


def test_nothing_is_read_far_ahead_of_who_takes_it(hook: LLMBatchHook, listing: Source) -> None:
    async def take_three() -> list[str]:
        files = hook.alist_files()
        taken = [(await anext(files)).id for _ in range(3)]
        await asyncio.sleep(0.05)
        await files.aclose()
        return taken

    assert asyncio.run(take_three()) == ["file-1", "file-2", "file-3"]
    assert listing.taken == 100


def test_an_iterator_that_is_abandoned_is_closed(hook: LLMBatchHook, listing: Source) -> None:
    async def take_one() -> bool:
        files = hook.alist_files()
        await anext(files)
        await files.aclose()
        return listing.closed.is_set()

    assert asyncio.run(take_one()) is True


def test_a_loop_that_is_left_early_closes_its_iterator_in_the_end(hook: LLMBatchHook, listing: Source) -> None:
    async def leave() -> None:
        async for _ in hook.alist_files():
            break

    asyncio.run(leave())
    assert listing.closed.wait(2)


def test_a_task_that_is_cancelled_while_it_reads_closes_the_iterator_when_the_read_ends(
    hook: LLMBatchHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    source = Source(slow=go_on)
    monkeypatch.setattr(hook, "list_files", lambda **_: source.files())

    async def read_and_cancel() -> bool:
        reading = asyncio.create_task(anext(hook.alist_files()))  # type: ignore[arg-type]
        await asyncio.sleep(0.05)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        return source.closed.is_set()

    assert asyncio.run(read_and_cancel()) is False
    go_on.set()
    assert source.closed.wait(2)


def test_what_came_before_an_error_is_not_lost_with_it(hook: LLMBatchHook, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source(fails_after=3)
    monkeypatch.setattr(hook, "list_files", lambda **_: source.files())
    got: list[str] = []

    async def read() -> None:
        async for file in hook.alist_files():
            got.append(file.id)  # noqa: PERF401 - what was got before the error is what the test is about

    with pytest.raises(NotFoundError):
        asyncio.run(read())
    assert got == ["file-1", "file-2", "file-3"]
