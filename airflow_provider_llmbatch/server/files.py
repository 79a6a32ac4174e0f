"""The routes of files: upload, list, retrieve, content, delete."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Final, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse

from airflow_provider_llmbatch.models import File
from airflow_provider_llmbatch.server.answering import listing, shown
from airflow_provider_llmbatch.server.refusals import ApiError, missing
from airflow_provider_llmbatch.server.store import new_id
from airflow_provider_llmbatch.server.uploads import Upload

if TYPE_CHECKING:
    from airflow_provider_llmbatch.server.dialect import Dialect
    from airflow_provider_llmbatch.server.store import Store

# What people may upload (OpenAI's ``POST /files``); ``batch_output`` is the server's own.
_PURPOSES: Final = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")


def file_routes(store: Store, dialect: Dialect, *, max_upload_bytes: int) -> APIRouter:
    router = APIRouter(prefix="/v1/files")

    def found(file_id: str) -> File:
        file = store.file(file_id)
        if file is None:
            raise ApiError(404, f"No such File object: {file_id}", param="id")
        return file

    @router.post("")
    async def create_file(request: Request) -> dict[str, object]:
        file_id = new_id("file-")
        with Upload(store.uploads / file_id, limit=max_upload_bytes) as upload:
            await upload.receive(request)
            file = _uploaded(file_id, upload, dialect)
            _check_quota(file, store, dialect)
            store.add_file(file, upload.path)
        return shown(file)

    @router.get("")
    def list_files(
        purpose: str | None = None,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
        order: Literal["asc", "desc"] = "desc",
    ) -> dict[str, object]:
        if after is not None and store.file(after) is None:
            raise ApiError(400, f"No such File object: {after}", code="invalid_value", param="after")
        return listing(store.files(purpose=purpose, after=after, limit=limit, newest_first=order == "desc"), limit)

    @router.get("/{file_id}")
    def retrieve_file(file_id: str) -> dict[str, object]:
        return shown(found(file_id))

    @router.get("/{file_id}/content")
    def file_content(file_id: str) -> FileResponse:
        return FileResponse(store.content(found(file_id)), media_type="application/octet-stream")

    @router.delete("/{file_id}")
    def delete_file(file_id: str) -> dict[str, object]:
        store.delete_file(found(file_id))
        return {"id": file_id, "object": "file", "deleted": True}

    return router


def _uploaded(file_id: str, upload: Upload, dialect: Dialect) -> File:
    purpose = upload.fields.get("purpose")
    if not purpose:
        raise missing("purpose")
    if purpose not in _PURPOSES:
        known = ", ".join(f"'{each}'" for each in _PURPOSES)
        raise ApiError(
            400, f"Invalid value: '{purpose}'. Supported values are: {known}.", code="invalid_value", param="purpose"
        )
    name = upload.filename or "upload"
    if purpose == "batch" and not name.endswith(".jsonl"):
        raise ApiError(400, "Invalid file format for Batch API. Must be .jsonl", param="file")
    now = int(time.time())
    lifetime = _lifetime(upload.fields, dialect.shortest_lifetime)
    if lifetime is None and purpose == "batch":
        lifetime = dialect.input_lifetime
    return File(
        id=file_id,
        bytes=upload.size,
        created_at=now,
        expires_at=None if lifetime is None else now + lifetime,
        filename=name,
        purpose=purpose,
        status="processed",
    )


def _check_quota(file: File, store: Store, dialect: Dialect) -> None:
    """In the words of Azure, which alone has one."""
    expiring = file.expires_at is not None
    quota = dialect.files_expiring if expiring else dialect.files_staying
    if quota is not None and file.purpose == "batch" and store.count_inputs(expiring=expiring) >= quota:
        message = f"The quota for files {'with' if expiring else 'without'} expiry is reached. The maximum is {quota}."
        raise ApiError(400, message, code="quotaExceeded")


def _lifetime(fields: dict[str, str], shortest: int) -> int | None:
    """Seconds, as ``expires_after`` gives them in two fields, spelled as OpenAI or as Azure does; ``None`` if it is not
    there."""
    anchor, seconds = (
        fields.get(f"expires_after[{part}]", fields.get(f"expires_after.{part}")) for part in ("anchor", "seconds")
    )
    if anchor is None and seconds is None:
        return None
    if anchor is None:
        raise missing("expires_after.anchor")
    if seconds is None:
        raise missing("expires_after.seconds")
    if anchor != "created_at":
        raise ApiError(
            400,
            "Invalid 'expires_after.anchor': only 'created_at'.",
            code="invalid_value",
            param="expires_after.anchor",
        )
    if seconds.isascii() and seconds.isdigit() and shortest <= int(seconds[:9]) <= 2_592_000:
        return int(seconds[:9])
    raise ApiError(
        400,
        f"Invalid 'expires_after.seconds': from {shortest} to 2592000.",
        code="invalid_value",
        param="expires_after.seconds",
    )
