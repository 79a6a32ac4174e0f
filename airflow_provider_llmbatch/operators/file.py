"""Operators for files at the provider: create, download and delete one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from typing_extensions import override

from airflow_provider_llmbatch.core.jsonl import check_requests
from airflow_provider_llmbatch.core.ledger import FileRecord
from airflow_provider_llmbatch.core.storage import landing
from airflow_provider_llmbatch.core.upload import submit_file
from airflow_provider_llmbatch.errors import NotFoundError
from airflow_provider_llmbatch.hooks.batch import LLMBatchHook, path_of
from airflow_provider_llmbatch.hooks.telemetry import telemetry_of
from airflow_provider_llmbatch.operators.task import airflow_verdict, attempt_of, ledger_of, slot_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context


class LLMBatchCreateFileOperator(BaseOperator):
    """Check an input file line by line, and upload it once; a retry or a clear with the same content uploads nothing.

    The input is read twice, in blocks, and never held in memory. Returns the file's id.

    :param source: Path or URI (``s3://conn_id@bucket/key``) of OpenAI batch lines: JSON objects with ``custom_id``,
        ``method``, ``url`` and ``body``, one per line. (templated)
    :param purpose: ``batch``; any other purpose of the provider is uploaded as it is, unchecked.
    :param filename: The name at the provider; by default one that tells this task and the content. (templated)
    :param expires_after: Seconds until the provider deletes the file; by default the provider's own (OpenAI: 30 days).
    :param llmbatch_conn_id: The connection. (templated)
    """

    template_fields: Sequence[str] = ("source", "filename", "llmbatch_conn_id")
    ui_color: str = "#d9eae4"

    def __init__(
        self,
        *,
        source: str,
        purpose: str = "batch",
        filename: str | None = None,
        expires_after: int | None = None,
        llmbatch_conn_id: str = LLMBatchHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.source = source
        self.purpose = purpose
        self.filename = filename
        self.expires_after = expires_after
        self.llmbatch_conn_id = llmbatch_conn_id

    @override
    def execute(self, context: Context) -> str:
        hook = LLMBatchHook(self.llmbatch_conn_id)
        with airflow_verdict():
            if self.purpose != "batch":
                file = hook.create_file(
                    self.source, purpose=self.purpose, filename=self.filename, expires_after=self.expires_after
                )
                self.log.info(f"Uploaded {file.bytes:,} bytes as {file.id}", file_id=file.id, bytes=file.bytes)
                return file.id
            with hook.open_source(self.source) as (stream, name):
                checked = check_requests(
                    stream, name=name, limits=hook.adapter.limits, line_check=hook.adapter.line_check()
                )
                stream.seek(0)
                return submit_file(
                    hook.adapter,
                    ledger_of(context, "llmbatch_file", FileRecord),
                    slot_of(context),
                    stream,
                    checked,
                    filename=self.filename,
                    expires_after=self.expires_after,
                    attempt=attempt_of(context),
                    log=self.log,
                    telemetry=telemetry_of(context["ti"], provider=hook.adapter.provider),
                ).id


class LLMBatchDownloadFileOperator(BaseOperator):
    """Land a file of the provider as it is. Returns the destination.

    Nothing is checked or merged: LLMBatchDownloadResultsOperator lands the outcomes of a batch. The content streams
    through, and the file appears only when it is whole.

    :param file_id: The file. (templated)
    :param destination: Path or URI (``s3://conn_id@bucket/key``) of the file to write, replaced if it is there.
        (templated)
    :param llmbatch_conn_id: The connection. (templated)
    """

    template_fields: Sequence[str] = ("file_id", "destination", "llmbatch_conn_id")
    ui_color: str = "#d9eae4"

    def __init__(
        self,
        *,
        file_id: str,
        destination: str,
        llmbatch_conn_id: str = LLMBatchHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.file_id = file_id
        self.destination = destination
        self.llmbatch_conn_id = llmbatch_conn_id

    @override
    def execute(self, context: Context) -> str:
        hook = LLMBatchHook(self.llmbatch_conn_id)
        size = 0
        with airflow_verdict(), landing(path_of(self.destination)) as stream:
            for block in hook.file_content(self.file_id):
                stream.write(block)
                size += len(block)
        self.log.info(
            f"Landed {size:,} bytes of {self.file_id} in {self.destination}", file_id=self.file_id, bytes=size
        )
        return self.destination


class LLMBatchDeleteFileOperator(BaseOperator):
    """Delete a file at the provider. Returns its id.

    A file that is gone already is an error on the first try, since its id may be wrong, and what was wanted on any
    later one, since an earlier try may have deleted it.

    :param file_id: The file. (templated)
    :param llmbatch_conn_id: The connection. (templated)
    """

    template_fields: Sequence[str] = ("file_id", "llmbatch_conn_id")
    ui_color: str = "#d9eae4"

    def __init__(self, *, file_id: str, llmbatch_conn_id: str = LLMBatchHook.default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.file_id = file_id
        self.llmbatch_conn_id = llmbatch_conn_id

    @override
    def execute(self, context: Context) -> str:
        hook = LLMBatchHook(self.llmbatch_conn_id)
        may_be_gone = context["ti"].try_number > 1
        with airflow_verdict():
            try:
                hook.retrieve_file(self.file_id)
                may_be_gone = True  # a deletion whose answer was lost is repeated, and then finds nothing
                hook.delete_file(self.file_id)
            except NotFoundError:
                if not may_be_gone:
                    raise
                self.log.info(f"{self.file_id} is gone already", file_id=self.file_id)
            else:
                self.log.info(f"Deleted {self.file_id}", file_id=self.file_id)
        return self.file_id
