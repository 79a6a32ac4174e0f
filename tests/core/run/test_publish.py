"""The one result set of a run: complete, in order, byte for byte what went in, and published in one step."""

from __future__ import annotations

import io
import json
from decimal import Decimal
from typing import TYPE_CHECKING, BinaryIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.result_sets import FACTS, Part, Staged, answer, published, rows_of

from airflow_provider_llmbatch.core.costs.bill import Costs, CostTotals, ModelCosts, costs_of
from airflow_provider_llmbatch.core.run.manifest import read_manifest
from airflow_provider_llmbatch.core.storage import Folder
from airflow_provider_llmbatch.errors import ResultSetError
from airflow_provider_llmbatch.models import Usage

if TYPE_CHECKING:
    from pathlib import Path


def test_rows_come_out_in_their_order_with_what_went_in_and_what_came_back(tmp_path: Path) -> None:
    staged = Staged([{0: b'"key":"a","input":{"x": 1.0}', 2: b'"key":"b","input":{"x":2}'}, {1: b'"key":"c"', 3: b""}])
    answers = {
        (0, 1): answer(2, "succeeded", 1, text="two") + answer(0, "missing", 1),
        (0, 2): answer(0, "invalid", 2, text="zero"),
        (1, 1): answer(1, "failed", 1, error={"code": "x", "message": "y"}) + answer(3, "succeeded", 1),
    }
    manifest = published(tmp_path, staged, answers)
    first, second = ((tmp_path / "out" / part.uri).read_bytes() for part in manifest.parts)
    rest = b'"parsed":null,"error":null,"finish_reason":null,"usage":null,"provider":"openai","model":"answering-1"'
    assert first == (
        b'{"key":"a","input":{"x": 1.0},"outcome":"invalid","text":"zero",'
        + rest
        + b',"batch_id":"batch_2","attempt":2}\n'
        b'{"key":"b","input":{"x":2},"outcome":"succeeded","text":"two",'
        + rest
        + b',"batch_id":"batch_1","attempt":1}\n'
    )
    assert [json.loads(line).get("key") for line in second.splitlines()] == ["c", None]
    assert manifest == read_manifest(Folder(tmp_path / "out"))
    told = manifest.model_dump(mode="json", exclude_defaults=True)
    for entry_ in (told, *told["parts"]):
        del entry_["costs"]
    assert told == {
        **FACTS.model_dump(mode="json", exclude_defaults=True),
        "publish_id": "p-1",
        "published_at": 1_700_000_100,
        "format": "jsonl",
        "rows": 4,
        "outcomes": {"succeeded": 2, "invalid": 1, "failed": 1},
        "usage": Usage(total_tokens=40, input_tokens_details={}, output_tokens_details={}).model_dump(
            exclude_defaults=True
        ),
        "costs_uri": "data/p-1/costs.json",
        "models": ["answering-1"],
        "parts": [
            {
                "number": 0,
                "uri": "data/p-1/part-00000.jsonl",
                "rows": 2,
                "bytes": len(first),
                "outcomes": {"succeeded": 1, "invalid": 1},
                "model": "asked-1",
                "endpoint": "/v1/chat/completions",
                "attempts": [
                    {"attempt": 1, "batch_id": "batch_1", "usage": {"total_tokens": 10}},
                    {"attempt": 2, "batch_id": "batch_2", "usage": {"total_tokens": 20}},
                ],
            },
            {
                "number": 1,
                "uri": "data/p-1/part-00001.jsonl",
                "rows": 2,
                "bytes": len(second),
                "outcomes": {"succeeded": 1, "failed": 1},
                "model": "asked-1",
                "endpoint": "/v1/chat/completions",
                "attempts": [{"attempt": 1, "batch_id": "batch_1", "usage": {"total_tokens": 10}}],
            },
        ],
    }


def test_rows_of_a_part_that_was_never_submitted_are_missing_and_say_so(tmp_path: Path) -> None:
    manifest = published(tmp_path, Staged([{0: b'"key":1'}, {1: b'"key":2'}]), {(0, 1): answer(0, "succeeded", 1)})
    assert rows_of(tmp_path, manifest)[1] == {
        "key": 2,
        "outcome": "missing",
        "text": None,
        "parsed": None,
        "error": {"code": "not_submitted", "message": "The run ended before this request was submitted."},
        "finish_reason": None,
        "usage": None,
        "cost_usd": 0,
        "provider": "openai",
        "model": "asked-1",
        "batch_id": None,
        "attempt": None,
    }
    assert (manifest.outcomes, manifest.models) == ({"succeeded": 1, "missing": 1}, ("answering-1",))


