"""Both result files: every request ends in exactly one outcome, whatever the files look like."""

from __future__ import annotations

import json
import tracemalloc
from typing import TYPE_CHECKING, cast

import msgspec
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from airflow_provider_llmbatch.core.results import merge_results, result_of_line
from airflow_provider_llmbatch.errors import (
    BrokenTransferError,
    NotFoundError,
    RequestRefusedError,
    UnavailableError,
    UnexpectedAnswerError,
)
from airflow_provider_llmbatch.models import Batch, File, RequestCounts, Result

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import JsonValue

    from airflow_provider_llmbatch.adapters.base import Adapter

INPUT, OUTPUT, ERRORS = "file-in", "file-out", "file-err"
NO_LINE = {"code": "missing", "message": "No result that can be read names this request."}


class Files:
    """What ``merge_results`` uses of an adapter: contents, and sizes, which differ if a download was cut.

    :param contents: What arrives; an error is raised in its place.
    """

    names_unexecuted = True
    verifies_downloads = False

    def __init__(self, contents: dict[str, bytes | Exception], sizes: dict[str, int] | None = None) -> None:
        self._contents = contents
        self._sizes = sizes or {}
        self.read: list[str] = []

    def file_content(self, file_id: str) -> Iterator[bytes]:
        self.read.append(file_id)
        content = self._contents[file_id]
        if isinstance(content, Exception):
            raise content
        for at in range(0, len(content), 7):
            yield content[at : at + 7]

    input_ids = file_content

    def retrieve_file(self, file_id: str) -> File:
        content = self._contents[file_id]
        assert isinstance(content, bytes)
        size = self._sizes.get(file_id, len(content))
        if size < 0:
            raise NotFoundError("no such file")
        return File(id=file_id, bytes=size)


def batch_of(total: int = 0, **ids: str | None) -> Batch:
    given_ids = {"input_file_id": INPUT, "output_file_id": OUTPUT, "error_file_id": ERRORS, **ids}
    counts = RequestCounts(total=total)
    return Batch.model_validate({"id": "batch_1", "status": "completed", "request_counts": counts, **given_ids})


def merged(files: Files, batch: Batch) -> tuple[list[dict[str, JsonValue]], list[str]]:
    """The results as they land, and what is warned of."""
    with capture_logs() as lines:
        results = list(merge_results(cast("Adapter", files), batch, log=structlog.get_logger()))
    assert {line["log_level"] for line in lines} <= {"warning"}
    return [as_landed(result) for result in results], [line["event"] for line in lines]


def as_landed(result: Result) -> dict[str, JsonValue]:
    landed: dict[str, JsonValue] = json.loads(msgspec.json.encode(result))
    return landed


def outcomes(results: list[dict[str, JsonValue]]) -> list[tuple[JsonValue, JsonValue]]:
    return [(result["custom_id"], result["outcome"]) for result in results]


def good(custom_id: str, body: JsonValue = None) -> bytes:
    response = {"status_code": 200, "request_id": "req_1", "body": {} if body is None else body}
    return _line({"id": "batch_req_1", "custom_id": custom_id, "response": response, "error": None})


def unrun(custom_id: str, code: str = "batch_expired") -> bytes:
    return _line({"custom_id": custom_id, "response": None, "error": {"code": code, "message": "Not in time."}})


def request(custom_id: str) -> bytes:
    return _line({"custom_id": custom_id, "method": "POST", "url": "/v1/embeddings", "body": {}})


def _line(content: dict[str, JsonValue]) -> bytes:
    return json.dumps(content).encode() + b"\n"


def result(outcome: str, response: JsonValue, error: JsonValue) -> dict[str, JsonValue]:
    return {"custom_id": "a", "outcome": outcome, "response": response, "error": error}


# Both files.


def test_both_files_are_merged_and_the_input_is_not_read_when_nothing_lacks() -> None:
    files = Files({OUTPUT: good("a") + good("b"), ERRORS: unrun("c"), INPUT: b""})
    results, warnings = merged(files, batch_of(total=3))
    assert outcomes(results) == [("a", "succeeded"), ("b", "succeeded"), ("c", "expired")]
    assert (files.read, warnings) == ([OUTPUT, ERRORS], [])


