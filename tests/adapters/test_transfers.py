"""Uploads and downloads that break off: nothing is lost, nothing arrives twice."""

from __future__ import annotations

import io
import uuid
from typing import TYPE_CHECKING

import pytest
from support.fault_proxy import Answer, Delay, Drop, FaultProxy, Garbage, Hang, LoseAnswer, Truncate
from typing_extensions import override

from airflow_provider_llmbatch.adapters.http import TransportSettings
from airflow_provider_llmbatch.errors import BrokenTransferError, NotFoundError, UnavailableError, UnexpectedAnswerError

if TYPE_CHECKING:
    from adapters.conftest import Connect
    from support.server import RunningServer

CONTENT = b"".join(b'{"custom_id": "r%d", "x": "%s"}\n' % (n, b"x" * 20_000) for n in range(50))  # 1 MB
IMPATIENT = TransportSettings(timeout=0.3)


def unique_name() -> str:
    return f"{uuid.uuid4().hex}.jsonl"


class UnseekableStream(io.BytesIO):
    """Like a pipe: its bytes can be read once."""

    @override
    def seekable(self) -> bool:
        return False

    @override
    def seek(self, *_: object) -> int:
        raise io.UnsupportedOperation("seek")

    @override
    def tell(self) -> int:
        raise io.UnsupportedOperation("tell")


@pytest.mark.parametrize("fault", [Drop(300_000), Drop(300_000, reset=False), Drop(), Answer(500), Garbage()])
def test_a_broken_upload_starts_over_and_leaves_one_whole_file(
    connect: Connect, faulty: FaultProxy, sleeps: list[float], fault: Drop | Answer | Garbage
) -> None:
    faulty.rule("POST", "/files$", fault)
    adapter = connect(faulty.url)
    file = adapter.create_file(io.BytesIO(CONTENT), filename=(name := unique_name()))
    assert [listed.id for listed in adapter.list_files() if listed.filename == name] == [file.id]
    assert b"".join(adapter.file_content(file.id)) == CONTENT
    assert [r.upstream_status for r in faulty.calls("POST", "/files$")] == [None, 200]
    assert len(sleeps) == 1


def test_an_upload_that_starts_over_begins_where_the_stream_stood(connect: Connect, faulty: FaultProxy) -> None:
    faulty.rule("POST", "/files$", Drop(300_000))
    stream = io.BytesIO(b"not this\n" + CONTENT)
    stream.seek(len(b"not this\n"))
    adapter = connect(faulty.url)
    assert b"".join(adapter.file_content(adapter.create_file(stream, filename=unique_name()).id)) == CONTENT


def test_a_stream_that_cannot_seek_is_uploaded(connect: Connect, faulty: FaultProxy) -> None:
    adapter = connect(faulty.url)
    file = adapter.create_file(UnseekableStream(CONTENT), filename=unique_name())
    assert b"".join(adapter.file_content(file.id)) == CONTENT
    assert faulty.requests[0].headers["transfer-encoding"] == "chunked"


@pytest.mark.parametrize("fault", [Drop(300_000), Answer(500), Answer(429), Garbage(), LoseAnswer()])
def test_a_broken_upload_whose_stream_cannot_seek_says_so(
    connect: Connect, faulty: FaultProxy, fault: Drop | Answer | Garbage | LoseAnswer
) -> None:
    faulty.rule("POST", "/files$", fault)
    with pytest.raises(BrokenTransferError, match="cannot be read a second time") as caught:
        connect(faulty.url).create_file(UnseekableStream(CONTENT), filename=unique_name())
    assert "Nothing was billed" in str(caught.value)
    assert "such as a path" in str(caught.value)
    assert len(faulty.calls("POST", "/files$")) == 1


def test_an_upload_gives_up_after_its_attempts(connect: Connect, faulty: FaultProxy, sleeps: list[float]) -> None:
    faulty.rule("POST", "/files$", Drop(300_000), times=None)
    with pytest.raises(UnavailableError, match=r"store the file.* Nothing was billed\."):
        connect(faulty.url).create_file(io.BytesIO(CONTENT), filename=unique_name())
    assert (len(faulty.requests), len(sleeps)) == (5, 4)


@pytest.fixture
def file_id(connect: Connect, echo_server: RunningServer) -> str:
    return connect(echo_server.url).create_file(io.BytesIO(CONTENT), filename=unique_name()).id


