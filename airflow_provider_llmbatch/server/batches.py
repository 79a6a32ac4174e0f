"""The routes of batches: create, list, retrieve, cancel."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field, model_validator

from airflow_provider_llmbatch.models import BATCH_ENDPOINTS, Batch
from airflow_provider_llmbatch.server.answering import listing, shown
from airflow_provider_llmbatch.server.refusals import ApiError
from airflow_provider_llmbatch.server.store import new_id

if TYPE_CHECKING:
    from airflow_provider_llmbatch.models import File
    from airflow_provider_llmbatch.server.dialect import Dialect
    from airflow_provider_llmbatch.server.runner import Runner
    from airflow_provider_llmbatch.server.store import Store


class ExpiresAfter(BaseModel):
    anchor: Literal["created_at"]
    seconds: int = Field(ge=3600, le=2_592_000, strict=True)


class CreateBatch(BaseModel):
    input_file_id: str
    endpoint: str
    completion_window: Literal["24h"]
    metadata: dict[str, str] | None = None
    output_expires_after: ExpiresAfter | None = None

    @model_validator(mode="before")
    @classmethod
    def _is_unicode(cls, given: object) -> object:
        """JSON can spell half a surrogate pair, which no database takes and no answer can repeat."""
        try:
            json.dumps(given, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("The body of your request holds text that is no Unicode.") from None
        return given


def batch_routes(store: Store, dialect: Dialect) -> APIRouter:
    router = APIRouter(prefix="/v1/batches")

    def running(request: Request) -> Runner:
        runner: Runner = request.app.state.runner
        return runner

    def found(request: Request, batch_id: str) -> Batch:
        batch = running(request).batch(batch_id)
        if batch is None:
            raise ApiError(404, f"No batch found with id '{batch_id}'.", param="batch_id")
        return batch

    # All of them run in the event loop, as the runner does, so that none sees a batch between two states.
    @router.post("")
    async def create_batch(wanted: CreateBatch, request: Request) -> dict[str, object]:
        runner = running(request)
        batch = _created(wanted, store, dialect, window=int(runner.completion_window))
        runner.begin(batch)
        return shown(batch)

    @router.get("")
    async def list_batches(
        request: Request, after: str | None = None, limit: Annotated[int, Query(ge=1, le=100)] = 20
    ) -> dict[str, object]:
        runner = running(request)
        if after is not None and store.batch(after) is None:
            raise ApiError(400, f"No batch found with id '{after}'.", code="invalid_value", param="after")
        listed = store.batches(after=after, limit=limit)
        return listing([runner.batch(batch.id) or batch for batch in listed], limit)

    @router.get("/{batch_id}")
    async def retrieve_batch(batch_id: str, request: Request) -> dict[str, object]:
        return shown(found(request, batch_id))

    @router.post("/{batch_id}/cancel")
    async def cancel_batch(batch_id: str, request: Request) -> dict[str, object]:
        batch = found(request, batch_id)
        if batch.is_terminal or batch.status == "finalizing":
            raise ApiError(409, f"Cannot cancel a batch with status '{batch.status}'.", code="invalid_status")
        return shown(running(request).cancel(batch_id))

    return router


def _created(wanted: CreateBatch, store: Store, dialect: Dialect, *, window: int) -> Batch:
    _check(wanted, store.file(wanted.input_file_id), dialect)
    now = int(time.time())
    batch = Batch(
        id=new_id("batch_"),
        status="validating",
        endpoint=wanted.endpoint,
        input_file_id=wanted.input_file_id,
        completion_window=wanted.completion_window,
        created_at=now,
        expires_at=now + window,
        metadata=wanted.metadata,
    )
    lifetime = wanted.output_expires_after.seconds if wanted.output_expires_after else None
    if not store.add_batch(batch, results_lifetime=lifetime):
        raise _no_input(wanted.input_file_id)  # deleted since it was looked up
    return batch


def _check(wanted: CreateBatch, file: File | None, dialect: Dialect) -> None:
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
    if wanted.output_expires_after and wanted.output_expires_after.seconds < dialect.shortest_lifetime:
        raise ApiError(
            400,
            f"Invalid 'output_expires_after.seconds': from {dialect.shortest_lifetime} to 2592000.",
            code="invalid_value",
            param="output_expires_after.seconds",
        )
    if file is None:
        raise _no_input(wanted.input_file_id)
    if file.purpose != "batch":
        raise ApiError(400, f"The file {file.id} has the purpose '{file.purpose}', not 'batch'.", param="input_file_id")


def _no_input(file_id: str) -> ApiError:
    return ApiError(400, f"Invalid file ID: {file_id} does not exist.", code="invalid_request", param="input_file_id")