def test_an_empty_file_and_none_at_all_are_the_same() -> None:
    empty = merged(Files({OUTPUT: good("a"), ERRORS: b""}), batch_of(total=1))
    none = merged(Files({OUTPUT: good("a")}), batch_of(total=1, error_file_id=None))
    assert empty == none == ([as_landed(result_of_line(good("a")))], [])


def test_the_same_file_under_both_names_is_read_once() -> None:
    files = Files({OUTPUT: good("a") + unrun("b")})
    results, warnings = merged(files, batch_of(total=2, error_file_id=OUTPUT))
    assert (outcomes(results), files.read, warnings) == ([("a", "succeeded"), ("b", "expired")], [OUTPUT], [])


def test_a_request_in_both_files_keeps_its_answer() -> None:
    results, warnings = merged(Files({OUTPUT: good("a"), ERRORS: unrun("a")}), batch_of(total=1))
    assert outcomes(results) == [("a", "succeeded")]
    assert warnings == ["Line 1 of file-err is a second result for 'a': the first one counts"]


@pytest.mark.parametrize("total", [0, 3], ids=["a server that does not count", "a server that counts"])
def test_what_neither_file_names_is_missing_by_the_input(total: int) -> None:
    files = Files({OUTPUT: good("a"), ERRORS: b"", INPUT: request("a") + b"\n" + request("b") + request("c")[:-1]})
    results, warnings = merged(files, batch_of(total=total))
    assert outcomes(results) == [("a", "succeeded"), ("b", "missing"), ("c", "missing")]
    assert results[1] == {"custom_id": "b", "outcome": "missing", "response": None, "error": NO_LINE}
    assert warnings == ["2 requests have no result of batch_1 that can be read: their outcome is missing"]


def test_a_batch_without_result_files_has_only_missing_ones() -> None:
    files = Files({INPUT: request("a")})
    results, _ = merged(files, batch_of(total=1, output_file_id=None, error_file_id=None))
    assert outcomes(results) == [("a", "missing")]


@pytest.mark.parametrize(
    ("input_file_id", "content", "why"),
    [
        (INPUT, NotFoundError("gone"), "since the input file file-in is gone"),
        (INPUT, RequestRefusedError("not for reading"), "since the input file file-in is gone"),
        (None, b"", "since the input file None is gone"),
        (INPUT, b"", "not even from the input file"),
    ],
)
def test_requests_that_nobody_can_name_are_counted(
    input_file_id: str | None, content: bytes | Exception, why: str
) -> None:
    files = Files({OUTPUT: good("a"), INPUT: content})
    results, warnings = merged(files, batch_of(total=3, error_file_id=None, input_file_id=input_file_id))
    assert outcomes(results) == [("a", "succeeded")]
    [warning] = warnings
    assert warning == (
        f"2 of 3 requests are in neither result file, and their names are not to be had, {why}: compare the ids with "
        "your input"
    )


def test_an_outage_while_the_input_is_read_is_one() -> None:
    files = Files({OUTPUT: good("a"), INPUT: UnavailableError("down")})
    with pytest.raises(UnavailableError, match="down"):
        merged(files, batch_of(total=2, error_file_id=None))


def test_ids_that_the_caller_knows_take_the_place_of_the_input_file() -> None:
    files = Files({OUTPUT: good("a") + good("stranger"), ERRORS: b""})
    with capture_logs() as lines:
        batch = batch_of(total=9, input_file_id="file-deleted")
        results = list(merge_results(cast("Adapter", files), batch, log=structlog.get_logger(), ids=["a", "b"]))
    assert [(result.custom_id, result.outcome) for result in results] == [
        ("a", "succeeded"),
        ("stranger", "succeeded"),
        ("b", "missing"),
    ]
    assert files.read == [OUTPUT, ERRORS]
    assert [line["event"] for line in lines] == [
        "1 requests have no result of batch_1 that can be read: their outcome is missing"
    ]


def test_known_ids_are_looked_at_even_where_the_counts_say_that_none_lacks() -> None:
    files = Files({OUTPUT: good("a") + good("stranger")})
    batch = batch_of(total=2, error_file_id=None)
    results = merge_results(cast("Adapter", files), batch, log=structlog.get_logger(), ids=["a", "b"])
    assert [result.custom_id for result in results] == ["a", "stranger", "b"]


