"""Files, batches and results, in OpenAI's shapes and words on every provider.

Adapters turn a provider's answers into these models at the edge; the embedded server answers with the same ones. A
field that a provider leaves out is ``None`` here, never an error: servers that call themselves OpenAI-compatible leave
out a lot. Times are whole seconds since 1970 in UTC, as OpenAI sends them.

Files and batches are pydantic models, since few of them exist and their input is foreign. Lines are msgspec structs,
since there are many: decoding one leaves its body as undecoded bytes.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

BatchStatus = Literal[
    "validating",
    "in_progress",
    "finalizing",
    "completed",
    "failed",
    "expired",
    "cancelling",
    "cancelled",
    "unknown",
]
"""OpenAI's eight statuses, and ``unknown`` for a word that no table knows: not terminal, bounded by the deadline."""

TERMINAL_STATUSES: frozenset[BatchStatus] = frozenset({"completed", "failed", "expired", "cancelled"})

Outcome = Literal["succeeded", "failed", "expired", "cancelled", "missing", "invalid"]
"""What became of one request. ``missing``: nothing came back; ``invalid``: answered, but not in the shape asked for."""

BATCH_ENDPOINTS: frozenset[str] = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/images/edits",
        "/v1/images/generations",
        "/v1/moderations",
        "/v1/responses",
        "/v1/videos",
    }
)
"""What a batch may ask for (OpenAI's OpenAPI description 2.3.0, ``POST /batches``)."""


class _Model(BaseModel):
    """Frozen; unknown fields are ignored, since providers add fields without notice."""

    model_config = ConfigDict(frozen=True, extra="ignore")


def _none_means_zero(count: object) -> object:
    return 0 if count is None else count


Count = Annotated[int, BeforeValidator(_none_means_zero)]
"""A count that some servers send as ``null`` while they do not know it."""


def _whole_seconds(moment: object) -> object:
    """Seconds since 1970, from the numbers and ISO texts that servers send for them; 0 and "" mean not yet."""
    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment).timestamp()
        except ValueError:
            return None
    return int(moment) if isinstance(moment, int | float) and moment > 0 else None


Timestamp = Annotated[int | None, BeforeValidator(_whole_seconds)]


class File(_Model):
    """A file as a provider stores it.

    ``id`` is ``file-…`` at OpenAI and Azure and a ``gs://`` URI at Vertex; ``bytes`` is the size.
    """

    id: str
    object: Literal["file"] = "file"
    bytes: Count = 0
    created_at: Timestamp = None
    expires_at: Timestamp = None
    filename: str | None = None
    purpose: str | None = None
    status: str | None = None
    status_details: str | None = None
    provider: str | None = None


class RequestCounts(_Model):
    """How many requests of a batch are done. Approximate while it runs (seen at OpenAI)."""

    total: Count = 0
    completed: Count = 0
    failed: Count = 0

    @property
    def done(self) -> int:
        """Requests that will not change any more, answered or failed."""
        return self.completed + self.failed


class InputTokensDetails(_Model):
    cached_tokens: Count = 0


class OutputTokensDetails(_Model):
    reasoning_tokens: Count = 0


class Usage(_Model):
    """Tokens of a whole batch, in the names of the Responses API on every endpoint."""

    input_tokens: Count = 0
    input_tokens_details: InputTokensDetails | None = None
    output_tokens: Count = 0
    output_tokens_details: OutputTokensDetails | None = None
    total_tokens: Count = 0


class BatchError(_Model):
    """Why a batch as a whole was refused: never the failure of a single request, which stands in the error file."""

    code: str | None = None
    message: str | None = None
    param: str | None = None
    line: int | None = None


class BatchErrors(_Model):
    object: Literal["list"] = "list"
    data: tuple[BatchError, ...] = ()


class Batch(_Model):
    """One job at a provider, made from one input file.

    ``provider_status`` keeps the provider's own word for ``status``; ``None`` says that it is the same.
    """

    id: str
    object: Literal["batch"] = "batch"
    status: BatchStatus
    endpoint: str | None = None
    input_file_id: str | None = None
    completion_window: str | None = None
    model: str | None = None
    errors: BatchErrors | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: Timestamp = None
    in_progress_at: Timestamp = None
    expires_at: Timestamp = None
    finalizing_at: Timestamp = None
    completed_at: Timestamp = None
    failed_at: Timestamp = None
    expired_at: Timestamp = None
    cancelling_at: Timestamp = None
    cancelled_at: Timestamp = None
    request_counts: RequestCounts = Field(default_factory=RequestCounts)
    usage: Usage | None = None
    metadata: dict[str, str] | None = None
    provider: str | None = None
    provider_status: str | None = None

    @property
    def is_terminal(self) -> bool:
        """Whether the batch will not change any more."""
        return self.status in TERMINAL_STATUSES

    @property
    def has_results(self) -> bool:
        """Whether there is a result file to download; a completed batch may have either file, both, or none."""
        return bool(self.output_file_id or self.error_file_id)


class RequestLine(msgspec.Struct, frozen=True, gc=False):
    """One line of an input file. ``body`` stays undecoded until something must look inside."""

    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


class ResultError(msgspec.Struct, frozen=True, gc=False, omit_defaults=False):
    """Why one request has no answer, in the provider's own code and words."""

    code: str | None = None
    message: str | None = None


class ResultResponse(msgspec.Struct, frozen=True, gc=False, omit_defaults=False):
    """The provider's answer to one request; ``body`` is the endpoint's normal body, undecoded, or JSON's ``null``."""

    status_code: int | None = None
    request_id: str | None = None
    # Not ``Raw | None``: msgspec decodes the members of a union, so it would accept nothing but null.
    body: msgspec.Raw = msgspec.Raw(b"null")


class Result(msgspec.Struct, frozen=True, gc=False, omit_defaults=False):
    """What came back for one request: exactly one outcome."""

    custom_id: str
    outcome: Outcome
    response: ResultResponse | None = None
    error: ResultError | None = None
