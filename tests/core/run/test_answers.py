"""Answers of one batch, landed: every row that was asked for once, with what its answer says."""

from __future__ import annotations

import json
import tracemalloc
from array import array
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, cast

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from structlog.testing import capture_logs
from support.landed_again import landed_again

from airflow_provider_llmbatch.core.costs.prices import Prices
from airflow_provider_llmbatch.core.costs.table import price_table
from airflow_provider_llmbatch.core.run.answers import answers_name, land
from airflow_provider_llmbatch.core.run.shape import shape_of
from airflow_provider_llmbatch.core.storage import Folder
from airflow_provider_llmbatch.errors import BrokenTransferError
from airflow_provider_llmbatch.models import Batch, File, RequestCounts, Usage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from pydantic import JsonValue

    from airflow_provider_llmbatch.adapters.base import Adapter
    from airflow_provider_llmbatch.core.run.answers import Landed

NO_LINE = {"code": "missing", "message": "No result that can be read names this request."}
USAGE = {
    "input_tokens": 10,
    "input_tokens_details": {"cached_tokens": 4},
    "output_tokens": 5,
    "output_tokens_details": {"reasoning_tokens": 2},
    "total_tokens": 15,
}


class Sentiment(BaseModel):
    label: Literal["good", "bad"]


class Results:
    """A provider's result files, in blocks of few bytes."""

    provider = "openai"
    names_unexecuted = True
    verifies_downloads = False

    def __init__(self, output: bytes, errors: bytes = b"", *, size: int | None = None) -> None:
        self._contents = {"file-out": output, "file-err": errors}
        self._size = size

    def file_content(self, file_id: str) -> Iterator[bytes]:
        content = self._contents[file_id]
        for at in range(0, len(content), 1000):
            yield content[at : at + 1000]

    def retrieve_file(self, file_id: str) -> File:
        return File(id=file_id, bytes=len(self._contents[file_id]) if self._size is None else self._size)


def batch_of(status: str = "completed", **fields: Any) -> Batch:
    files = {"output_file_id": "file-out", "error_file_id": "file-err"}
    return Batch.model_validate({"id": "batch_1", "status": status, "model": "asked-1", **files, **fields})


def answered(ordinal: int | str, text: str | None = "ok", **body: JsonValue) -> bytes:
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"input_tokens": 10, "output_tokens": 5, "input_tokens_details": {"cached_tokens": 4}}
    usage |= {"output_tokens_details": {"reasoning_tokens": 2}}
    content = {"model": "answering-1", "choices": [choice], "usage": usage, **body}
    response = {"status_code": 200, "request_id": "req_1", "body": content}
    return json.dumps({"custom_id": str(ordinal), "response": response, "error": None}).encode() + b"\n"


def failed(ordinal: int, code: str, status: int | None = None) -> bytes:
    error = {"code": code, "message": "So it is."}
    response = None if status is None else {"status_code": status, "request_id": "req_1", "body": {"error": error}}
    line = {"custom_id": str(ordinal), "response": response, "error": error if status is None else None}
    return json.dumps(line).encode() + b"\n"


def landed(
    folder: Folder, results: Results, batch: Batch, ordinals: Sequence[int], **options: Any
) -> tuple[Landed, list[dict[str, Any]], list[str]]:
    """What is told of it, its lines, and what is warned of."""
    asked = ordinals if isinstance(ordinals, range) else array("Q", ordinals)
    with capture_logs() as logs:
        found = land(
            cast("Adapter", results),
            batch,
            part=3,
            attempt=2,
            ordinals=asked,
            folder=folder,
            log=structlog.get_logger(),
            **options,
        )
    content = folder.get("part-00003.answers-2.jsonl")
    assert content is not None
    assert found.bytes == len(content) == folder.size(answers_name(3, 2))
    return found, [json.loads(line) for line in content.splitlines()], [log["event"] for log in logs]


def told(found: Landed | None) -> tuple[dict[str, int], list[int]]:
    assert found is not None
    return dict(found.outcomes), list(found.unresolved)


