"""What stops a staging, what a provider asks of each line, and keys that are not unique."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import structlog
from structlog.testing import capture_logs
from support.staged import CHAT, ROOMY, made, refusal, staged

from airflow_provider_llmbatch.core.run.stage import SplitLimits, write_stage
from airflow_provider_llmbatch.core.storage import Folder
from airflow_provider_llmbatch.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airflow_provider_llmbatch.core.run.requests import Row

SAME_AGAIN = "Nothing was uploaded or billed. A retry would find the same: mend the input."


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "stage", private=True)


# What stops a staging


def test_an_input_without_rows_is_refused(folder: Folder) -> None:
    assert refusal(folder, []) == (
        "The input has no rows. Nothing was uploaded or billed. A retry would find the same: see why the source is "
        "empty, or skip the task where that is to be expected."
    )


# A line with a text of n characters has 97 + n bytes, and (26 + n) // 4 + 1 tokens.


@pytest.mark.parametrize(
    ("limits", "problem"),
    [
        (SplitLimits(5, 106), "makes a request of 107 bytes, and a batch may have 106"),
        (SplitLimits(5, 1_000, max_tokens=9), "makes a request of some 10 tokens, and max_tokens_per_batch is 9"),
        (
            SplitLimits(5, 1_000, endpoints=frozenset({CHAT})),
            'has the url "/v1/embeddings"; a batch can have one of /v1/chat/completions',
        ),
    ],
)
def test_a_row_that_fits_no_batch_is_named(limits: SplitLimits, problem: str, folder: Folder) -> None:
    url = CHAT if limits.endpoints is None else "/v1/embeddings"
    assert refusal(folder, [made(0), made(1, text="x" * 10, url=url)], limits) == (
        f"Line 2 of in.jsonl {problem}. {SAME_AGAIN}"
    )


@pytest.mark.parametrize(
    ("limits", "one_less"),
    [
        (SplitLimits(2, 1_000), SplitLimits(1, 1_000)),
        (SplitLimits(9, 214), SplitLimits(9, 213)),
        (SplitLimits(9, 1_000, max_tokens=20), SplitLimits(9, 1_000, max_tokens=19)),
    ],
)
def test_a_part_takes_exactly_what_it_may(limits: SplitLimits, one_less: SplitLimits, folder: Folder) -> None:
    rows = [made(number, text="x" * 10) for number in range(3)]
    assert [(part.rows, part.bytes, part.tokens) for part in staged(folder, rows, limits).parts] == [
        (2, 214, 20),
        (1, 107, 10),
    ]
    assert [part.rows for part in staged(folder, rows, one_less).parts] == [1, 1, 1]


def test_more_models_than_one_run_can_keep_apart_are_refused(folder: Folder) -> None:
    assert refusal(folder, (made(number, model=f"m{number}") for number in range(65))) == (
        'Line 65 of in.jsonl asks for "m64" at /v1/chat/completions, and the rows before it for 64 other models: a '
        f"batch has one model, and a run can have no more than that. {SAME_AGAIN}"
    )


def test_a_source_that_breaks_off_leaves_nothing(folder: Folder) -> None:
    def rows() -> Iterator[Row]:
        yield from map(made, range(3))
        raise ConnectionError("the source is gone")

    with pytest.raises(ConnectionError, match="the source is gone"):
        staged(folder, rows(), SplitLimits(max_rows=1, max_bytes=1_000))
    assert folder.local is not None
    assert not folder.local.exists()


def test_a_stage_that_could_not_be_stored_leaves_nothing(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_self: Folder, name: str, _content: bytes) -> None:
        raise StorageError(f"{name}: full")

    monkeypatch.setattr(Folder, "put", full)
    with pytest.raises(StorageError, match=r"stage\.json: full"):
        staged(folder, [made(0)])
    assert folder.local is not None
    assert not folder.local.exists()


class Doubling:
    """A provider that uploads twice as many bytes, and keeps count of rows."""

    def __init__(self) -> None:
        self.rows = 0

    def uploaded_bytes(self, line: bytes) -> int:
        self.rows += 1
        if b"forbidden" in line:
            raise ValueError("asks for what the provider cannot do")
        return 2 * len(line) + self.rows


def test_a_provider_counts_bytes_its_own_way_and_anew_in_each_part(folder: Folder) -> None:
    # A line has 97 bytes without its line end, so the first of a part counts 195, and the second 196.
    stage = staged(folder, map(made, range(5)), SplitLimits(max_rows=9, max_bytes=391), check=Doubling)
    assert [(part.rows, part.bytes) for part in stage.parts] == [(2, 196), (2, 196), (1, 98)]


def test_what_a_provider_cannot_do_is_named(folder: Folder) -> None:
    assert refusal(folder, [made(0), made(1, text="forbidden")], check=Doubling) == (
        f"Line 2 of in.jsonl asks for what the provider cannot do. {SAME_AGAIN}"
    )


# Keys


def keyed(*keys: bytes) -> list[Row]:
    return [made(number, key=key) for number, key in enumerate(keys)]


def test_repeated_keys_are_said_and_allowed(folder: Folder) -> None:
    with capture_logs() as logs:
        stage = write_stage(folder, keyed(b"1", b"2", b"1", b"1"), limits=ROOMY, log=structlog.get_logger())
    assert stage.rows == 4
    assert [entry["event"] for entry in logs] == [
        (
            "2 rows have the key of an earlier one. Each is asked for and answered by itself; unique_key=True refuses "
            "such an input"
        )
    ]


def test_the_first_repeated_key_is_found_if_keys_must_be_unique(folder: Folder) -> None:
    keys = [b"%d" % number for number in range(60_000)]
    keys[47_777], keys[58_888], keys[59_000] = keys[11], keys[46_543], keys[46_543]
    assert refusal(folder, keyed(*keys), SplitLimits(200_000, 100_000_000), unique_key=True) == (
        "Row 47,778 of the input has the same key as row 12, and unique_key=True refuses that. Nothing was "
        "uploaded or billed. A retry would find the same: mend the input."
    )


def test_keys_that_are_unique_pass(folder: Folder) -> None:
    assert staged(folder, keyed(b'"1"', b"1", b'"a"'), unique_key=True).rows == 3
