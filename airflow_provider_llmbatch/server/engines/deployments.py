"""An engine as the deployments of an Azure resource."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from typing_extensions import override

from airflow_provider_llmbatch.models import BatchError
from airflow_provider_llmbatch.server.dialect import AZURE, NO_DEPLOYMENT
from airflow_provider_llmbatch.server.engines.base import Engine

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_llmbatch.models import Batch, RequestLine
    from airflow_provider_llmbatch.server.engines.base import Answer


class Deployments(Engine):
    """An engine whose models are deployments, whose requests may leave out ``/v1``, and that refuses a batch as a whole
    when there is no such deployment."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.model = engine.model

    @override
    async def start(self) -> None:
        await self._engine.start()

    @override
    async def stop(self) -> None:
        await self._engine.stop()

    @override
    async def answer(self, request: RequestLine) -> Answer:
        return await self._engine.answer(_full(request))

    @override
    async def answer_while(self, request: RequestLine, wanted: Callable[[], bool]) -> Answer | None:
        return await self._engine.answer_while(_full(request), wanted)

    @override
    def objection(self, batch: Batch, model: str | None) -> BatchError | None:
        if self.model not in (None, model):
            code, message = NO_DEPLOYMENT
            return BatchError(code=code, message=message, param="model")
        return self._engine.objection(batch, model)

    @override
    def ends_early(self, batch: Batch, answered: int) -> bool:
        return self._engine.ends_early(batch, answered)


def _full(request: RequestLine) -> RequestLine:
    return msgspec.structs.replace(request, url=AZURE.full_endpoint(request.url))