def line(ordinal: int, outcome: str = "succeeded", **fields: Any) -> dict[str, Any]:
    """As an answer that says nothing would be."""
    nothing: dict[str, Any] = dict.fromkeys(("text", "parsed", "error", "finish_reason", "usage"))
    nothing["cost_usd"] = None if outcome in ("succeeded", "invalid") else 0
    end = {"provider": "openai", "model": "asked-1", "batch_id": "batch_1", "attempt": 2}
    return {"ordinal": ordinal, "again": False, "outcome": outcome, **nothing, **end, **fields}


GOOD = {"finish_reason": "stop", "usage": USAGE, "model": "answering-1"}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "stage")


def test_both_files_become_one_line_for_each_row_that_was_asked_for(folder: Folder) -> None:
    output = answered(7, 'caf\u00e9 "\u2028\n') + answered(5, None, refusal="x")
    errors = failed(6, "batch_expired") + failed(9, "rate_limit_exceeded", 429) + failed(11, "bad", 400)
    found, lines, warnings = landed(folder, Results(output, errors), batch_of(), [5, 6, 7, 9, 11, 40])
    why = {"message": "So it is."}
    assert lines == [
        line(7, text='caf\u00e9 "\u2028\n', **GOOD),
        line(5, **GOOD),
        line(6, "expired", again=True, error={"code": "batch_expired", **why}),
        line(9, "failed", again=True, error={"code": "rate_limit_exceeded", **why}),
        line(11, "failed", error={"code": "bad", **why}),
        line(40, "missing", again=True, error=NO_LINE),
    ]
    assert told(found) == ({"succeeded": 2, "expired": 1, "failed": 2, "missing": 1}, [6, 9, 40])
    assert found.reasons == {"batch_expired": 1, "rate_limit_exceeded": 1, "bad": 1, "missing": 1}
    assert found.usage == Usage.model_validate(
        {"input_tokens": 20, "output_tokens": 10, "total_tokens": 30}
        | {"input_tokens_details": {"cached_tokens": 8}, "output_tokens_details": {"reasoning_tokens": 4}}
    )
    assert warnings == ["1 requests have no result of batch_1 that can be read: their outcome is missing"]


def test_fields_that_few_endpoints_have_stand_before_those_that_all_have(folder: Folder) -> None:
    call = {"id": "call_1", "type": "function"}
    message = {"content": None, "refusal": "No.", "tool_calls": [call]}
    _, lines, _ = landed(folder, Results(answered(0, choices=[{"message": message}])), batch_of(), range(1))
    assert lines == [line(0, **{**GOOD, "finish_reason": None}, refusal="No.", tool_calls=[call])]
    assert list(lines[0])[-6:] == ["refusal", "tool_calls", "provider", "model", "batch_id", "attempt"]


def test_whole_bodies_are_kept_when_they_are_asked_for(folder: Folder) -> None:
    _, [kept], _ = landed(folder, Results(answered(0, extra=1)), batch_of(), range(1), keep_body=True)
    assert kept["body"] == json.loads(answered(0, extra=1))["response"]["body"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"label": "good"}', {"parsed": {"label": "good"}}),
        ("Good!", {"error": {"code": "not_json", "message": "$: Invalid JSON: expected value at line 1 column 1"}}),
        (None, {"error": {"code": "no_text", "message": "The answer has no text."}}),
    ],
)
def test_what_does_not_fit_is_invalid_and_kept_as_it_came(
    folder: Folder, text: str | None, expected: dict[str, Any]
) -> None:
    outcome = "succeeded" if "parsed" in expected else "invalid"
    found, lines, _ = landed(folder, Results(answered(0, text)), batch_of(), range(1), shape=shape_of(Sentiment))
    assert lines == [line(0, outcome, text=text, **GOOD, **expected)]
    assert told(found) == ({outcome: 1}, [])


def test_an_answer_that_does_not_fit_for_having_been_cut_off_says_so(folder: Folder) -> None:
    choice = {"message": {"content": '{"label": "go'}, "finish_reason": "length"}
    _, lines, _ = landed(
        folder, Results(answered(0, choices=[choice])), batch_of(), range(1), shape=shape_of(Sentiment)
    )
    assert lines[0]["error"]["message"].endswith(
        ". The answer was cut off at its limit of tokens (finish_reason length): allow more of them."
    )