def test_a_line_may_be_read_in_a_shorter_way_and_still_counts_once() -> None:
    class Short:
        custom_id = "a"

    files = Files({OUTPUT: good("a") + good("b") + good("a"), INPUT: b""})
    results = merge_results(
        cast("Adapter", files),
        batch_of(total=2, error_file_id=None),
        log=structlog.get_logger(),
        quick=lambda line: Short() if b'"a"' in line else None,
    )
    assert [type(result) for result in results] == [Short, Result]


# Bad lines.


DEEP = b'{"custom_id": "b", "response": {"body": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}\n"


@pytest.mark.parametrize("bad", [b"{broken\n", b"[]\n", b'{"custom_id": 7}\n', b"\xff\n", DEEP, b"\x00\n"])
def test_a_line_that_cannot_be_read_costs_its_row_and_no_other(bad: bytes) -> None:
    requests = request("a") + request("b") + request("c")
    # The server counts two, since it lost one itself: the unreadable line alone is cause to look.
    for total in (2, 3):
        files = Files({OUTPUT: good("a") + bad + good("c"), INPUT: requests})
        results, warnings = merged(files, batch_of(total=total, error_file_id=None))
        assert outcomes(results) == [("a", "succeeded"), ("c", "succeeded"), ("b", "missing")]
        assert warnings[0].startswith("Line 2 of file-out cannot be read (")
        assert warnings[0].endswith("): its request counts as missing")


@pytest.mark.parametrize(
    ("text", "body"),
    [
        (b'{"logprob":-Infinity,"x":NaN}', {"logprob": None, "x": None}),
        (b'{"text":"cut \\ud83d"}', {"text": "cut ?"}),
        (b'{"text":"caf\xe9"}', {"text": "caf\ufffd"}),
        (b'"\\ud83d"', "?"),
    ],
    ids=["NaN", "half a character", "Latin-1", "half a character in a text"],
)
def test_an_answer_in_what_is_not_quite_json_is_kept(text: bytes, body: JsonValue) -> None:
    files = Files({OUTPUT: good("a", {"here": 1}).replace(b'{"here": 1}', text)})
    results, warnings = merged(files, batch_of(total=1, error_file_id=None))
    assert results == [result("succeeded", {"status_code": 200, "request_id": "req_1", "body": body}, None)]
    [warning] = warnings
    assert warning == (
        "Line 1 of file-out is not quite JSON (NaN, half a character, or not UTF-8): kept, with null or ? in those "
        "places"
    )


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ({"response": "down"}, "Expected `object | null`, got `str` - at `$.response`"),
        ({"error": ["x"]}, "Expected `str | object | null`, got `array` - at `$.error`"),
        ({"response": {"status_code": True}}, "Expected `int | null`, got `bool` - at `$.response.status_code`"),
    ],
)
def test_a_line_of_another_shape_fails_under_its_own_name(line: dict[str, JsonValue], why: str) -> None:
    files = Files({OUTPUT: _line({"custom_id": "a", **line}) + good("b")})
    results, warnings = merged(files, batch_of(total=2, error_file_id=None))
    message = f"The result has another shape than a result should have: {why}"
    assert results[0] == result("failed", None, {"code": "unreadable_result", "message": message})
    assert outcomes(results[1:]) == [("b", "succeeded")]
    assert warnings == [f"Line 1 of file-out has another shape than a result ({why}): its request counts as failed"]


def test_crlf_blank_lines_and_a_byte_order_mark_are_no_trouble() -> None:
    content = b"\xef\xbb\xbf" + good("a").replace(b"\n", b"\r\n") + b"\r\n\n" + good("b")[:-1]
    results, warnings = merged(
        Files({OUTPUT: content, INPUT: b"\xef\xbb\xbf" + request("c")}), batch_of(total=3, error_file_id=None)
    )
    assert outcomes(results) == [("a", "succeeded"), ("b", "succeeded"), ("c", "missing")]
    assert len(warnings) == 1


def test_a_file_that_is_wrong_on_every_line_does_not_flood_the_log() -> None:
    bad = b"{broken\n" * 1_000
    _, warnings = merged(Files({OUTPUT: good("a") + bad}), batch_of(total=1, error_file_id=None, input_file_id=None))
    assert len(warnings) == 6
    assert warnings[-1] == "995 more lines of file-out are like that"


# Half a download.