def test_half_a_download_goes_on_where_it_ended(connect: Connect, faulty: FaultProxy, file_id: str) -> None:
    faulty.rule("GET", "/content$", Truncate(300_001))
    faulty.rule("GET", "/content$", Truncate(1))
    faulty.rule("GET", "/content$", Truncate(0))
    assert b"".join(connect(faulty.url).file_content(file_id)) == CONTENT
    ranges = [request.headers.get("range") for request in faulty.calls("GET", "/content$")]
    assert ranges == [None, "bytes=300001-", "bytes=300002-", "bytes=300002-"]
    assert [r.upstream_status for r in faulty.requests] == [200, 206, 206, 206]


def test_a_download_goes_on_at_a_server_without_ranges(connect: Connect, canned: FaultProxy) -> None:
    half = {"Content-Length": str(len(CONTENT)), "Content-Type": "application/octet-stream"}
    canned.rule("GET", "/content$", Answer(200, CONTENT[:400_000], half))
    canned.rule("GET", "/content$", Answer(200, CONTENT[:100_000], half))
    canned.rule("GET", "/content$", Answer(200, CONTENT))
    assert b"".join(connect(canned.url).file_content("file-1")) == CONTENT
    assert [r.headers.get("range") for r in canned.requests] == [None, "bytes=400000-", "bytes=400000-"]


def test_a_download_of_which_only_the_end_was_not_seen_is_whole(connect: Connect, canned: FaultProxy) -> None:
    # Chunked, and broken off before the chunk that says that nothing follows.
    body = b"a\r\n0123456789\r\n"
    canned.rule("GET", "/content$", Answer(200, body, {"Transfer-Encoding": "chunked", "Content-Length": ""}))
    canned.rule("GET", "/content$", Answer(416, b"", {"Content-Range": "bytes */10"}))
    assert b"".join(connect(canned.url).file_content("file-1")) == b"0123456789"


def test_a_range_that_begins_too_late_is_no_answer(connect: Connect, canned: FaultProxy) -> None:
    canned.rule("GET", "/content$", Answer(200, b"01234", {"Content-Length": "10"}))
    canned.rule("GET", "/content$", Answer(206, b"789", {"Content-Range": "bytes 7-9/10"}), times=None)
    blocks = connect(canned.url).file_content("file-1")
    assert next(blocks) == b"01234"
    with pytest.raises(UnexpectedAnswerError, match="sent bytes from 7 on when asked for those from 5 on"):
        next(blocks)


@pytest.mark.parametrize(
    "fault",
    [Answer(500), Answer(429, headers={"Retry-After": "0"}), Garbage(), Drop(), Hang(), LoseAnswer(), Delay(0.05)],
)
def test_a_download_outlives_faults_at_its_begin(
    connect: Connect, faulty: FaultProxy, file_id: str, fault: Answer | Garbage | Drop | Hang | LoseAnswer | Delay
) -> None:
    faulty.rule("GET", "/content$", fault)
    assert b"".join(connect(faulty.url, transport=IMPATIENT).file_content(file_id)) == CONTENT


def test_a_download_without_progress_gives_up(
    connect: Connect, faulty: FaultProxy, file_id: str, sleeps: list[float]
) -> None:
    faulty.rule("GET", "/content$", Truncate(1000))
    faulty.rule("GET", "/content$", Truncate(0), times=None)
    received = b""
    with pytest.raises(BrokenTransferError, match="broke off after 1,000 bytes") as caught:  # noqa: PT012
        for block in connect(faulty.url).file_content(file_id):
            received += block
    assert received == CONTENT[:1000]
    assert "a retry starts over" in str(caught.value)
    assert (len(faulty.requests), len(sleeps)) == (5, 4)


def test_a_download_with_progress_never_gives_up(connect: Connect, faulty: FaultProxy, file_id: str) -> None:
    faulty.rule("GET", "/content$", Truncate(100_000), times=8)
    assert b"".join(connect(faulty.url).file_content(file_id)) == CONTENT
    assert len(faulty.requests) == 9


def test_a_file_that_vanishes_in_the_middle_of_its_download_is_not_found(
    connect: Connect, faulty: FaultProxy, file_id: str
) -> None:
    faulty.rule("GET", "/content$", Truncate(1000))
    adapter = connect(faulty.url)
    blocks = adapter.file_content(file_id)
    assert next(blocks) == CONTENT[:1000]
    adapter.delete_file(file_id)
    with pytest.raises(NotFoundError):
        next(blocks)


def test_a_page_instead_of_a_file_is_never_its_content(connect: Connect, canned: FaultProxy) -> None:
    canned.rule("GET", "/content$", Answer(200, b"<html>log in</html>", {"Content-Type": "text/html"}), times=None)
    with pytest.raises(UnexpectedAnswerError, match="something else than the API answered"):
        b"".join(connect(canned.url).file_content("file-1"))