def test_a_failed_answer_tells_what_it_cost(folder: Folder) -> None:
    body = {"object": "response", "status": "failed", "error": {"code": "server_error", "message": "Broke off."}}
    found, lines, _ = landed(folder, Results(answered(0, **body, output=[], choices=None)), batch_of(), range(1))
    error = {"code": "server_error", "message": "Broke off."}
    told = {"error": error, "usage": USAGE, "cost_usd": None, "model": "answering-1"}
    assert lines == [line(0, "failed", again=True, **told)]
    assert found.usage.total_tokens == 15


TABLE = {"answering-1": {"batch": {"input": "1", "cached_input": "0.1", "output": "4"}}}


def test_each_answer_has_its_price_and_so_has_a_failure_that_was_billed(folder: Folder) -> None:
    broken_off = {"object": "response", "status": "failed", "error": {"code": "x"}, "output": [], "choices": None}
    output = answered(0) + answered(1, **broken_off) + answered(2, usage=None) + answered(3, model="unheard-of")
    prices = Prices(None, price_table({"models": TABLE}, name="t"))
    found, lines, _ = landed(folder, Results(output, failed(4, "bad", 400)), batch_of(), range(5), prices=prices)
    # 6 tokens of input, 4 that were cached, 5 of output
    assert [row["cost_usd"] for row in lines] == [0.0000264, 0.0000264, None, None, 0]
    assert found.costs is not None
    assert (found.costs.total_usd, found.costs.known_usd) == (None, Decimal("0.0000528"))
    assert found.costs.unpriced_models == ("answering-1", "unheard-of")


def test_answers_that_tell_nothing_are_billed_by_the_sum_that_the_provider_tells(folder: Folder) -> None:
    usage = {"input_tokens": 1_000_000, "output_tokens": 500_000, "total_tokens": 1_500_000}
    batch = batch_of(model="answering-1", usage=usage, error_file_id=None)
    output = answered(0, usage=None) + answered(1, usage=None)
    prices = Prices(None, price_table({"models": TABLE}, name="t"))
    found, lines, _ = landed(folder, Results(output), batch, range(2), prices=prices)
    assert found.costs is not None
    assert (found.costs.total_usd, found.costs.models[0].rows) == (Decimal(3), 2)
    assert [row["cost_usd"] for row in lines] == [None, None]


@pytest.mark.parametrize(
    ("errors", "code", "message", "again"),
    [
        ({"data": [{"code": "url_mismatch", "message": "Line 3."}, {"code": "x"}]}, "url_mismatch", "Line 3.", False),
        ({"data": [{"code": "server_error"}]}, "server_error", "The provider failed batch_1 as a whole.", True),
        (None, "batch_failed", "The provider failed batch_1 as a whole.", False),
    ],
)
def test_a_batch_that_failed_as_a_whole_fails_each_row(
    folder: Folder, errors: JsonValue, code: str, message: str, again: bool
) -> None:
    batch = batch_of("failed", errors=errors, output_file_id=None, error_file_id=None)
    found, lines, warnings = landed(folder, Results(b""), batch, [2, 5])
    error = {"code": code, "message": message}
    assert lines == [line(2, "failed", again=again, error=error), line(5, "failed", again=again, error=error)]
    assert (told(found), warnings) == (({"failed": 2}, [2, 5] if again else []), [])


def test_a_batch_that_failed_midway_keeps_what_it_answered(folder: Folder) -> None:
    batch = batch_of("failed", errors=[{"code": "internal_error", "message": "Gave up."}], error_file_id=None)
    _, lines, _ = landed(folder, Results(answered(1)), batch, range(3))
    error = {"code": "internal_error", "message": "Gave up."}
    assert lines == [
        line(1, text="ok", **GOOD),
        line(0, "failed", again=True, error=error),
        line(2, "failed", again=True, error=error),
    ]


@pytest.mark.parametrize("stranger", ["-1", "3", "00", "01", "1.0", "\u0661", "a", "", "9" * 5_000, str(2**64 + 1)])
def test_results_that_name_no_request_of_the_batch_are_left_out(folder: Folder, stranger: str) -> None:
    for ordinals in (range(3), [0, 1, 2]):
        found, lines, warnings = landed(folder, Results(answered(stranger) + answered(1)), batch_of(), ordinals)
        assert [row["ordinal"] for row in lines] == [1, 0, 2]
        assert told(found)[0] == {"succeeded": 1, "missing": 2}
        assert warnings[-1] == "1 results of batch_1 name no request of it: left out"


