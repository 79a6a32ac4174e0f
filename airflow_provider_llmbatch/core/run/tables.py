"""How rows are written: as lines of JSON, or as Parquet in row groups of bounded size.

Both take a row in two pieces of bytes, the stage's (``"key":…,"input":…``) and the answer's (``"outcome":…}``).
"""

from __future__ import annotations

from decimal import Decimal  # noqa: TC003 - msgspec reads the annotation
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from airflow_provider_llmbatch.errors import BatchInputError

if TYPE_CHECKING:
    from typing import BinaryIO

    from airflow_provider_llmbatch.core.run.manifest import Format

_LINES_BYTES: Final = 256 * 1024
_GROUP_BYTES: Final = 8 * 1024 * 1024
_GROUP_ROWS: Final = 50_000
_FEW_VALUES: Final = ["outcome", "finish_reason", "provider", "model", "batch_id"]  # a dictionary pays only for these

_RARE_INPUT_KINDS: Final = ("cache_write_tokens", "audio_tokens", "image_tokens")
_RARE_OUTPUT_KINDS: Final = ("audio_tokens", "image_tokens")


class Table(Protocol):
    """Rows on their way into a file."""

    def add(self, head: bytes, tail: bytes) -> None: ...

    def finish(self) -> int:
        """Write what is left; returns the bytes of the whole file."""


def table(kind: Format, stream: BinaryIO) -> Table:
    return JSONLines(stream) if kind == "jsonl" else Parquet(stream)


def check_format(kind: Format) -> None:
    """:raises BatchInputError: What writes this format is not installed."""
    if kind == "parquet":
        _pyarrow()


class JSONLines:
    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._pieces: list[bytes] = []
        self._pending = self._written = 0

    def add(self, head: bytes, tail: bytes) -> None:
        line = b"{%b,%b\n" % (head, tail) if head else b"{%b\n" % tail
        self._pieces.append(line)
        self._pending += len(line)
        if self._pending >= _LINES_BYTES:
            self._flush()

    def finish(self) -> int:
        self._flush()
        return self._written

    def _flush(self) -> None:
        self._written += self._stream.write(b"".join(self._pieces))
        self._pieces.clear()
        self._pending = 0


class _Error(msgspec.Struct, gc=False):
    code: str | None = None
    message: str | None = None


class _Row(msgspec.Struct, gc=False):
    outcome: str
    provider: str
    batch_id: str | None
    attempt: int | None
    key: msgspec.Raw = msgspec.Raw(b"null")
    input: msgspec.Raw = msgspec.Raw(b"null")
    text: str | None = None
    parsed: msgspec.Raw = msgspec.Raw(b"null")
    error: _Error | None = None
    finish_reason: str | None = None
    usage: dict[str, Any] | None = None
    cost_usd: Decimal | None = None
    refusal: msgspec.Raw = msgspec.Raw(b"null")
    tool_calls: msgspec.Raw = msgspec.Raw(b"null")
    reasoning: msgspec.Raw = msgspec.Raw(b"null")
    embedding: msgspec.Raw = msgspec.Raw(b"null")
    body: msgspec.Raw = msgspec.Raw(b"null")
    model: str | None = None


_decode_row = msgspec.json.Decoder(_Row).decode
_decode_vector = msgspec.json.Decoder(list[float] | None).decode


class Parquet:
    """Columns named as the fields of a line, of the same types in every file, whatever the rows hold.

    ``key`` is text: a key that is text as it is, any other one as JSON. ``input``, ``parsed``, ``tool_calls`` and
    ``body`` are JSON as text, since their fields differ from run to run; ``error`` and ``usage`` are structs;
    ``cost_usd`` is a decimal with 18 places; ``embedding`` is a list of 32-bit floats.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._pyarrow, parquet = _pyarrow()
        self._stream = stream
        self._schema = _schema(self._pyarrow)
        self._writer = parquet.ParquetWriter(stream, self._schema, compression="zstd", use_dictionary=_FEW_VALUES)
        self._columns: dict[str, list[Any]] = {name: [] for name in self._schema.names}
        self._pending = self._rows = 0

    def add(self, head: bytes, tail: bytes) -> None:
        row = _decode_row(b"{%b,%b" % (head, tail) if head else b"{" + tail)
        embedding, body = _vector(row)
        values = (
            _text_of(row.key),
            _json_of(row.input),
            row.outcome,
            row.text,
            _json_of(row.parsed),
            row.error and {"code": row.error.code, "message": row.error.message},
            row.finish_reason,
            row.usage,
            row.cost_usd,
            _text_of(row.refusal),
            _json_of(row.tool_calls),
            _text_of(row.reasoning),
            embedding,
            body,
            row.provider,
            row.model,
            row.batch_id,
            row.attempt,
        )
        for column, value in zip(self._columns.values(), values, strict=True):
            column.append(value)
        self._pending += len(head) + len(tail)
        self._rows += 1
        if self._pending >= _GROUP_BYTES or self._rows >= _GROUP_ROWS:
            self._flush()

    def finish(self) -> int:
        if self._rows:
            self._flush()
        self._writer.close()
        return self._stream.tell()

    def _flush(self) -> None:
        self._writer.write_table(self._pyarrow.Table.from_pydict(self._columns, schema=self._schema))
        for column in self._columns.values():
            column.clear()
        self._pending = self._rows = 0


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa  # noqa: PLC0415 - 40 MB that only Parquet needs
        from pyarrow import parquet  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise BatchInputError(
            "Parquet needs pyarrow, which is not installed: pip install 'airflow-provider-llmbatch[parquet]', or "
            'choose output_format="jsonl". Nothing was uploaded or billed.'
        ) from error
    return pa, parquet


def _schema(pa: Any) -> Any:
    text, count = pa.string(), pa.int64()
    usage = {
        "input_tokens": count,
        "input_tokens_details": pa.struct({"cached_tokens": count} | dict.fromkeys(_RARE_INPUT_KINDS, count)),
        "output_tokens": count,
        "output_tokens_details": pa.struct({"reasoning_tokens": count} | dict.fromkeys(_RARE_OUTPUT_KINDS, count)),
        "total_tokens": count,
    }
    return pa.schema(
        {
            "key": text,
            "input": text,
            "outcome": text,
            "text": text,
            "parsed": text,
            "error": pa.struct({"code": text, "message": text}),
            "finish_reason": text,
            "usage": pa.struct(usage),
            "cost_usd": pa.decimal128(38, 18),
            "refusal": text,
            "tool_calls": text,
            "reasoning": text,
            "embedding": pa.list_(pa.float32()),
            "body": text,
            "provider": text,
            "model": text,
            "batch_id": text,
            "attempt": pa.int32(),
        }
    )


def _vector(row: _Row) -> tuple[list[float] | None, str | None]:
    """The embedding and the body; a vector that holds something else than numbers goes there."""
    try:
        return _decode_vector(row.embedding), _json_of(row.body)
    except msgspec.MsgspecError:
        return None, _json_of(row.embedding)


def _json_of(raw: msgspec.Raw) -> str | None:
    value = bytes(raw)
    return None if value == b"null" else value.decode()


def _text_of(raw: msgspec.Raw) -> str | None:
    value = bytes(raw)
    if value[:1] == b'"':
        return msgspec.json.decode(value, type=str)
    return None if value == b"null" else value.decode()
