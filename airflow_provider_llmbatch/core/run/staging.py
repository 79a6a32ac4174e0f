"""How a stage is written: rows in, cut into parts, each with its requests, its rows and its hash.

A hot path: every byte of an input passes here, so lines are put together from bytes that are ready, and written and
hashed some hundred kilobytes at a time.
"""

from __future__ import annotations

import hashlib
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, Protocol, Self

import msgspec

from airflow_provider_llmbatch.core.costs.volume import VolumeMeter
from airflow_provider_llmbatch.core.run.splitting import REQUEST_HEAD, SplitLimits, StageIndex, StagePart
from airflow_provider_llmbatch.core.run.unique_keys import UniqueKeys
from airflow_provider_llmbatch.errors import BatchInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from typing import BinaryIO

    from structlog.typing import FilteringBoundLogger

    from airflow_provider_llmbatch.core.run.requests import Row
    from airflow_provider_llmbatch.core.storage import Folder

_BUFFER_BYTES: Final = 128 * 1024
_BYTES_PER_TOKEN: Final = 4
_HASH_BYTES: Final = 32
_MOST_GROUPS: Final = 64  # pairs of model and endpoint; each has two open files while the input is read
_KEYS_REMEMBERED: Final = 100_000  # as many as a batch may have at some provider; 8 MB


class LineCheck(Protocol):
    """What a provider asks of the lines of one part beyond OpenAI's rules."""

    def uploaded_bytes(self, line: bytes) -> int:
        """How long the line is as it is uploaded, its line end included.

        :raises ValueError: The provider cannot do what it asks for; the text completes "Line 17 of reviews.jsonl …".
        """


def no_rows() -> BatchInputError:
    """The error of an input that is empty."""
    return BatchInputError(
        "The input has no rows. Nothing was uploaded or billed. A retry would find the same: see why the source is "
        "empty, or skip the task where that is to be expected."
    )


class Staging:
    """One input on its way into a folder."""

    def __init__(
        self,
        folder: Folder,
        limits: SplitLimits,
        check: Callable[[], LineCheck | None] | None,
        *,
        unique_key: bool,
        log: FilteringBoundLogger,
    ) -> None:
        self._folder = folder
        self._limits = limits
        self._new_check = check or (lambda: None)
        self._log = log
        self._open: dict[tuple[str, str | None], _OpenPart] = {}
        self._closed: list[StagePart] = []
        self._unique = UniqueKeys() if unique_key else None
        self._seen: set[int] = set()
        self._repeated = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._unique:
            self._unique.close()
        with ExitStack() as stack:  # leaves them all, whatever one of them raises
            for part in self._open.values():
                stack.push(part.leave)
            if error is not None:
                raise error

    def staged(self, rows: Iterable[Row]) -> StageIndex:
        """Write all rows, to the last file; what is left then is the index.

        :raises BatchInputError: As ``write_stage``.
        """
        digest = _RowsDigest()
        ordinal = -1
        for ordinal, row in enumerate(rows):
            digest.add(row.source)
            if row.key is not None:
                self._look_at_key(row.key, ordinal)
            part = self._open.get((row.url, row.model)) or self._opened(row)
            self._add(part, row, ordinal)
        if ordinal < 0:
            raise no_rows()
        self._check_keys(ordinal + 1)
        for group in list(self._open):
            self._close(group)
        parts = tuple(sorted(self._closed, key=lambda part: part.number))
        return StageIndex(
            rows=ordinal + 1, bytes=sum(part.bytes for part in parts), rows_sha256=digest.hex(), parts=parts
        )

    def _add(self, part: _OpenPart, row: Row, ordinal: int) -> None:
        number = b"%d" % ordinal
        line = b"".join((REQUEST_HEAD, number, part.middle, row.body, b"}\n"))
        tokens = len(row.body) // _BYTES_PER_TOKEN + 1
        size = len(line) if part.check is None else self._uploaded(part.check, line, row)
        if not part.has_room(size, tokens, self._limits):
            self._check_alone(row, size, tokens)
            self._close((row.url, row.model))
            part = self._opened(row)
            if part.check is not None:
                size = self._uploaded(part.check, line, row)
        kept = b"" if row.columns is None else b',"input":' + row.columns
        row_line = b"".join((b'{"ordinal":', number, b',"key":', row.key or b"null", kept, b"}\n"))
        part.add(line, row_line, size, tokens, ordinal)
        part.meter.add(row.body, row.max_tokens, row.answers, is_text=row.is_text)

    def _uploaded(self, check: LineCheck, line: bytes, row: Row) -> int:
        try:
            return check.uploaded_bytes(line[:-1])
        except ValueError as error:
            raise row.refused(str(error)) from None

    def _check_alone(self, row: Row, size: int, tokens: int) -> None:
        limits = self._limits
        if size > limits.max_bytes:
            raise row.refused(f"makes a request of {size:,} bytes, and a batch may have {limits.max_bytes:,}")
        if limits.max_tokens is not None and tokens > limits.max_tokens:
            raise row.refused(
                f"makes a request of some {tokens:,} tokens, and max_tokens_per_batch is {limits.max_tokens:,}",
            )

    def _opened(self, row: Row) -> _OpenPart:
        group = (row.url, row.model)
        if self._limits.endpoints is not None and row.url not in self._limits.endpoints:
            known = ", ".join(sorted(self._limits.endpoints))
            raise row.refused(f'has the url "{row.url}"; a batch can have one of {known}')
        if len(self._open) >= _MOST_GROUPS:
            raise row.refused(
                f'asks for "{row.model}" at {row.url}, and the rows before it for {_MOST_GROUPS} other models: a batch '
                "has one model, and a run can have no more than that",
            )
        part = _OpenPart(self._folder, len(self._open) + len(self._closed), group, self._new_check())
        self._open[group] = part
        return part

    def _close(self, group: tuple[str, str | None]) -> None:
        part = self._open[group]
        part.finish()
        del self._open[group]
        self._closed.append(part.described())

    def _look_at_key(self, key: bytes, ordinal: int) -> None:
        if self._unique:
            self._unique.add(key, ordinal)
        elif ordinal < _KEYS_REMEMBERED:
            hashed = hash(key)
            if hashed in self._seen:
                self._repeated += 1
            self._seen.add(hashed)

    def _check_keys(self, rows: int) -> None:
        found = self._unique.first_repeated() if self._unique else None
        if found:
            raise BatchInputError(
                f"Row {found[0] + 1:,} of the input has the same key as row {found[1] + 1:,}, and unique_key=True "
                "refuses that. Nothing was uploaded or billed. A retry would find the same: mend the input."
            )
        if self._repeated:
            among = f" among the first {_KEYS_REMEMBERED:,} rows" if rows > _KEYS_REMEMBERED else ""
            self._log.warning(
                f"{self._repeated:,} rows have the key of an earlier one{among}. Each is asked for and answered by "
                "itself; unique_key=True refuses such an input"
            )


