"""Any server that answers single requests over HTTP as OpenAI does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import httpx
from typing_extensions import override

from airflow_provider_llmbatch.server.engines.base import Answer, Engine, refusal

if TYPE_CHECKING:
    from airflow_provider_llmbatch.models import RequestLine

_TIMEOUT_SECONDS: Final = 600.0  # a queue of long answers on a slow machine


class HttpEngine(Engine):
    """Passes each request on, its body untouched.

    :param origin: Scheme, host and port; the request's ``url`` brings the path.
    :param connections: How many requests may be under way at once.
    """

    def __init__(self, origin: str, *, api_key: str | None = None, connections: int) -> None:
        self._origin = origin.rstrip("/")
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._connections = connections

    @override
    async def start(self) -> None:
        self._client = httpx.AsyncClient(
            headers=self._headers,
            timeout=httpx.Timeout(_TIMEOUT_SECONDS, connect=10.0),
            limits=httpx.Limits(max_connections=self._connections, max_keepalive_connections=self._connections),
            trust_env=False,  # the way to a server of one's own never leads through a proxy
        )

    @override
    async def answer(self, request: RequestLine) -> Answer:
        try:
            response = await self._client.post(self._origin + request.url, content=bytes(request.body))
        except httpx.TransportError as error:
            return refusal(503, "engine_unavailable", f"The engine did not answer ({type(error).__name__}: {error}).")
        return Answer(response.status_code, response.content)

    @override
    async def stop(self) -> None:
        await self._client.aclose()
