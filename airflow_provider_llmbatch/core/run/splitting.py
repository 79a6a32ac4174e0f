"""The parts that an input is cut into: what each may have, and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from pydantic import BaseModel, ConfigDict

from airflow_provider_llmbatch.core.costs.volume import Volume  # noqa: TC001 - pydantic reads it

if TYPE_CHECKING:
    from airflow_provider_llmbatch.adapters.base import Limits

REQUEST_HEAD: Final = b'{"custom_id":"'
"""What each line of requests begins with; then comes the row's ordinal."""


@dataclass(frozen=True)
class SplitLimits:
    """What one part may have.

    :param max_tokens: Estimated, a token for four bytes of a request's body; unlimited by default.
    :param endpoints: What a request may ask for.
    """

    max_rows: int
    max_bytes: int
    max_tokens: int | None = None
    endpoints: frozenset[str] | None = None

    @classmethod
    def of(
        cls,
        limits: Limits,
        *,
        max_rows: int | None = None,
        max_bytes: int | None = None,
        max_tokens: int | None = None,
    ) -> SplitLimits:
        """The provider's limits, or the user's own where those are lower."""
        return cls(
            max_rows=min(limits.max_requests, max_rows or limits.max_requests),
            max_bytes=min(limits.max_file_bytes, max_bytes or limits.max_file_bytes),
            max_tokens=max_tokens,
            endpoints=limits.endpoints,
        )


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), defer_build=True)


class StagePart(_Frozen):
    """A slice of the input for one model and one endpoint: one file and one batch at the provider.

    :param bytes: Of its requests, and so is ``sha256``.
    :param tokens: Estimated, as ``SplitLimits`` does.
    :param volume: What its estimate of costs is made from; a stage of an earlier release lacks it.
    :param first: The ordinal of its first row; between that and ``last`` all are its own, unless models alternate.
    """

    number: int
    rows: int
    bytes: int
    sha256: str
    model: str | None
    endpoint: str
    tokens: int
    first: int
    last: int
    volume: Volume | None = None

    def requests_name(self, attempt: int = 1) -> str:
        return f"part-{self.number:05}.{'requests' if attempt == 1 else f'attempt-{attempt}'}.jsonl"

    @property
    def rows_name(self) -> str:
        return f"part-{self.number:05}.rows.jsonl"


class StageIndex(_Frozen):
    """:param rows_sha256: Of the input itself, whatever the prompt made of it, and whatever the order of its rows."""

    schema_version: Literal[1] = 1
    rows: int
    bytes: int
    rows_sha256: str
    parts: tuple[StagePart, ...]