@pytest.mark.parametrize("size", [10_000, -1], ids=["the size tells", "the size is unknown"])
def test_a_file_that_ends_in_the_middle_of_a_line_is_a_broken_download(size: int) -> None:
    files = Files({OUTPUT: good("a") + good("b")[:-9], INPUT: request("b")}, {OUTPUT: size})
    with pytest.raises(BrokenTransferError) as broken:
        merged(files, batch_of(total=2, error_file_id=None))
    assert str(broken.value) == (
        "The file file-out ended in the middle of line 2. Nothing was lost at the provider or billed again, "
        "and nothing was written. A retry downloads it anew."
    )


def test_a_file_that_ends_so_at_the_provider_too_costs_one_row() -> None:
    files = Files({OUTPUT: good("a") + good("b")[:-9], INPUT: request("a") + request("b")})
    assert outcomes(merged(files, batch_of(total=2, error_file_id=None))[0]) == [("a", "succeeded"), ("b", "missing")]


def test_a_broken_download_of_the_input_loses_no_row_either() -> None:
    files = Files({OUTPUT: good("a"), INPUT: request("a") + request("b")[:-30]}, {INPUT: 10_000})
    with pytest.raises(BrokenTransferError, match="file-in ended in the middle of line 2"):
        merged(files, batch_of(total=2, error_file_id=None))


@pytest.mark.parametrize("page", [b"<html>\n<body>Log in</body>\n</html>\n", b'{"error": {"message": "Log in"}}\n'])
def test_a_page_in_place_of_the_file_is_not_a_file_of_missing_rows(page: bytes) -> None:
    with pytest.raises(UnexpectedAnswerError) as unexpected:
        merged(Files({OUTPUT: page, INPUT: request("a")}, {OUTPUT: 10_000}), batch_of(total=1, error_file_id=None))
    assert str(unexpected.value) == (
        f"The {len(page)} bytes that came for the file file-out hold no line of a batch at all, and are not its size, "
        "so something else than the API answered. Nothing was lost at the provider or billed again, and nothing was "
        "written. A retry downloads it anew; if that does not help, mend the connection's base URL."
    )


def test_memory_holds_the_ids_and_not_the_answers() -> None:
    class Large(Files):
        def file_content(self, file_id: str) -> Iterator[bytes]:
            assert file_id == OUTPUT
            yield from (good(str(number), {"text": "x" * 10_000}) for number in range(4_000))

    tracemalloc.start()
    try:
        batch = batch_of(total=4_000, error_file_id=None)
        count = sum(1 for _ in merge_results(cast("Adapter", Large({})), batch, log=structlog.get_logger()))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 4_000
    assert peak < 3_000_000


# Property: however the requests are spread over the files, with whatever between them.

GARBAGE = [b"\n", b"\r\n", b"{broken\n", b"null\n", b'{"custom_id": 7}\n', b"\xff\xfe\n"]


@given(st.data())
def test_every_request_ends_in_exactly_one_outcome_and_none_is_invented(data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.text("ab\u00e9\u2028\U0001f642", min_size=1), unique=True, max_size=8))
    places = {i: data.draw(st.sampled_from(["output", "error", "both", "twice", "shape", "nowhere"])) for i in ids}
    output = [good(i) for i in ids if places[i] in ("output", "both", "twice")]
    output += [good(i) for i in ids if places[i] == "twice"]
    output += [_line({"custom_id": i, "response": "down"}) for i in ids if places[i] == "shape"]
    errors = [unrun(i) for i in ids if places[i] in ("error", "both")]
    lines = {}
    for name, some in ((OUTPUT, output), (ERRORS, errors)):
        mixed = some + data.draw(st.lists(st.sampled_from(GARBAGE), max_size=3))
        whole = b"".join(data.draw(st.permutations(mixed)))
        lines[name] = whole[:-1] if whole.endswith(b"}\n") and data.draw(st.booleans()) else whole
    files = Files({**lines, INPUT: b"".join(map(request, data.draw(st.permutations(ids))))})
    counted = data.draw(st.sampled_from([0, len(ids)]))
    results, _ = merged(files, batch_of(total=counted))
    expected = {"output": "succeeded", "both": "succeeded", "twice": "succeeded", "error": "expired", "shape": "failed"}
    assert sorted(outcomes(results), key=str) == sorted(
        ((i, expected.get(place, "missing")) for i, place in places.items()), key=str
    )
