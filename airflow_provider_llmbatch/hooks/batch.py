"""The hook: from a connection id to the provider behind it, with the verbs of OpenAI's files and batches.

Adapters are loaded by name when they are first needed, so that importing a DAG costs none of them.
"""

from __future__ import annotations

import io
import tempfile
from contextlib import contextmanager
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, ClassVar, Final, Literal, Protocol, TypeAlias, cast
from urllib.parse import urlsplit
from urllib.request import url2pathname

from airflow.sdk import BaseHook
from typing_extensions import override

from airflow_provider_llmbatch.core.jsonl import check_requests
from airflow_provider_llmbatch.core.results import merge_results
from airflow_provider_llmbatch.core.submit import Timing
from airflow_provider_llmbatch.errors import BatchInputError, ConnectionSettingsError, LLMBatchError
from airflow_provider_llmbatch.hooks.async_verbs import AsyncVerbs
from airflow_provider_llmbatch.hooks.lineage import add_hook_lineage

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Mapping

    from airflow.sdk import Connection
    from pydantic import BaseModel, JsonValue

    from airflow_provider_llmbatch.adapters.base import Adapter
    from airflow_provider_llmbatch.core.costs.bill import Costs
    from airflow_provider_llmbatch.core.costs.estimate import Estimate
    from airflow_provider_llmbatch.core.costs.prices import Prices
    from airflow_provider_llmbatch.core.storage import StoragePath
    from airflow_provider_llmbatch.models import Batch, File, Result


class AdapterFactory(Protocol):
    def __call__(self, connection: Connection, *, looking: bool = False) -> Adapter: ...


ADAPTERS: Final[Mapping[str, str]] = {
    "google_cloud_platform": "airflow_provider_llmbatch.hooks.vertex:well_known_google_adapter",
    "llmbatch_azure": "airflow_provider_llmbatch.hooks.azure:azure_adapter",
    "llmbatch_openai": "airflow_provider_llmbatch.hooks.connections:openai_adapter",
    "llmbatch_vertex": "airflow_provider_llmbatch.hooks.vertex:vertex_adapter",
    "openai": "airflow_provider_llmbatch.hooks.connections:well_known_openai_adapter",
}
"""Connection type -> the function that makes its adapter."""

Source: TypeAlias = "str | os.PathLike[str] | StoragePath | bytes | BinaryIO"
"""Where an input comes from: a path, a URI (``s3://conn_id@bucket/key``), bytes, or an open binary file."""


