"""Files read on this machine or in an object store, a bounded block at a time, and one error for what goes wrong."""

from __future__ import annotations

import errno
import io
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from typing_extensions import override

from airflow_provider_llmbatch.errors import LLMBatchError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from airflow_provider_llmbatch.core.storage import ObjectPath, StoragePath

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_BLOCK_BYTES: Final = 4 * 1024 * 1024  # fetched at once; s3fs would hold 50 MB
_CACHE: Final = "readahead"  # fsspec's word for one block; gcsfs would fetch up to 256 MB ahead, and log that it does


class _Blocks(io.RawIOBase):
    """An object's stream whose errors are ours."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        super().__init__()
        self._stream = stream
        self._name = name

    @override
    def readable(self) -> bool:
        return True

    @override
    def seekable(self) -> bool:
        return self._stream.seekable()

    @override
    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        with storage_errors("read", self._name):
            self._stream.seek(offset, whence)
            return self._stream.tell()

    @override
    def tell(self) -> int:
        return self._stream.tell()

    @override
    def readinto(self, buffer: Any, /) -> int:
        with storage_errors("read", self._name):
            block = self._stream.read(len(buffer))
        buffer[: len(block)] = block
        return len(block)

    @override
    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


def open_to_read(path: Path | StoragePath | ObjectPath, name: str) -> BinaryIO:
    """Open a file on this machine or in an object store; it can seek, and a block of it is in memory.

    :param name: What to call it in messages.
    :raises StorageError: It is not there, or cannot be opened.
    """
    with storage_errors("read", name):
        if isinstance(path, Path):
            return path.open("rb")
        # Not its ``fs``, so that Airflow sees what its task has read.
        stream = cast("BinaryIO", cast("Any", path).open("rb", block_size=_BLOCK_BYTES, cache_type=_CACHE))
    return io.BufferedReader(_Blocks(stream, name), 1024 * 1024)


@contextmanager
def storage_errors(verb: str, name: str) -> Iterator[None]:
    """Whatever a disk or a store's client raises, as one error; each client has exceptions of its own."""
    try:
        yield
    except LLMBatchError:
        raise
    except Exception as error:
        raise storage_error(verb, name, error) from error


def storage_error(verb: str, name: str, error: Exception) -> StorageError:
    """:param verb: What could not be done to the file, such as ``written``."""
    hint = None
    if isinstance(error, PermissionError):
        hint = "Give the task the right to it"
    elif isinstance(error, FileNotFoundError):
        hint = "See whether it was moved or deleted"
    elif isinstance(error, OSError) and error.errno in FULL:
        hint = "Make room for it"
    return StorageError(
        f"{name} could not be {verb} ({type(error).__name__}: {error}). Nothing is lost at the provider, and nothing "
        f"was billed for this. {f'{hint}: a' if hint else 'A'} retry goes on where this attempt stopped."
    )
