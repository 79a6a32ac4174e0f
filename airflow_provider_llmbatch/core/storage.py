"""What the core needs of a path, and how a file appears under its final name only when it is whole."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO


class StoragePath(Protocol):
    """A file somewhere: satisfied by ``pathlib.Path``, ``upath.UPath`` and Airflow's ``ObjectStoragePath``."""

    @property
    def name(self) -> str: ...

    def open(self, mode: str = ...) -> object: ...


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
