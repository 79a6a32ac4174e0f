"""What an engine is: something that answers one request at a time, many at once."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_llmbatch.models import Batch, BatchError, RequestLine


@dataclass(frozen=True)
class Answer:
    """An engine's answer to one request.

    :param body: JSON, as the endpoint answers; on failure OpenAI's ``{"error": {…}}``.
    """

    status_code: int
    body: bytes


class Engine(ABC):
    """Answers requests. ``model`` is the only one it serves, or ``None`` if it serves any."""

    model: str | None = None

    @abstractmethod
    async def answer(self, request: RequestLine) -> Answer:
        """Answer one request; what goes wrong with it is an answer too."""

    async def answer_while(self, request: RequestLine, wanted: Callable[[], bool]) -> Answer | None:
        """Answer one request, or ``None`` when its answer was no longer wanted before the engine could be asked.

        For engines that may be away for hours: a batch that expires or is cancelled meanwhile must not wait for them.
        """
        del wanted
        return await self.answer(request)

    def objection(self, batch: Batch, model: str | None) -> BatchError | None:  # noqa: ARG002 - for those that have one
        """Why a whole batch, found valid, must fail before its first request."""
        return None

    def ends_early(self, batch: Batch, answered: int) -> bool:  # noqa: ARG002 - no engine but a faulty one does
        """Whether a batch expires now, after so many answers, before its time has come."""
        return False

    async def start(self) -> None:  # noqa: B027 - most engines have nothing to make ready
        """Make ready; called once in the event loop, before the server listens."""

    async def stop(self) -> None:  # noqa: B027 - and nothing to give back
        """Give everything back."""


def refusal(status_code: int, code: str, message: str, param: str | None = None) -> Answer:
    """An answer that refuses a request, in OpenAI's shape."""
    kind = "server_error" if status_code >= 500 else "invalid_request_error"
    error = {"message": message, "type": kind, "param": param, "code": code}
    return Answer(status_code, json.dumps({"error": error}).encode())