def billed(dollars: str, rows: int) -> Costs:
    amounts = {"total_usd": dollars, "known_usd": dollars, "standard_usd": str(2 * int(dollars))}
    return costs_of([ModelCosts.model_validate({"model": "m", "rows": rows, "source": "a table", **amounts})])


def test_the_bill_of_a_set_has_every_batch_and_the_manifest_its_sums(tmp_path: Path) -> None:
    staged = Staged([{0: b""}, {1: b""}])
    answers = {(0, 1): answer(0, "missing", 1), (0, 2): answer(0, "succeeded", 2), (1, 3): answer(1, "succeeded", 3)}
    bills = {"batch_1": billed("1", 0), "batch_2": billed("2", 1), "batch_3": billed("4", 1)}
    manifest = published(tmp_path, staged, answers, bills=bills)
    assert manifest.costs is not None
    assert manifest.costs.totals() == CostTotals(total_usd=Decimal(7), known_usd=Decimal(7), standard_usd=Decimal(14))
    assert [(each.model, each.rows, each.total_usd) for each in manifest.costs.models] == [("m", 2, 7)]
    assert [part.costs and part.costs.total_usd for part in manifest.parts] == [3, 4]
    of_attempts = [attempt.costs for part in manifest.parts for attempt in part.attempts]
    assert of_attempts == [bill.totals() for bill in bills.values()]
    assert manifest == read_manifest(Folder(tmp_path / "out"))
    assert manifest.costs_uri is not None
    told = json.loads((tmp_path / "out" / manifest.costs_uri).read_bytes())
    batches = told.pop("batches")
    assert [(each["part"], each["attempt"], each["batch_id"], each["costs"]["total_usd"]) for each in batches] == [
        (0, 1, "batch_1", "1"),
        (0, 2, "batch_2", "2"),
        (1, 3, "batch_3", "4"),
    ]
    assert told == {
        **manifest.costs.model_dump(mode="json"),
        "schema_version": 1,
        "run": FACTS.run.model_dump(),
        "provider": "openai",
        "publish_id": "p-1",
    }


def test_what_an_older_release_landed_is_not_known_to_cost_anything(tmp_path: Path) -> None:
    answers = {(0, 1): answer(0, "succeeded", 1), (1, 2): answer(1, "succeeded", 2)}
    manifest = published(tmp_path, Staged([{0: b""}, {1: b""}]), answers, bills={"batch_2": billed("2", 1)})
    assert manifest.costs is not None
    assert (manifest.costs.total_usd, manifest.costs.known_usd, manifest.costs.unpriced_rows) == (None, 2, 1)
    assert [part.attempts[0].costs is None for part in manifest.parts] == [True, False]


# What does not add up is never published.


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (answer(0, "succeeded", 1), "part-00000.jsonl would have 1 rows with an outcome, but the input has 2"),
        (answer(0, "succeeded", 1) + answer(9, "failed", 1), "(9 is not in this part)"),
        (b"{}\n", "part-00000.answers-1.jsonl in the stage is not what was landed (subsection not found)"),
    ],
)
def test_answers_that_do_not_add_up_to_the_input_publish_nothing(tmp_path: Path, content: bytes, problem: str) -> None:
    with pytest.raises(ResultSetError) as wrong:
        published(tmp_path, Staged([{0: b"", 1: b""}]), {(0, 1): content})
    assert problem in str(wrong.value)
    assert read_manifest(Folder(tmp_path / "out")) is None


def test_parts_that_do_not_add_up_to_the_input_publish_nothing(tmp_path: Path) -> None:
    staged = Staged([{0: b""}])
    staged.rows = 2
    with pytest.raises(ResultSetError, match="The result set would have 1 rows with an outcome, but the input has 2"):
        published(tmp_path, staged, {(0, 1): answer(0, "succeeded", 1)})
    assert read_manifest(Folder(tmp_path / "out")) is None


