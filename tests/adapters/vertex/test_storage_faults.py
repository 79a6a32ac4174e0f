"""What breaks on the way to a bucket and back: the same bytes in the end, or a clear error and no half object."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any

import pytest
from support.fault_proxy import Answer, Delay, Drop, FaultProxy, Garbage, Hang, LoseAnswer, Truncate, fault_proxy
from support.upload_sessions import Front, upload_sessions

from airflow_provider_llmbatch.adapters.http import TransportSettings
from airflow_provider_llmbatch.adapters.vertex import resumable
from airflow_provider_llmbatch.errors import (
    AccessRefusedError,
    BrokenTransferError,
    LLMBatchError,
    NotFoundError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from adapters.vertex.conftest import OpenBucket
    from support.fault_proxy import Fault
    from support.gcs import RunningStorage

    from airflow_provider_llmbatch.adapters.vertex.storage import Bucket

KIB = 1024
CHUNK = 512 * KIB
CONTENT = bytes(n * 7 % 251 for n in range(1009)) * 1300  # 1,311,700 bytes: two whole chunks and a part of one
CHUNKS = 3
SESSION = "/upload/storage/v1/b/[^/]+/o$"
TRANSPORT = TransportSettings(connect_timeout=2, timeout=2)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumable, "CHUNK_BYTES", CHUNK)


@pytest.fixture(scope="module")
def front(gcs: RunningStorage) -> Iterator[Front]:
    """Cloud Storage, faithful in what it does with broken uploads."""
    with upload_sessions(gcs) as server:
        yield server


@pytest.fixture
def proxy(front: Front) -> Iterator[FaultProxy]:
    front.sessions.clear()
    front.grudging.clear()
    with fault_proxy(front.url) as breaking:
        yield breaking


@pytest.fixture
def store(open_bucket: OpenBucket, proxy: FaultProxy, bucket: str) -> Bucket:
    return open_bucket(bucket, storage_url=proxy.url, transport=TRANSPORT)


def blocks(content: bytes = CONTENT) -> Iterator[bytes]:
    yield from (content[at : at + 100_000] for at in range(0, len(content), 100_000))


def upload(store: Bucket) -> bytes:
    """Upload, and read back what is there then."""
    stored = store.upload("in.jsonl", blocks(), metadata={"model": "g"})
    assert (stored.bytes, store.stat("in.jsonl")) == (len(CONTENT), stored)
    return b"".join(store.download("in.jsonl"))


def failed(store: Bucket, content: Iterator[bytes] | None = None, kind: type[BaseException] = LLMBatchError) -> Any:
    with pytest.raises(kind) as caught:
        store.upload("in.jsonl", blocks() if content is None else content, metadata={})
    shown = "".join(traceback.format_exception(caught.value)) + repr(vars(caught.value))
    assert "session-" not in shown, "the session's address lets anybody write"
    return caught.value


FAULTS = [
    Answer(503),
    Answer(500),
    Answer(429, headers={"Retry-After": "3"}),
    Answer(408),
    Drop(),
    Drop(after_bytes=200 * KIB),
    Drop(after_bytes=60 * KIB, reset=False),
    LoseAnswer(),
    Garbage(),
]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
@pytest.mark.parametrize("nth", range(CHUNKS))
def test_a_chunk_that_breaks_is_sent_again(store: Bucket, proxy: FaultProxy, fault: Fault, nth: int) -> None:
    proxy.rule("PUT", SESSION, Delay(0), times=nth)
    proxy.rule("PUT", SESSION, fault, times=2)
    assert upload(store) == CONTENT
    assert len(proxy.calls("PUT", SESSION)) == CHUNKS + 2


@pytest.mark.parametrize("fault", [Answer(503), Drop(), LoseAnswer()], ids=str)
def test_a_session_that_is_not_opened_is_asked_for_again(store: Bucket, proxy: FaultProxy, fault: Fault) -> None:
    proxy.rule("POST", SESSION, fault)
    assert upload(store) == CONTENT


def test_a_service_that_says_nothing_is_left_after_the_time_out_of_the_connection(
    open_bucket: OpenBucket, proxy: FaultProxy, bucket: str
) -> None:
    proxy.rule("PUT", SESSION, Hang())
    assert upload(open_bucket(bucket, storage_url=proxy.url, transport=TransportSettings(timeout=0.4))) == CONTENT


def test_the_service_says_when_to_come_again(store: Bucket, proxy: FaultProxy, sleeps: list[float]) -> None:
    proxy.rule("PUT", SESSION, Answer(429, headers={"Retry-After": "7"}))
    assert upload(store) == CONTENT
    assert sleeps == [7.0]


def test_what_was_not_stored_of_a_chunk_is_sent_from_there_on(store: Bucket, proxy: FaultProxy, front: Front) -> None:
    front.grudging += [256 * KIB, 0, 256 * KIB, 300 * KIB]
    assert upload(store) == CONTENT
    assert [call.headers["content-range"] for call in proxy.calls("PUT", SESSION)] == [
        "bytes 0-524287/*",
        "bytes 262144-524287/*",
        "bytes 262144-524287/*",
        "bytes 524288-1048575/*",
        "bytes 786432-1048575/*",
        "bytes 1048576-1311699/1311700",
    ]


def test_a_service_that_stores_nothing_more_is_given_up(
    store: Bucket, front: Front, gcs: RunningStorage, bucket: str
) -> None:
    front.grudging += [0] * 20
    broken = failed(store, kind=BrokenTransferError)
    assert str(broken) == (
        f"Cloud Storage says that 0 of 524,288 bytes are stored. The upload of gs://{bucket}/in.jsonl broke off after "
        "0 bytes. Nothing of it is left, and nothing was billed. A retry uploads it anew."
    )
    assert nothing_left(front, gcs, bucket)


def nothing_left(front: Front, gcs: RunningStorage, bucket: str) -> bool:
    """Neither an object nor a session that could become one."""
    return gcs.names(bucket) == [] and all(session.cancelled for session in front.sessions.values())


@pytest.mark.parametrize("after", [0, 1, 6, 14])
@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_nothing_is_left_of_a_source_that_fails(
    store: Bucket, front: Front, gcs: RunningStorage, bucket: str, after: int, kind: type[BaseException]
) -> None:
    def failing() -> Iterator[bytes]:
        for n, block in enumerate(blocks()):
            if n == after:
                break
            yield block
        raise kind("line 17 cannot be mapped")

    assert str(failed(store, failing(), kind)) == "line 17 cannot be mapped"
    assert len(front.sessions) == 1
    assert nothing_left(front, gcs, bucket)


def test_an_outage_that_lasts_leaves_nothing_and_may_be_retried(
    store: Bucket, proxy: FaultProxy, front: Front, gcs: RunningStorage, bucket: str, sleeps: list[float]
) -> None:
    proxy.rule("PUT", SESSION, Delay(0))
    proxy.rule("PUT", SESSION, Answer(503), times=None)
    down = failed(store, kind=UnavailableError)
    assert str(down).startswith(
        f"Cloud Storage was asked to store bytes 524288-1048575/* of gs://{bucket}/in.jsonl and "
    )
    assert str(down).endswith("A retry may succeed. Nothing was billed.")
    assert (len(sleeps), nothing_left(front, gcs, bucket)) == (TRANSPORT.max_attempts - 1, True)


def test_a_session_that_the_service_lost_is_begun_anew_by_a_retry(
    store: Bucket, proxy: FaultProxy, gcs: RunningStorage, bucket: str
) -> None:
    proxy.rule("PUT", SESSION, Delay(0))
    proxy.rule("PUT", SESSION, Answer(410), times=1)
    broken = failed(store, kind=BrokenTransferError)
    assert (
        "broke off after 524,288 bytes. Nothing of it is left, and nothing was billed. A retry uploads it anew."
        in str(broken)
    )
    assert gcs.names(bucket) == []


def test_a_right_that_is_lost_on_the_way_is_no_outage(
    store: Bucket, proxy: FaultProxy, front: Front, gcs: RunningStorage, bucket: str
) -> None:
    proxy.rule("PUT", SESSION, Delay(0))
    proxy.rule("PUT", SESSION, Answer(403, b'{"error": {"message": "no more"}}'))
    assert type(failed(store)) is AccessRefusedError
    assert nothing_left(front, gcs, bucket)


def test_bytes_that_changed_on_the_way_never_become_an_object(
    store: Bucket, front: Front, gcs: RunningStorage, bucket: str
) -> None:
    front.corrupting = True
    broken = failed(store, kind=BrokenTransferError)
    assert "doesn't match calculated CRC32C" in str(broken)
    assert "Nothing of it is left, and nothing was billed. A retry uploads it anew." in str(broken)
    assert nothing_left(front, gcs, bucket)


def test_an_object_that_is_not_what_was_sent_is_deleted(
    open_bucket: OpenBucket, gcs: RunningStorage, bucket: str
) -> None:
    with fault_proxy(gcs.url) as proxy:
        proxy.rule("PUT", SESSION, LoseAnswer())  # this emulator stores what is sent again twice
        broken = failed(open_bucket(bucket, storage_url=proxy.url, transport=TRANSPORT), kind=BrokenTransferError)
    assert str(broken).startswith(f"{len(CONTENT) + CHUNK} bytes with the checksum ")
    assert gcs.names(bucket) == []


@pytest.mark.parametrize("fault", [Answer(503), Drop(), Drop(after_bytes=60 * KIB)], ids=str)
@pytest.mark.parametrize("nth", range(CHUNKS))
def test_the_emulator_alone_bears_what_never_reached_it(
    open_bucket: OpenBucket, gcs: RunningStorage, bucket: str, fault: Fault, nth: int
) -> None:
    with fault_proxy(gcs.url) as proxy:
        proxy.rule("PUT", SESSION, Delay(0), times=nth)
        proxy.rule("PUT", SESSION, fault)
        assert upload(open_bucket(bucket, storage_url=proxy.url, transport=TRANSPORT)) == CONTENT


def test_an_object_whose_last_answer_was_lost_is_found_where_sessions_are_forgotten(
    open_bucket: OpenBucket, gcs: RunningStorage, bucket: str
) -> None:
    with fault_proxy(gcs.url) as proxy:
        proxy.rule("PUT", SESSION, Delay(0), times=CHUNKS - 1)
        proxy.rule("PUT", SESSION, LoseAnswer())
        assert upload(open_bucket(bucket, storage_url=proxy.url, transport=TRANSPORT)) == CONTENT


def test_an_object_of_somebody_else_is_not_taken_for_the_one_that_was_sent(
    open_bucket: OpenBucket, gcs: RunningStorage, bucket: str
) -> None:
    with fault_proxy(gcs.url) as proxy:
        proxy.rule("PUT", SESSION, Delay(0), times=CHUNKS - 1)
        proxy.rule("PUT", SESSION, Answer(404), times=None)
        gcs.put(bucket, "in.jsonl", CONTENT, model="another")
        failed(open_bucket(bucket, storage_url=proxy.url, transport=TRANSPORT), kind=BrokenTransferError)
    assert gcs.content(bucket, "in.jsonl") == CONTENT


@pytest.mark.parametrize("fault", [Truncate(300_000), Truncate(0), Answer(503), Drop(), LoseAnswer()], ids=str)
def test_a_download_that_breaks_goes_on_where_it_ended(
    store: Bucket, proxy: FaultProxy, gcs: RunningStorage, bucket: str, fault: Fault
) -> None:
    gcs.put(bucket, "out", CONTENT)
    proxy.rule("GET", "/o/out$", Delay(0))  # the look before
    proxy.rule("GET", "/o/out$", fault, times=3)
    assert b"".join(store.download("out")) == CONTENT
    ranges = [call.headers.get("range") for call in proxy.calls("GET", "/o/out$")[2:]]
    halves = [f"bytes={n * 300_000}-" for n in (1, 2, 3)]
    assert ranges == (halves if fault == Truncate(300_000) else [None] * 3)


def other_bytes(proxy: FaultProxy, body: bytes) -> None:
    proxy.rule("GET", "/o/out$", Delay(0))
    proxy.rule("GET", "/o/out$", Answer(200, body, {"Content-Type": "application/octet-stream"}))


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (CONTENT[:-1] + b"?", "arrived with the checksum "),
        (CONTENT[:-9], "1,311,691 bytes of gs://{bucket}/out arrived, and it has 1,311,700"),
    ],
    ids=["other bytes", "fewer bytes"],
)
def test_a_download_of_other_or_fewer_bytes_says_so_at_its_end(
    store: Bucket, proxy: FaultProxy, gcs: RunningStorage, bucket: str, body: bytes, problem: str
) -> None:
    gcs.put(bucket, "out", CONTENT)
    other_bytes(proxy, body)
    with pytest.raises(BrokenTransferError) as broken:
        for _ in store.download("out"):
            pass
    assert problem.format(bucket=bucket) in str(broken.value)
    assert "What was read must not be used; a retry reads it anew." in str(broken.value)


def test_an_object_that_is_replaced_during_a_download_is_not_mixed_with_its_successor(
    store: Bucket, proxy: FaultProxy, gcs: RunningStorage, bucket: str
) -> None:
    gcs.put(bucket, "out", CONTENT)
    proxy.rule("GET", "/o/out$", Delay(0))
    proxy.rule("GET", "/o/out$", Truncate(300_000))
    read = store.download("out")
    first = next(read)
    gcs.put(bucket, "out", CONTENT[::-1])
    with pytest.raises(NotFoundError):
        for _ in read:
            pass
    assert CONTENT.startswith(first)
