"""Records out of Parquet, a row group at a time: what is in memory is its columns that are needed, and a thousand
records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from airflow_provider_llmbatch.core.run.sources import Record, encoded
from airflow_provider_llmbatch.errors import BatchInputError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from typing import BinaryIO

    from airflow_provider_llmbatch.core.run.sources import Origin

_RECORDS_AT_ONCE: Final = 1_000


def parquet_records(stream: BinaryIO, origin: Origin, columns: Collection[str] | None) -> Iterator[Record]:
    """:param columns: Those that are needed; ``None``: all. Which of them there are, whoever needs them finds out.
    :raises BatchInputError: pyarrow is not installed, or this is no Parquet.
    """
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra
        from pyarrow import parquet as pq  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise BatchInputError(
            f"{origin.name} is Parquet, and pyarrow, which reads it, is not installed. Nothing was uploaded or billed. "
            "Install airflow-provider-llmbatch[parquet]."
        ) from error
    number = 0
    try:
        # pre_buffer would fetch whole row groups, all columns of them, at once.
        file = pq.ParquetFile(stream, pre_buffer=False)
        present = file.schema_arrow.names
        twice = next((name for name in present if present.count(name) > 1), None)
        if twice is not None:
            raise BatchInputError(
                f'{origin.name} has two columns named "{twice}". Nothing was uploaded or billed. Rename one of them.'
            )
        wanted = None if columns is None else [name for name in present if name in columns]
        for batch in file.iter_batches(batch_size=_RECORDS_AT_ONCE, columns=wanted, use_threads=False):
            for item in _in_microseconds(batch).to_pylist(maps_as_pydicts="strict"):
                number += 1
                yield Record(encoded(item, origin, number), origin, number)
    except (pa.ArrowException, OSError, KeyError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk, and not of what is on it
        raise BatchInputError(
            f"{origin.name} cannot be read as Parquet ({type(error).__name__}: {error}), after {number:,} records. "
            "Nothing was uploaded or billed."
        ) from error
    except (ValueError, OverflowError) as error:
        raise BatchInputError(
            f"{origin.name} has a value that Python knows no type for ({error}), among the {_RECORDS_AT_ONCE:,} "
            f"records after number {number:,}. Nothing was uploaded or billed. Mend it, or leave its column out: with "
            "columns=, what is named nowhere is not read."
        ) from error


def _in_microseconds(batch: Any) -> Any:
    """Times in nanoseconds become what Python's own have; without that, pyarrow asks for pandas, or refuses them."""
    import pyarrow as pa  # noqa: PLC0415 - an extra

    fields = [field.with_type(_micro(field.type)) for field in batch.schema]
    return cast("Any", batch.cast(pa.schema(fields), safe=False)) if fields != list(batch.schema) else batch


def _micro(kind: Any) -> Any:
    import pyarrow as pa  # noqa: PLC0415 - an extra

    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_micro(field.type)) for field in kind])
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        list_of = pa.list_ if pa.types.is_list(kind) else pa.large_list
        return list_of(kind.value_field.with_type(_micro(kind.value_type)))
    if getattr(kind, "unit", None) != "ns":
        return kind
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    return pa.time64("us") if pa.types.is_time64(kind) else pa.duration("us")