def test_the_manifest_names_every_model_that_answered(tmp_path: Path) -> None:
    lines = [answer(n, "succeeded" if n < 3 else "failed", 1) for n in range(4)]
    named = [line.replace(b"answering-1", b"m-%d" % (n % 2 + n // 3 * 5)) for n, line in enumerate(lines)]
    lines = [*named, answer(4, "succeeded", 1).replace(b'"answering-1"', b"null")]
    manifest = published(tmp_path, Staged([dict.fromkeys(range(5), b"")]), {(0, 1): b"".join(lines)})
    assert manifest.models == ("m-0", "m-1")


class Swapped(Staged):
    """A stage whose rows are in another order than its parts say."""

    def rows_of(self, part: Part) -> BinaryIO:
        return io.BytesIO(b"".join(reversed(list(super().rows_of(part)))))


def test_rows_that_are_not_those_that_were_submitted_publish_nothing(tmp_path: Path) -> None:
    answers = {(0, 1): answer(0, "succeeded", 1) + answer(1, "succeeded", 1)}
    with pytest.raises(ResultSetError, match="The rows of part 0 in the stage are not those that were submitted"):
        published(tmp_path, Swapped([{0: b"", 1: b""}]), answers)
    assert read_manifest(Folder(tmp_path / "out")) is None


# Property: whatever was answered, in whatever order, over whatever attempts.

HEADS = st.builds(
    lambda key, gap, value: b'"key":%b,"input":{"x":%b%b}' % (key, gap, value),
    st.sampled_from([b'"a"', b'"a"', b"1", b"1.0", b'{"k":[1,2]}', b'"\\u00e9\\n"', '"\u2028"'.encode(), b"null"]),
    st.sampled_from([b"", b" ", b"\t"]),
    st.sampled_from([b"1e3", b'"outcome"', b'"\\"outcome\\":\\"succeeded\\""', b"{}", b'"},"']),
)
OUTCOMES = st.sampled_from(["succeeded", "invalid", "failed", "expired", "cancelled", "missing"])
TEXTS = st.sampled_from(["", '"outcome":"succeeded"', '","batch_id":"', "\n", "x" * 9_000, '"model":"other"'])


def best(history: list[tuple[str, int]]) -> tuple[str, int]:
    for wanted in ("succeeded", "invalid"):
        for outcome, attempt in history:
            if outcome == wanted:
                return outcome, attempt
    return history[-1]


@settings(max_examples=50)  # each writes, and syncs, up to a dozen files
@given(data=st.data())
def test_every_row_comes_out_once_in_order_with_its_best_answer(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tmp_path = tmp_path_factory.mktemp("run")
    total = data.draw(st.integers(1, 12))
    heads = [data.draw(HEADS) for _ in range(total)]
    part_of = [data.draw(st.integers(0, 2)) for _ in range(total)]
    used = sorted(set(part_of))
    parts = [{n: heads[n] for n in range(total) if part_of[n] == part} for part in used]
    histories: dict[int, list[tuple[str, int]]] = {}
    answers = {}
    for number, rows in enumerate(parts):
        asked = sorted(rows)
        for attempt in range(1, data.draw(st.integers(1, 3)) + 1):
            lines = []
            for ordinal in data.draw(st.permutations(asked)):
                outcome = data.draw(OUTCOMES)
                histories.setdefault(ordinal, []).append((outcome, attempt))
                lines.append(answer(ordinal, outcome, attempt, text=data.draw(TEXTS)))
            answers[number, attempt] = b"".join(lines)
            asked = data.draw(st.lists(st.sampled_from(asked), unique=True).map(sorted)) if asked else []
    manifest = published(tmp_path, Staged(parts), answers)
    lines = [line for part in manifest.parts for line in (tmp_path / "out" / part.uri).read_bytes().splitlines()]
    order = [ordinal for rows in parts for ordinal in rows]
    assert [line[1 : 1 + len(heads[n])] for n, line in zip(order, lines, strict=True)] == [heads[n] for n in order]
    rows = [json.loads(line) for line in lines]
    expected = [best(histories[n]) for n in order]
    assert [(row["outcome"], row["attempt"]) for row in rows] == expected
    assert manifest.outcomes == {name: [o for o, _ in expected].count(name) for name in {o for o, _ in expected}}
    assert sum(manifest.outcomes.values()) == sum(part.rows for part in manifest.parts) == total
    answered = any(outcome in ("succeeded", "invalid") for outcome, _ in expected)
    assert manifest.models == (("answering-1",) if answered else ())