def test_a_bad_line_costs_one_row(folder: Folder) -> None:
    output = answered(0) + b"{broken\n" + answered(2)
    found, _, _ = landed(folder, Results(output, size=len(output)), batch_of(error_file_id=None), range(3))
    assert told(found) == ({"succeeded": 2, "missing": 1}, [1])


def test_a_landing_that_breaks_leaves_nothing_and_is_repeated_whole(folder: Folder) -> None:
    cut = Results(answered(0) + answered(1)[:-9], size=10_000)
    with pytest.raises(BrokenTransferError):
        landed(folder, cut, batch_of(error_file_id=None), range(2))
    assert landed_again(folder, 3, 2) is None
    assert list(cast("Path", folder.local).glob("*")) == []
    first = landed(folder, Results(answered(0) + answered(1)), batch_of(), range(2))
    with pytest.raises(BrokenTransferError):
        landed(folder, cut, batch_of(error_file_id=None), range(2))
    assert landed(folder, Results(answered(0) + answered(1)), batch_of(), range(2)) == first


def test_the_batchs_own_usage_counts_where_rows_tell_none(folder: Folder) -> None:
    own = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
    for body, total in (({"usage": None}, 7), ({}, 15)):
        found, _, _ = landed(folder, Results(answered(0, **body)), batch_of(usage=own), range(1))  # type: ignore[arg-type]
        assert found.usage.total_tokens == total


def test_memory_holds_ids_and_not_answers(folder: Folder) -> None:
    class Large(Results):
        def file_content(self, file_id: str) -> Iterator[bytes]:
            yield from (answered(number, "x" * 10_000) for number in range(1_500) if file_id == "file-out")

    counts = RequestCounts(total=1_500)
    tracemalloc.start()
    try:
        land(
            cast("Adapter", Large(b"")),
            batch_of(request_counts=counts),
            part=3,
            attempt=2,
            ordinals=range(1_500),
            folder=folder,
            log=structlog.get_logger(),
        )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3_000_000  # of 15 MB


@given(data=st.data())
def test_every_row_that_was_asked_for_lands_once_and_can_be_read_again(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = Folder(tmp_path_factory.mktemp("stage"))
    ordinals = sorted(data.draw(st.sets(st.integers(0, 30) | st.integers(0, 2**40), max_size=8)))
    kinds = {ordinal: data.draw(st.sampled_from([*WAYS, "nowhere"])) for ordinal in ordinals}
    made = [WAYS[kind](ordinal) for ordinal, kind in kinds.items() if kind != "nowhere"]
    mixed = data.draw(st.permutations(made + data.draw(st.lists(st.sampled_from([b"\n", b"{bad\n"]), max_size=2))))
    cut = data.draw(st.integers(0, len(mixed)))
    found, lines, _ = landed(
        folder, Results(b"".join(mixed[:cut]), b"".join(mixed[cut:])), batch_of(), ordinals, shape=shape_of(Sentiment)
    )
    expected = {ordinal: OUTCOME_OF.get(kind, "missing") for ordinal, kind in kinds.items()}
    assert sorted((row["ordinal"], row["outcome"]) for row in lines) == sorted(expected.items())
    assert found.outcomes == {name: list(expected.values()).count(name) for name in set(expected.values())}
    again = [ordinal for ordinal, kind in kinds.items() if kind in ("late", "busy", "nowhere")]
    assert list(found.unresolved) == again
    assert landed_again(folder, 3, 2) == found


WAYS = {
    "good": lambda ordinal: answered(ordinal, '{"label":"good"}'),
    "odd": lambda ordinal: answered(ordinal, "so so"),
    "late": lambda ordinal: failed(ordinal, "batch_expired"),
    "busy": lambda ordinal: failed(ordinal, "busy", 503),
    "refused": lambda ordinal: failed(ordinal, "refused", 400),
}
OUTCOME_OF = {"good": "succeeded", "odd": "invalid", "late": "expired", "busy": "failed", "refused": "failed"}