class LLMBatchHook(AsyncVerbs, BaseHook):
    """LLM batch inference at the provider behind a connection. Each verb has a twin for async tasks in ``AsyncVerbs``.

    :param llmbatch_conn_id: A connection of one of the types in ``ADAPTERS``.
    """

    conn_name_attr: ClassVar[str] = "llmbatch_conn_id"
    default_conn_name: ClassVar[str] = "llmbatch_default"
    conn_type: ClassVar[str] = "llmbatch"
    hook_name: ClassVar[str] = "LLM Batch"

    def __init__(self, llmbatch_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.llmbatch_conn_id = llmbatch_conn_id

    @cached_property
    def connection(self) -> Connection:
        return self.get_connection(self.llmbatch_conn_id)

    @cached_property
    def adapter(self) -> Adapter:
        """The provider's adapter, made on first use.

        :raises ConnectionSettingsError: The connection cannot be used.
        """
        return self.adapter_of(self.connection)

    @override
    def get_conn(self) -> Adapter:
        return self.adapter

    @staticmethod
    def adapter_of(connection: Connection, *, looking: bool = False) -> Adapter:
        """An adapter for a connection that was fetched already.

        :param looking: For a triggerer, which looks again by itself: one attempt for each call, short time-outs.
        """
        name = ADAPTERS.get(connection.conn_type or "")
        if name is None:
            raise ConnectionSettingsError(
                f"The connection {connection.conn_id!r} has the type {connection.conn_type!r}, which this package "
                f"cannot use. Nothing was sent. Its types are {', '.join(sorted(ADAPTERS))}."
            )
        module, _, function = name.partition(":")
        factory = cast("AdapterFactory", getattr(import_module(module), function))
        return factory(connection, looking=looking)

    @cached_property
    def timing(self) -> Timing:
        """How long doubt about a lost answer lasts at this provider."""
        from airflow_provider_llmbatch.hooks.settings import CommonExtra, extra_of  # noqa: PLC0415 - brings the transport

        return Timing(listing_lag=extra_of(self.connection, CommonExtra).listing_lag)

    @property
    def default_model(self) -> str | None:
        """What the connection asks for where nobody names a model."""
        from airflow_provider_llmbatch.hooks.settings import CommonExtra, extra_of  # noqa: PLC0415 - as above

        return extra_of(self.connection, CommonExtra).model

    @cached_property
    def prices(self) -> Prices:
        """What models cost here: by the connection's own table first, else as its provider publishes it.

        :raises ConnectionSettingsError: The table cannot be used.
        :raises StorageError: Its file cannot be read.
        """
        from airflow_provider_llmbatch.hooks.prices import prices_of  # noqa: PLC0415 - no DAG file needs it

        return prices_of(self.connection, self.adapter)

    def create_file(
        self, source: Source, *, purpose: str = "batch", filename: str | None = None, expires_after: int | None = None
    ) -> File:
        """Check an input and upload it, without holding it in memory.

        :param source: OpenAI batch lines, in a path, a URI, bytes or an open file, which is read to its end.
        :param filename: The name at the provider; the source's own name if ``None``.
        :param expires_after: Seconds until the provider deletes it; 30 days at OpenAI if ``None``.
        :raises BatchInputError: A line breaks a rule; nothing was uploaded.
        """
        with self.open_source(source) as (stream, name):
            start = stream.tell()
            if purpose == "batch":
                check_requests(stream, name=name, limits=self.adapter.limits, line_check=self.adapter.line_check())
                stream.seek(start)
            given = filename or f"{Path(name).stem or 'batch'}.jsonl"
            file = self.adapter.create_file(stream, filename=given, purpose=purpose, expires_after=expires_after)
        if not isinstance(source, bytes) and not hasattr(source, "read"):
            add_hook_lineage(self, read=[str(source)])
        return file

    def retrieve_file(self, file_id: str) -> File:
        return self.adapter.retrieve_file(file_id)

    def list_files(self, *, purpose: str | None = None, limit: int | None = None) -> Iterator[File]:
        return self.adapter.list_files(purpose=purpose, limit=limit)

    def delete_file(self, file_id: str) -> None:
        self.adapter.delete_file(file_id)

    def file_content(self, file_id: str) -> Iterator[bytes]:
        """A file's bytes in blocks; a download that breaks off goes on where it ended."""
        return self.adapter.file_content(file_id)

    def create_batch(
        self,
        input_file_id: str,
        *,
        endpoint: str = "/v1/chat/completions",
        completion_window: str = "24h",
        metadata: Mapping[str, str] | None = None,
        output_expires_after: int | None = None,
    ) -> Batch:
        """Create a batch with one attempt. Use ``LLMBatchCreateBatchOperator`` to have it created exactly once.

        :raises LostAnswerError: The batch may exist: look with ``list_batches`` before calling again.
        """
        return self.adapter.create_batch(
            input_file_id,
            endpoint=endpoint,
            completion_window=completion_window,
            metadata=metadata,
            output_expires_after=output_expires_after,
        )

    def retrieve_batch(self, batch_id: str) -> Batch:
        return self.adapter.retrieve_batch(batch_id)

    def list_batches(self, *, after: str | None = None, limit: int | None = None) -> Iterator[Batch]:
        return self.adapter.list_batches(after=after, limit=limit)

    def cancel_batch(self, batch_id: str) -> Batch:
        """Ask for a batch to be cancelled; it ends as ``cancelled`` later, or is returned as it is if it has ended."""
        return self.adapter.cancel_batch(batch_id)

    def results(self, batch_id: str) -> Iterator[Result]:
        """Both result files of an ended batch, merged: every request with its one outcome, in no particular order."""
        return merge_results(self.adapter, self.adapter.retrieve_batch(batch_id), log=self.log)

    def batch_cost(self, batch: Batch | str) -> Costs:
        """What an ended batch cost, from the lines of its result files, or its own sum where they tell nothing.

        :param batch: A batch or its id.
        :raises BatchInputError: It has not ended.
        """
        from airflow_provider_llmbatch.core.batch_costs import costs_of_batch  # noqa: PLC0415 - no DAG file needs it

        found = self.adapter.retrieve_batch(batch) if isinstance(batch, str) else batch
        return costs_of_batch(self.adapter, found, self.prices, log=self.log)

    def estimate_cost(
        self,
        source: str | Iterable[object],
        *,
        source_format: Literal["jsonl", "csv", "parquet"] | None = None,
        prompt: str | None = None,
        system: str | None = None,
        model: str | None = None,
        parameters: Mapping[str, JsonValue] | None = None,
        response_format: type[BaseModel] | Mapping[str, JsonValue] | None = None,
        endpoint: str = "/v1/chat/completions",
    ) -> Estimate:
        """What a run with this input would cost: low, likely and high. Reads it once; uploads nothing.

        :param source: The URI of a file, or prompts, records or ready requests, one after the other. The rest is as for
            ``LLMBatchRunOperator``.
        :raises BatchInputError: It cannot be used.
        """
        from airflow_provider_llmbatch.hooks.estimates import estimate_of  # noqa: PLC0415 - no DAG file needs it

        return estimate_of(
            source,
            source_format=source_format,
            prompt=prompt,
            system=system,
            model=model or self.default_model,
            parameters=parameters or {},
            response_format=response_format,
            endpoint=endpoint,
            prices=self.prices,
        )

    def test_connection(self) -> tuple[bool, str]:
        """Make one cheap call with the key; say what was found."""
        try:
            return True, self.adapter.ping()
        except LLMBatchError as error:
            # Without the id: Airflow tests a form under one that it makes up.
            return False, str(error).replace(f"connection {self.llmbatch_conn_id!r}", "connection")

    @staticmethod
    @contextmanager
    def open_source(source: Source) -> Iterator[tuple[BinaryIO, str]]:
        """Open a source for reading; yields a stream that can seek, and the name that messages use.

        What cannot seek is copied to a temporary file first, since an input is checked before it is uploaded.

        :raises BatchInputError: It does not exist or cannot be opened.
        """
        if isinstance(source, bytes):
            yield io.BytesIO(source), "the input"
            return
        if hasattr(source, "read"):
            stream = cast("BinaryIO", source)
            with _seekable(stream) as seekable:
                yield seekable, str(getattr(stream, "name", "the input"))
            return
        path = path_of(source)
        try:
            opened = cast("BinaryIO", path.open("rb"))
        except (OSError, ValueError, ImportError) as error:
            raise BatchInputError(
                f"The source {source} cannot be opened ({type(error).__name__}: {error}). Nothing was uploaded or "
                "billed."
            ) from error
        with opened, _seekable(opened) as seekable:
            yield seekable, str(source)


@contextmanager
def _seekable(stream: BinaryIO) -> Iterator[BinaryIO]:
    if stream.seekable():
        yield stream
        return
    with tempfile.TemporaryFile() as spool:
        while block := stream.read(1024 * 1024):
            spool.write(block)
        spool.seek(0)
        yield cast("BinaryIO", spool)


def path_of(location: str | os.PathLike[str] | StoragePath) -> Path | StoragePath:
    """A local path, or one in Airflow's object storage for anything with a scheme (``s3://conn_id@bucket/key``).

    :raises BatchInputError: Airflow has no file system for the scheme; told before anything is read or written.
    """
    if not isinstance(location, str):
        return cast("Path | StoragePath", location) if hasattr(location, "open") else Path(location)
    parts = urlsplit(location)
    if parts.scheme == "file":
        return Path(url2pathname(parts.path))
    if "://" not in location:
        return Path(location)
    from airflow.sdk import ObjectStoragePath  # noqa: PLC0415 - brings fsspec, which no local path needs

    try:
        path = ObjectStoragePath(location)
        path.fs  # noqa: B018 - looks the scheme up, which it would do no sooner than when it is opened
    except (ValueError, ImportError) as error:
        raise BatchInputError(
            f"Nothing was read or written at {location}, since Airflow has no file system for {parts.scheme}:// "
            f"({error}). Install the provider that brings it: apache-airflow-providers-amazon for s3://, -google for "
            "gs://, -microsoft-azure for abfs://."
        ) from error
    return cast("StoragePath", path)