class _RowsDigest:
    """A hash of rows, whatever their order: a database gives them in any, unless its query says in which."""

    def __init__(self) -> None:
        self._sum = 0

    def add(self, row: bytes) -> None:
        # Hashes are added up, so that the same rows have the same sum; BLAKE2 is the fastest on rows of a few kB.
        self._sum += int.from_bytes(hashlib.blake2b(row, digest_size=_HASH_BYTES).digest(), "little")

    def hex(self) -> str:
        low = self._sum % (1 << 8 * _HASH_BYTES)
        return hashlib.sha256(low.to_bytes(_HASH_BYTES, "little")).hexdigest()


class _OpenPart:
    """A part that takes rows."""

    def __init__(self, folder: Folder, number: int, group: tuple[str, str | None], check: LineCheck | None) -> None:
        self.check = check
        self.meter = VolumeMeter()
        self._endpoint, self._model = group
        self.middle = b'","method":"POST","url":%b,"body":' % msgspec.json.encode(self._endpoint)
        self._number = number
        self.rows = self._bytes = self._uploaded = self._tokens = self._last = 0
        self._first = -1
        self._digest = hashlib.sha256()
        self._lines: list[bytes] = []
        self._row_lines: list[bytes] = []
        self._buffered = 0
        self._files = ExitStack()
        named = self.described()
        self._requests: BinaryIO = self._files.enter_context(folder.write(named.requests_name()))
        try:
            self._rows: BinaryIO = self._files.enter_context(folder.write(named.rows_name))
        except BaseException:
            self.leave(*sys.exc_info())
            raise

    def has_room(self, size: int, tokens: int, limits: SplitLimits) -> bool:
        return (
            self.rows < limits.max_rows
            and self._uploaded + size <= limits.max_bytes
            and (limits.max_tokens is None or self._tokens + tokens <= limits.max_tokens)
        )

    def add(self, line: bytes, row_line: bytes, size: int, tokens: int, ordinal: int) -> None:
        if not self.rows:
            self._first = ordinal
        self._last = ordinal
        self.rows += 1
        self._uploaded += size
        self._tokens += tokens
        self._lines.append(line)
        self._row_lines.append(row_line)
        self._buffered += len(line) + len(row_line)
        if self._buffered >= _BUFFER_BYTES:
            self._flush()

    def finish(self) -> None:
        """Let its files appear."""
        self._flush()
        self._files.close()

    def leave(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._files.__exit__(kind, error, trace)

    def described(self) -> StagePart:
        return StagePart(
            number=self._number,
            rows=self.rows,
            bytes=self._bytes,
            sha256=self._digest.hexdigest(),
            model=self._model,
            endpoint=self._endpoint,
            tokens=self._tokens,
            first=self._first,
            last=self._last,
            volume=self.meter.volume(),
        )

    def _flush(self) -> None:
        block = b"".join(self._lines)
        self._digest.update(block)
        self._bytes += self._requests.write(block)
        self._rows.write(b"".join(self._row_lines))
        self._lines, self._row_lines, self._buffered = [], [], 0
