"""What an engine is: something that answers one request at a time, many at once."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_llmbatch.models import RequestLine


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

    async def start(self) -> None:  # noqa: B027 - most engines have nothing to make ready
        """Make ready; called once in the event loop, before the server listens."""

    async def stop(self) -> None:  # noqa: B027 - and nothing to give back
        """Give everything back."""


def refusal(status_code: int, code: str, message: str, param: str | None = None) -> Answer:
    """An answer that refuses a request, in OpenAI's shape."""
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return Answer(status_code, json.dumps({"error": error}).encode())
