"""A folder keeps whole files or none, with the same verbs on this machine and in an object store."""

from __future__ import annotations

import errno
import os
import stat
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from support.object_storage import airflow_gs, airflow_memory
from upath import UPath

from airflow_provider_llmbatch.core.storage import Folder
from airflow_provider_llmbatch.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


# aiohttp's advice to gcsfs, in whose thread nothing else waits.
pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")


@pytest.fixture(params=["local", "memory", "file", "airflow", "gs"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Folder]:
    if request.param == "local":
        yield Folder(tmp_path / "run")
        return
    if request.param == "file":
        yield Folder(UPath((tmp_path / "run").as_uri(), auto_mkdir=True))
        return
    if request.param == "gs":
        with airflow_gs(request.getfixturevalue("gcs")) as bucket:
            yield Folder(bucket / "run")
        return
    address = f"memory://{uuid.uuid4().hex}/run"
    if request.param == "airflow":
        with airflow_memory() as bucket:
            yield Folder(bucket / "run")
    else:
        yield Folder(UPath(address))


class Stopped(Exception):  # noqa: N818 - it stands for whatever stops a task
    pass


def write(folder: Folder, content: bytes, *, then: Exception | None = None) -> None:
    with folder.write("part.jsonl") as stream:
        stream.write(content)
        if then is not None:
            raise then


def test_what_was_written_is_read_again_with_its_size(folder: Folder) -> None:
    with folder.write("part.jsonl") as stream:
        stream.write(b"one\n")
        stream.write(b"two\n" * 1_000_000)
    with folder.read("part.jsonl") as stream:
        assert (stream.read(4), stream.seek(-4, os.SEEK_END), stream.read()) == (b"one\n", 4_000_000, b"two\n")
    assert folder.size("part.jsonl") == 4_000_004
    assert folder.child("part.jsonl").uri().endswith("/run/part.jsonl")
    assert folder.uri("part.jsonl").endswith("/run/part.jsonl")


def test_a_file_is_not_there_before_it_is_whole(folder: Folder) -> None:
    with folder.write("part.jsonl") as stream:
        stream.write(b"x" * 3_000_000)
        assert folder.size("part.jsonl") is None
    assert folder.size("part.jsonl") == 3_000_000


def test_a_file_stays_as_it_was_when_its_writing_stops(folder: Folder) -> None:
    folder.put("part.jsonl", b"of yesterday")
    with pytest.raises(Stopped):
        write(folder, b"half", then=Stopped())
    assert folder.get("part.jsonl") == b"of yesterday"


def test_a_small_file_is_stored_and_replaced_in_one_step(folder: Folder) -> None:
    assert folder.get("stage.json") is None
    folder.put("stage.json", b"first")
    folder.put("stage.json", b"second")
    assert folder.get("stage.json") == b"second"


def test_deleting_what_is_not_there_is_no_error(folder: Folder) -> None:
    folder.delete("a")
    folder.child("none").delete_tree()
    folder.put("a", b"1")
    folder.child("below").put("b", b"2")
    folder.delete("a")
    assert (folder.get("a"), folder.child("below").get("b")) == (None, b"2")
    folder.delete_tree()
    assert folder.child("below").get("b") is None


def test_a_file_that_is_not_there_cannot_be_opened(folder: Folder) -> None:
    with pytest.raises(StorageError) as refused:
        folder.read("gone.jsonl").read()
    assert str(refused.value).startswith(f"{folder.uri('gone.jsonl')} could not be read (FileNotFoundError: ")
    assert str(refused.value).endswith(
        "Nothing is lost at the provider, and nothing was billed for this. See whether it was moved or deleted: a "
        "retry goes on where this attempt stopped."
    )


def test_a_private_folder_and_those_in_it_are_for_their_owner_only(tmp_path: Path) -> None:
    private = Folder(tmp_path / "stages", private=True)
    private.put("a", b"")
    private.child("1").put("b", b"")
    Folder(tmp_path / "open").put("c", b"")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) & 0o077 for name in ("stages", "stages/1", "open")]
    assert modes[:2] == [0, 0]
    assert modes[2] != 0


def test_a_full_disk_is_told_as_one(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as refused:
        write(Folder(tmp_path), b"half", then=OSError(errno.ENOSPC, "No space left on device"))
    assert str(refused.value) == (
        f"{tmp_path}/part.jsonl could not be written (OSError: [Errno 28] No space left on device). Nothing is lost at "
        "the provider, and nothing was billed for this. Make room for it: a retry goes on where this attempt stopped."
    )
    assert list(tmp_path.iterdir()) == []


class Broken:
    """A store whose client raises errors of its own."""

    def __init__(self) -> None:
        self.fs: Any = self
        self.path = "bucket/object"

    def __truediv__(self, name: str) -> Broken:
        return self

    def __str__(self) -> str:
        return "s3://bucket/object"

    def __getattr__(self, name: str) -> Any:
        def fail(*_args: object, **_kwargs: object) -> None:
            raise RuntimeError("SlowDown")

        return fail


@pytest.mark.parametrize(
    ("verb", "word"),
    [
        ("read", "read"),
        ("get", "read"),
        ("size", "looked up"),
        ("delete", "deleted"),
    ],
)
def test_whatever_a_stores_client_raises_becomes_an_error_that_is_retried(verb: str, word: str) -> None:
    with pytest.raises(
        StorageError, match=f"^s3://bucket/object could not be {word} .RuntimeError: SlowDown"
    ) as failed:
        getattr(Folder(Broken()), verb)("object")
    assert failed.value.retriable


def test_writing_to_a_broken_store_fails_when_the_object_is_stored() -> None:
    with pytest.raises(StorageError, match="could not be written"):
        write(Folder(Broken()), b"x")
    with pytest.raises(StorageError, match="could not be written"):
        Folder(Broken()).put("object", b"x")


def test_a_stream_that_breaks_while_it_is_read_does_so_with_the_same_error(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(UPath(f"memory://{uuid.uuid4().hex}"))
    folder.put("object", b"x" * 5_000_000)
    from fsspec.implementations.memory import MemoryFile

    stream = folder.read("object")

    def broken(_self: object, _size: int = -1) -> bytes:
        raise TimeoutError("no answer")

    monkeypatch.setattr(MemoryFile, "read", broken, raising=False)
    with pytest.raises(StorageError, match=r"could not be read .TimeoutError: no answer"):
        stream.read()
