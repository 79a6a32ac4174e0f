"""What the core needs of a path, and how a file appears under its final name only when it is whole.

``Folder`` has the files of a run, on this machine or in an object store, with the same few verbs for both. Only a
deletion lists what is there, so a store that shows new objects late in its lists does no harm.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from airflow_provider_llmbatch.core.reading import FULL, open_to_read, storage_error, storage_errors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

_WRITE_BLOCK_BYTES: Final = 8 * 1024 * 1024  # an upload's parts; S3 takes 5 MiB to 5 GiB, and 10,000 of them


class StoragePath(Protocol):
    """A file somewhere: satisfied by ``pathlib.Path``, ``upath.UPath`` and Airflow's ``ObjectStoragePath``."""

    @property
    def name(self) -> str: ...

    def open(self, mode: str = ...) -> object: ...


class ObjectPath(Protocol):
    """A place in an object store, as ``UPath`` and Airflow's ``ObjectStoragePath`` have it."""

    @property
    def fs(self) -> Any: ...

    @property
    def path(self) -> str: ...

    def __truediv__(self, name: str) -> ObjectPath: ...


class Folder:
    """Where a run keeps files. It need not exist: it does from the first file on.

    :param path: A local path, or one in an object store.
    :param private: Whether nobody else on this machine may look into it; inherited by its children. In an object
        store, the bucket's own rules hold.
    """

    def __init__(self, path: Path | ObjectPath | StoragePath, *, private: bool = False) -> None:
        self._local = path if isinstance(path, Path) else None
        self._remote = None if isinstance(path, Path) else cast("ObjectPath", path)
        self._private = private

    @property
    def local(self) -> Path | None:
        """Where it is on this machine, or ``None`` if it is in an object store."""
        return self._local

    def child(self, name: str, *, private: bool | None = None) -> Folder:
        """A folder in this one.

        :param private: As of the whole class; by default as this folder is.
        """
        path = self._local / name if self._local is not None else self._place / name
        return Folder(path, private=self._private if private is None else private)

    def uri(self, name: str = "") -> str:
        """What to call a file, or the folder itself, in messages and manifests."""
        if self._local is not None:
            return str(self._local / name)
        return str(self._place / name) if name else str(self._place)

    def read(self, name: str) -> BinaryIO:
        """Open a file; it can seek, and a block of it is in memory.

        :raises StorageError: It is not there, or cannot be opened.
        """
        path = self._local / name if self._local is not None else _Bounded(self._place / name)
        return open_to_read(path, self.uri(name))

    @contextmanager
    def write(self, name: str) -> Iterator[BinaryIO]:
        """Open a file for writing; it appears when the block ends well, and stays as it was when it does not.

        :raises StorageError: It could not be written.
        """
        path: Path | StoragePath
        if self._local is not None:
            path = self._local / name
            with storage_errors("written", self.uri(name)):
                self._make()
        else:
            path = _Bounded(self._place / name)
        # What the block itself raises is its own business, but for a disk that filled up meanwhile.
        landed = landing(path)
        with storage_errors("written", self.uri(name)):
            stream = landed.__enter__()
        try:
            yield stream
        except BaseException as error:
            landed.__exit__(type(error), error, error.__traceback__)
            if isinstance(error, OSError) and error.errno in FULL:
                raise storage_error("written", self.uri(name), error) from error
            raise
        with storage_errors("written", self.uri(name)):
            landed.__exit__(None, None, None)

    def put(self, name: str, content: bytes) -> None:
        """Store a small file in one step: whole or not at all, and in an object store by a single request.

        :raises StorageError: It could not be written.
        """
        if self._local is not None:
            with self.write(name) as stream:
                stream.write(content)
            return
        place = self._place / name
        with storage_errors("written", self.uri(name)):
            place.fs.pipe_file(place.path, content)

    def get(self, name: str) -> bytes | None:
        """A small file as a whole, or ``None`` if it is not there.

        :raises StorageError: Whether it is there, or what is in it, cannot be told.
        """
        with storage_errors("read", self.uri(name)):
            try:
                if self._local is not None:
                    return (self._local / name).read_bytes()
                place = self._place / name
                return cast("bytes", place.fs.cat_file(place.path))
            except (FileNotFoundError, NotADirectoryError):  # where the folder should be is a file
                return None

    def size(self, name: str) -> int | None:
        """Bytes of a file, or ``None`` if it is not there.

        :raises StorageError: That cannot be told.
        """
        with storage_errors("looked up", self.uri(name)):
            try:
                if self._local is not None:
                    return (self._local / name).stat().st_size
                place = self._place / name
                place.fs.invalidate_cache()  # of listings, in which what another process wrote is missing
                return cast("int", place.fs.size(place.path))
            except FileNotFoundError:
                return None

    def delete(self, name: str) -> None:
        """Delete a file; one that is not there is no error.

        :raises StorageError: It could not be deleted.
        """
        with storage_errors("deleted", self.uri(name)):
            try:
                if self._local is not None:
                    (self._local / name).unlink()
                else:
                    place = self._place / name
                    place.fs.rm_file(place.path)
            except FileNotFoundError:
                pass

    def delete_tree(self) -> None:
        """Delete the folder with all that is in it; one that is not there is no error.

        :raises StorageError: Something could not be deleted.
        """
        with storage_errors("deleted", self.uri()):
            try:
                if self._local is not None:
                    shutil.rmtree(self._local)
                else:
                    self._place.fs.invalidate_cache()
                    self._place.fs.rm(self._place.path, recursive=True)
            except FileNotFoundError:
                pass

    def _make(self) -> None:
        if self._local is None:
            return
        if self._private:
            self._local.mkdir(mode=0o700, parents=True, exist_ok=True)
        else:
            self._local.mkdir(parents=True, exist_ok=True)

    @property
    def _place(self) -> ObjectPath:
        assert self._remote is not None  # noqa: S101 - one of the two is set
        return self._remote


class _Bounded:
    """An object that is written in parts of bounded size, for ``landing``.

    By its ``fs``, past which Airflow would take a run's own files for what its task reads and writes.
    """

    def __init__(self, place: ObjectPath) -> None:
        self._place = place
        self.name = place.path.rpartition("/")[2]

    def open(self, mode: str = "rb", block_size: int = _WRITE_BLOCK_BYTES, **options: str) -> object:
        return self._place.fs.open(self._place.path, mode, block_size=block_size, **options)


@contextmanager
def landing(path: Path | StoragePath) -> Iterator[BinaryIO]:
    """Open a path for writing; it gets its content when the block ends well, and is left alone when it does not.

    A local file is written beside its place and moved there. Anything else is written to a local temporary file first
    and then stored in one go, since closing a half-written object would publish it.
    """
    if isinstance(path, Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _beside(path) as stream:
            yield stream
        return
    with tempfile.TemporaryFile() as stream:
        yield cast("BinaryIO", stream)
        stream.seek(0)
        remote = cast("BinaryIO", path.open("wb"))
        try:
            shutil.copyfileobj(stream, remote, 1024 * 1024)
        except BaseException:
            # fsspec's files publish what they have when they are closed, unless they are told to throw it away.
            discard = getattr(remote, "discard", None)
            if discard is not None:
                discard()
            raise
        remote.close()


@contextmanager
def _beside(path: Path) -> Iterator[BinaryIO]:
    # Not the whole name, since file systems end at 255 bytes.
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:40]}.", suffix=".part", dir=path.parent)
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp makes files private; results get what the user's umask gives any other file.
        umask = os.umask(0)
        os.umask(umask)
        part.chmod(0o666 & ~umask)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
