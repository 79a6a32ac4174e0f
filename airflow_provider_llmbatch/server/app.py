"""The server as an application: every call needs the key, every refusal has OpenAI's shape (its OpenAPI 2.3.0)."""

from __future__ import annotations

import hmac
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI

from airflow_provider_llmbatch.server.batches import batch_routes
from airflow_provider_llmbatch.server.dialect import OPENAI
from airflow_provider_llmbatch.server.files import file_routes
from airflow_provider_llmbatch.server.refusals import ApiError, add_error_bodies, error_response
from airflow_provider_llmbatch.server.runner import Runner

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import ASGIApp, Receive, Scope, Send

    from airflow_provider_llmbatch.server.dialect import Dialect
    from airflow_provider_llmbatch.server.engines.base import Engine
    from airflow_provider_llmbatch.server.store import Store


def create_app(
    store: Store,
    engine: Engine,
    *,
    api_key: str,
    concurrency: int,
    completion_window: float,
    max_upload_bytes: int,
    dialect: Dialect = OPENAI,
) -> FastAPI:
    """The server as an ASGI application; owns neither store nor engine but starts and stops the engine.

    :param concurrency: Requests at the engine at once, over all batches.
    :param completion_window: Seconds from a batch's creation until what was not begun of it expires.
    :param max_upload_bytes: Of one file.
    :param dialect: The rules that files and batches go by.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await engine.start()
        runner = Runner(store, engine, concurrency=concurrency, completion_window=completion_window, dialect=dialect)
        runner.resume()
        app.state.runner = runner
        yield
        await runner.stop()
        await engine.stop()

    app = FastAPI(title="llmbatch-server", lifespan=lifespan, openapi_url=None)
    app.add_middleware(_KeyRequired, api_key=api_key)
    add_error_bodies(app)
    app.include_router(file_routes(store, dialect, max_upload_bytes=max_upload_bytes))
    app.include_router(batch_routes(store, dialect))
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
                refusal = (
                    ApiError(401, "Incorrect API key provided.", code="invalid_api_key")
                    if given
                    else ApiError(401, "You didn't provide an API key. Send it as: Authorization: Bearer YOUR_KEY")
                )
                await error_response(refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)
