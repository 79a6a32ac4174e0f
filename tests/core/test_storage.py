"""A file appears under its final name when it is whole, and not before, wherever it is."""

from __future__ import annotations

import io
import os
import stat
from typing import TYPE_CHECKING

import pytest
from typing_extensions import override

from airflow_provider_llmbatch.core.storage import landing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Stopped(Exception):  # noqa: N818 - it stands for whatever stops a task
    pass


class Store:
    """An object store as fsspec has them: what is written appears on close, unless it is discarded."""

    def __init__(self, *, breaks_after: int | None = None) -> None:
        self.name = "object"
        self.content: bytes | None = b"of yesterday"
        self.opened: list[str] = []
        self.breaks_after = breaks_after

    def open(self, mode: str = "r") -> object:
        self.opened.append(mode)
        return _Object(self)


class _Object(io.BytesIO):
    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store
        self._discarded = False

    @override
    def write(self, data: object, /) -> int:
        written = super().write(data)  # type: ignore[arg-type] # as BytesIO takes it
        if self._store.breaks_after is not None and self.tell() > self._store.breaks_after:
            raise Stopped
        return written

    def discard(self) -> None:
        self._discarded = True

    @override
    def close(self) -> None:
        if not self.closed and not self._discarded:
            self._store.content = self.getvalue()
        super().close()


@pytest.fixture
def umask() -> Iterator[int]:
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


def land(place: Path | Store, content: bytes = b"half", *, then: type[BaseException] | None = None) -> None:
    with landing(place) as stream:
        stream.write(content)
        if then is not None:
            raise then


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_local_file_appears_whole_in_folders_made_for_it(tmp_path: Path) -> None:
    place = tmp_path / "a" / "b" / "results.jsonl"
    with landing(place) as stream:
        stream.write(b"one\n")
        stream.flush()
        assert not place.exists()
        stream.write(b"two\n")
    assert (place.read_bytes(), names(place.parent)) == (b"one\ntwo\n", ["results.jsonl"])


def test_a_local_file_stays_as_it_was_when_writing_stops(tmp_path: Path) -> None:
    place = tmp_path / "results.jsonl"
    place.write_bytes(b"of yesterday")
    with pytest.raises(Stopped):
        land(place, then=Stopped)
    assert (place.read_bytes(), names(tmp_path)) == (b"of yesterday", ["results.jsonl"])


def test_a_task_that_is_killed_leaves_no_half_file_either(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        land(tmp_path / "results.jsonl", then=KeyboardInterrupt)
    assert names(tmp_path) == []


@pytest.mark.usefixtures("umask")
def test_others_may_read_it_as_the_umask_says(tmp_path: Path) -> None:
    with landing(tmp_path / "results.jsonl"):
        pass
    assert stat.S_IMODE((tmp_path / "results.jsonl").stat().st_mode) == 0o640


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127], ids=["255 letters", "254 bytes"])
def test_a_name_as_long_as_file_systems_allow_is_written(name: str, tmp_path: Path) -> None:
    with landing(tmp_path / name) as stream:
        stream.write(b"whole")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(name, b"whole")]


def test_a_folder_in_its_place_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl" / "inside").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        land(tmp_path / "results.jsonl")
    assert (names(tmp_path), names(tmp_path / "results.jsonl")) == (["results.jsonl"], ["inside"])


def test_an_object_is_stored_in_one_go_when_it_is_whole() -> None:
    store = Store()
    with landing(store) as stream:
        stream.write(b"x" * 3_000_000)
        assert (store.opened, store.content) == ([], b"of yesterday")
    assert (store.opened, store.content) == (["wb"], b"x" * 3_000_000)


def test_an_object_stays_as_it_was_when_writing_stops() -> None:
    store = Store()
    with pytest.raises(Stopped):
        land(store, then=Stopped)
    assert (store.opened, store.content) == ([], b"of yesterday")


def test_an_object_whose_storing_breaks_off_is_thrown_away() -> None:
    store = Store(breaks_after=1_500_000)
    with pytest.raises(Stopped):
        land(store, b"x" * 3_000_000)
    assert store.content == b"of yesterday"
