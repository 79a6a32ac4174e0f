"""What a run is made from, out of an operator's parameters: where its records come from, and what is asked of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_llmbatch.core.run.answer_schema import answer_schema
from airflow_provider_llmbatch.core.run.job import RunInput
from airflow_provider_llmbatch.core.run.preflight import (
    check_model,
    check_output,
    check_parameters,
    check_space,
    check_texts,
)
from airflow_provider_llmbatch.core.run.requests import NO_MODEL, RequestTemplate
from airflow_provider_llmbatch.core.run.sources import FileSource, file_records, given_records
from airflow_provider_llmbatch.core.run.tables import check_format
from airflow_provider_llmbatch.core.storage import Folder
from airflow_provider_llmbatch.errors import BatchInputError
from airflow_provider_llmbatch.hooks.batch import path_of
from airflow_provider_llmbatch.operators.asked import check_place, check_source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from structlog.typing import FilteringBoundLogger

    from airflow_provider_llmbatch.adapters.base import Adapter
    from airflow_provider_llmbatch.core.run.options import RunOptions
    from airflow_provider_llmbatch.core.run.requests import Row
    from airflow_provider_llmbatch.core.run.sources import Format, Record
    from airflow_provider_llmbatch.core.run.staging import LineCheck
    from airflow_provider_llmbatch.operators.asked import Asked


@dataclass(frozen=True)
class Records:
    """Where records come from.

    :param read: Reads them from their start with each call, as far as these columns go; all if ``None``.
    :param description: What logs and messages call the whole; without secrets.
    :param files: What is read, if that is files.
    :param may_be_texts: Whether there may be mere prompts among them.
    """

    read: Callable[[tuple[str, ...] | None], Iterable[Record]]
    description: str
    files: Sequence[FileSource] = ()
    may_be_texts: bool = False


def folder_of(output: object) -> Folder:
    """The folder of an output, as rendered.

    :raises BatchInputError: It is no URI, or one that every worker would take for another place.
    """
    try:
        check_place(output)
    except ValueError as error:
        raise BatchInputError(f"{error} Nothing was uploaded or billed.") from None
    path = path_of(str(output))
    if isinstance(path, Path) and not path.is_absolute():
        raise BatchInputError(
            f"The output {output} is relative to whatever folder a worker runs in, where the next try may not find it. "
            "Nothing was uploaded or billed. Give a whole path, or a URI."
        )
    return Folder(path)


def records_of(source: object, source_format: Format | None, query: str | None, sql_conn_id: str | None) -> Records:
    """The records of an operator's input, whichever it was given.

    :raises BatchInputError: After rendering, the source is no URI.
    """
    return records_of_query(query, sql_conn_id or "") if query else records_of_source(source, source_format)


def records_of_source(source: object, source_format: Format | None) -> Records:
    """The records of a file or several, one after the other.

    :raises BatchInputError: After rendering, the source is no URI.
    """
    try:
        check_source(source)
    except ValueError as error:
        raise BatchInputError(f"{error} Nothing was uploaded or billed.") from None
    if isinstance(source, str):
        names = [source]
    elif isinstance(source, Sequence) and all(isinstance(each, str) for each in source):
        names = list(source)
    else:
        raise BatchInputError(
            f"The source is {type(source).__name__}, and neither a URI nor a list of them. Nothing was uploaded or "
            "billed."
        )

    files = [FileSource(path_of(name), name, source_format) for name in names]
    description = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1:,} more"
    return Records(lambda columns: file_records(files, columns=columns), description, files)


def records_of_query(query: str, sql_conn_id: str) -> Records:
    """The rows of a query, without holding them all."""
    from airflow_provider_llmbatch.hooks.sql import query_rows  # noqa: PLC0415 - no other source needs it

    name = f"the query on {sql_conn_id}"
    return Records(lambda _: given_records(query_rows(sql_conn_id, query), name=name), name)


def input_of(
    asked: Asked,
    records: Records,
    *,
    model: str | None,
    check: Callable[[], LineCheck | None] | None,
    before: Callable[[RequestTemplate, Records], None],
) -> RunInput:
    """All that a run needs to know of its input; nothing is read yet.

    :param check: Makes what the provider asks of the lines of a part, if anything.
    :param before: What is to be done whenever the input is about to be read.
    :raises BatchInputError: What is asked cannot work.
    """
    if asked.prompt is None and not records.may_be_texts:
        model = None  # ready requests name their own; another one of the connection's must not make them another input
    template = RequestTemplate(
        prompt=asked.prompt,
        system=asked.system,
        model=model,
        parameters=asked.parameters,
        key=asked.key,
        columns=asked.columns,
        endpoint=asked.endpoint,
    )
    shape = None
    if asked.response_format is not None:
        from airflow_provider_llmbatch.core.run.shape import shape_of  # noqa: PLC0415 - slow, and often not needed

        schema, name = answer_schema(asked.response_format)
        template = replace(template, response_schema=schema, schema_name=name)
        shape = shape_of(asked.response_format if isinstance(asked.response_format, type) else schema)

    def rows() -> Iterable[Row]:
        before(template, records)
        return template.rows(records.read(template.columns_needed))

    return RunInput(
        rows=rows,
        parameters_sha256=template.parameters_sha256,
        model=model,
        description=records.description,
        shape=shape,
        check=check,
    )


def check_beforehand(
    adapter: Adapter,
    output: Folder,
    options: RunOptions,
    log: FilteringBoundLogger,
    template: RequestTemplate,
    records: Records,
) -> None:
    """Find out what can be, before the input is read and anything is uploaded.

    :raises BatchInputError: What is asked for cannot be sent, the model is not served, or the output has no room.
    """
    check_format(options.format)
    check_parameters(adapter, template)
    check_texts(template, log=log)
    if template.model is None and template.prompt is not None:
        raise BatchInputError(f"The requests cannot be made: {NO_MODEL}. Nothing was uploaded or billed.")
    if template.model is not None:
        check_model(adapter, template.model, log=log)
    check_output(output, log=log)
    largest = options.max_bytes_per_batch or adapter.limits.max_file_bytes
    check_space(output, records.files, largest_part=min(largest, adapter.limits.max_file_bytes))
