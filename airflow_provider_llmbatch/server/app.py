"""The routes: OpenAI's files and batches, their bodies and their errors (OpenAI's OpenAPI description 2.3.0)."""

from __future__ import annotations

import asyncio
import hmac
import shutil
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel, Field
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from airflow_provider_llmbatch.models import BATCH_ENDPOINTS, Batch, File
from airflow_provider_llmbatch.server.runner import Runner
from airflow_provider_llmbatch.server.store import Store, new_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from starlette.types import ASGIApp, Receive, Scope, Send

    from airflow_provider_llmbatch.server.engines.base import Engine

_OURS = {"provider", "provider_status"}  # fields of the package's models that OpenAI's objects lack
_FORM_OVERHEAD = 64 * 1024  # bytes of a multipart body that are not the file


class ApiError(Exception):
    """An answer that refuses a call, in OpenAI's shape."""

    def __init__(self, status_code: int, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.code = code
        self.param = param


class ExpiresAfter(BaseModel):
    anchor: Literal["created_at"]
    seconds: int = Field(ge=3600, le=2_592_000)


class CreateBatch(BaseModel):
    input_file_id: str
    endpoint: str
    completion_window: Literal["24h"]
    metadata: dict[str, str] | None = None
    output_expires_after: ExpiresAfter | None = None


def create_app(
    store: Store,
    engine: Engine,
    *,
    api_key: str,
    concurrency: int,
    completion_window: float,
    max_upload_bytes: int,
) -> FastAPI:
    """The server as an ASGI application; owns neither store nor engine but starts and stops the engine."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await engine.start()
        runner = Runner(store, engine, concurrency=concurrency, completion_window=completion_window)
        runner.resume()
        app.state.runner = runner
        yield
        await runner.stop()
        await engine.stop()

    app = FastAPI(title="llmbatch-server", lifespan=lifespan, openapi_url=None)
    app.state.store = store
    app.state.max_upload_bytes = max_upload_bytes
    app.add_middleware(_KeyRequired, api_key=api_key)
    _add_error_bodies(app)
    _add_files(app)
    _add_batches(app)
    return app


class _KeyRequired:
    """Every call needs the key, unknown paths included; compared in constant time, before anything is read."""

    def __init__(self, app: ASGIApp, *, api_key: str) -> None:
        self._app = app
        self._expected = f"Bearer {api_key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._expected):
                message = "Incorrect API key provided." if given else "You didn't provide an API key."
                await error_response(ApiError(401, message, code="invalid_api_key"))(scope, receive, send)
                return
        await self._app(scope, receive, send)


def error_response(error: ApiError) -> JSONResponse:
    kind = "server_error" if error.status_code >= 500 else "invalid_request_error"
    body = {"message": str(error), "type": kind, "param": error.param, "code": error.code}
    return JSONResponse({"error": body}, error.status_code)


def _add_error_bodies(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def refused(_request: Request, error: ApiError) -> JSONResponse:
        return error_response(error)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        where = f" ({request.method} {request.url.path})" if error.status_code in (404, 405) else ""
        return error_response(ApiError(error.status_code, f"{error.detail}{where}"))

    @app.exception_handler(RequestValidationError)
    async def malformed(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"] if part not in ("body", "query"))
        message = (
            f"Missing required parameter: '{param}'."
            if first["type"] == "missing"
            else f"Invalid '{param}': {first['msg']}."
        )
        code = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
        return error_response(ApiError(400, message, code=code, param=param or None))


def _shown(model: File | Batch) -> dict[str, object]:
    return model.model_dump(mode="json", exclude=_OURS)


def _listing(items: list[File] | list[Batch], limit: int) -> dict[str, object]:
    page = items[:limit]
    return {
        "object": "list",
        "data": [_shown(item) for item in page],
        "first_id": page[0].id if page else None,
        "last_id": page[-1].id if page else None,
        "has_more": len(items) > limit,
    }


def _add_files(app: FastAPI) -> None:
    store: Store = app.state.store

    def found(file_id: str) -> File:
        file = store.file(file_id)
        if file is None or (file.expires_at is not None and file.expires_at <= time.time()):
            raise ApiError(404, f"No such File object: {file_id}", param="id")
        return file

    @app.post("/v1/files")
    async def create_file(request: Request) -> dict[str, object]:
        limit: int = app.state.max_upload_bytes
        _check_size(int(request.headers.get("content-length", 0)) - _FORM_OVERHEAD, limit)
        # Starlette spools a file part to disk while it arrives, so its size costs no memory.
        async with request.form() as form:
            upload, file = _uploaded(form)
            _check_size(file.bytes, limit)
            part = store.uploads / file.id
            await asyncio.to_thread(_copy, upload, part)
            store.add_file(file, part)
        return _shown(file)

    @app.get("/v1/files")
    def list_files(
        purpose: str | None = None,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
        order: Literal["asc", "desc"] = "desc",
    ) -> dict[str, object]:
        return _listing(store.files(purpose=purpose, after=after, limit=limit, newest_first=order == "desc"), limit)

    @app.get("/v1/files/{file_id}")
    def retrieve_file(file_id: str) -> dict[str, object]:
        return _shown(found(file_id))

    @app.get("/v1/files/{file_id}/content")
    def file_content(file_id: str) -> FileResponse:
        return FileResponse(store.content(found(file_id)), media_type="application/octet-stream")

    @app.delete("/v1/files/{file_id}")
    def delete_file(file_id: str) -> dict[str, object]:
        store.delete_file(found(file_id))
        return {"id": file_id, "object": "file", "deleted": True}


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise ApiError(413, f"File is too large: at most {limit} bytes are allowed.", param="file")


def _uploaded(form: FormData) -> tuple[UploadFile, File]:
    """The content of an upload form, and the file that is to be made of it."""
    upload, purpose = form.get("file"), form.get("purpose")
    if not isinstance(upload, UploadFile):
        raise ApiError(400, "Missing required parameter: 'file'.", code="missing_required_parameter", param="file")
    if not isinstance(purpose, str) or not purpose:
        raise ApiError(
            400, "Missing required parameter: 'purpose'.", code="missing_required_parameter", param="purpose"
        )
    name = upload.filename or "upload"
    if purpose == "batch" and not name.endswith(".jsonl"):
        raise ApiError(400, "Invalid file format for Batch API. Must be .jsonl", param="file")
    now = int(time.time())
    lifetime = _expiry(form.get("expires_after[seconds]"))
    return upload, File(
        id=new_id("file-"),
        bytes=upload.size or 0,
        created_at=now,
        expires_at=None if lifetime is None else now + lifetime,
        filename=name,
        purpose=purpose,
        status="processed",
    )


def _copy(upload: UploadFile, destination: Path) -> None:
    with destination.open("wb") as stream:
        shutil.copyfileobj(upload.file, stream, 1024 * 1024)


def _expiry(seconds: object) -> int | None:
    if seconds is None:
        return None
    if isinstance(seconds, str) and seconds.isdigit() and 3600 <= int(seconds) <= 2_592_000:
        return int(seconds)
    raise ApiError(400, "Invalid 'expires_after.seconds': from 3600 to 2592000.", param="expires_after.seconds")


def _add_batches(app: FastAPI) -> None:
    store: Store = app.state.store

    def found(batch_id: str) -> Batch:
        batch: Batch | None = app.state.runner.batch(batch_id)
        if batch is None:
            raise ApiError(404, f"No batch found with id '{batch_id}'.", param="batch_id")
        return batch

    @app.post("/v1/batches")
    async def create_batch(wanted: CreateBatch) -> dict[str, object]:
        _check(wanted, store.file(wanted.input_file_id))
        now = int(time.time())
        batch = Batch(
            id=new_id("batch_"),
            status="validating",
            endpoint=wanted.endpoint,
            input_file_id=wanted.input_file_id,
            completion_window=wanted.completion_window,
            created_at=now,
            expires_at=now + int(app.state.runner.completion_window),
            metadata=wanted.metadata,
        )
        store.put_batch(batch)
        app.state.runner.begin(batch)
        return _shown(batch)

    @app.get("/v1/batches")
    async def list_batches(
        after: str | None = None, limit: Annotated[int, Query(ge=1, le=100)] = 20
    ) -> dict[str, object]:
        listed = store.batches(after=after, limit=limit)
        return _listing([app.state.runner.batch(batch.id) or batch for batch in listed], limit)

    @app.get("/v1/batches/{batch_id}")
    async def retrieve_batch(batch_id: str) -> dict[str, object]:
        return _shown(found(batch_id))

    @app.post("/v1/batches/{batch_id}/cancel")
    async def cancel_batch(batch_id: str) -> dict[str, object]:
        batch = found(batch_id)
        if batch.is_terminal or batch.status == "finalizing":
            raise ApiError(409, f"Cannot cancel a batch with status '{batch.status}'.", code="invalid_status")
        return _shown(app.state.runner.cancel(batch))


def _check(wanted: CreateBatch, file: File | None) -> None:
    if wanted.endpoint not in BATCH_ENDPOINTS:
        known = ", ".join(f"'{endpoint}'" for endpoint in sorted(BATCH_ENDPOINTS))
        raise ApiError(
            400,
            f"Invalid value: '{wanted.endpoint}'. Supported values are: {known}.",
            code="invalid_value",
            param="endpoint",
        )
    metadata = wanted.metadata or {}
    if len(metadata) > 16:
        raise ApiError(400, f"Invalid 'metadata': at most 16 pairs, not {len(metadata)}.", param="metadata")
    if any(len(name) > 64 or len(value) > 512 for name, value in metadata.items()):
        raise ApiError(400, "Invalid 'metadata': names have at most 64 characters, values 512.", param="metadata")
    if file is None:
        raise ApiError(
            400,
            f"Invalid file ID: {wanted.input_file_id} does not exist.",
            code="invalid_request",
            param="input_file_id",
        )
    if file.purpose != "batch":
        raise ApiError(400, f"The file {file.id} has the purpose '{file.purpose}', not 'batch'.", param="input_file_id")
