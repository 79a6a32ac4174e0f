"""One input file, uploaded once: a retry, or a clear with the same content, finds the file of the earlier try.

A second upload would cost nothing, but its other id would make another batch of it; so a file that is there is kept.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from airflow_provider_llmbatch.core.ledger import FileRecord
from airflow_provider_llmbatch.core.telemetry import OFF
from airflow_provider_llmbatch.errors import NotFoundError

if TYPE_CHECKING:
    from typing import BinaryIO

    from structlog.typing import FilteringBoundLogger

    from airflow_provider_llmbatch.adapters.base import Adapter
    from airflow_provider_llmbatch.core.jsonl import CheckedInput
    from airflow_provider_llmbatch.core.ledger import Ledger
    from airflow_provider_llmbatch.core.submit import Attempt, Slot
    from airflow_provider_llmbatch.core.telemetry import Telemetry
    from airflow_provider_llmbatch.models import File


def submit_file(
    adapter: Adapter,
    ledger: Ledger[FileRecord],
    slot: Slot,
    stream: BinaryIO,
    checked: CheckedInput,
    *,
    filename: str | None = None,
    content: str | None = None,
    expires_after: int | None = None,
    attempt: Attempt,
    log: FilteringBoundLogger,
    telemetry: Telemetry = OFF,
) -> File:
    """Upload an input once: a retry or a clear with the same content finds the file of the earlier try.

    :param filename: The name at the provider. If ``None``, one that tells slot and content, by which an upload whose
        answer was lost is found again; with a name of the user's own it is repeated, which costs nothing.
    :param content: What the name tells instead of the content, for a caller that must not share files between jobs.
    """
    name = filename or f"{slot.key('file', content or checked.sha256)}.jsonl"
    record = ledger.read()
    same = record is not None and record.sha256 == checked.sha256 and record.filename == name
    file = _recorded_file(adapter, record, log) if same and record else None
    in_doubt = (same and record is not None and record.file_id is None) or (record is None and attempt.try_number > 1)
    if file is None and in_doubt and filename is None:
        file = next((f for f in adapter.list_files(purpose="batch") if _holds(f, name, checked, adapter)), None)
        if file is not None:
            log.info(f"Found {file.id}, which an earlier try uploaded: not uploaded again", file_id=file.id)
    if file is None:
        ledger.write(FileRecord(filename=name, sha256=checked.sha256))
        file = _uploaded(adapter, stream, checked, name, expires_after, telemetry)
        log.info(
            f"Uploaded {_size(checked.bytes)} as {file.id}",
            file_id=file.id,
            bytes=checked.bytes,
            requests=checked.requests,
        )
    ledger.write(FileRecord(filename=name, sha256=checked.sha256, file_id=file.id))
    return file


def _uploaded(
    adapter: Adapter,
    stream: BinaryIO,
    checked: CheckedInput,
    name: str,
    expires_after: int | None,
    telemetry: Telemetry,
) -> File:
    told = {"bytes": checked.bytes, "requests": checked.requests, "model": checked.model, "endpoint": checked.endpoint}
    begin = time.monotonic()
    with telemetry.span("upload", **told) as span:
        file = adapter.create_file(stream, filename=name, expires_after=expires_after)
        span.set(file_id=file.id)
    telemetry.timing("upload.duration", time.monotonic() - begin, provider=adapter.provider, model=checked.model)
    telemetry.count("upload.bytes", checked.bytes, provider=adapter.provider, model=checked.model)
    return file


def _holds(file: File, name: str, checked: CheckedInput, adapter: Adapter) -> bool:
    return file.filename == name and (not adapter.stores_as_sent or file.bytes == checked.bytes)


def _recorded_file(adapter: Adapter, record: FileRecord, log: FilteringBoundLogger) -> File | None:
    if record.file_id is None:
        return None
    try:
        file = adapter.retrieve_file(record.file_id)
    except NotFoundError:
        log.info(
            f"{record.file_id}, which an earlier try uploaded, is gone at the provider: uploading again",
            file_id=record.file_id,
        )
        return None
    log.info(f"{file.id} has the same content already: not uploaded again", file_id=file.id)
    return file


def _size(count: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count} bytes"
