"""Files, batches and results, in OpenAI's shapes and words on every provider.

Adapters turn a provider's answers into these models at the edge; the embedded server answers with the same ones. A
field that a provider leaves out, or fills with something else, is ``None`` here, never an error: servers that call
themselves OpenAI-compatible do both, and a wait must not break on a field that it does not need. Times are whole
seconds since 1970 in UTC, as OpenAI sends them.

Files and batches are pydantic models, since few of them exist and their input is foreign. Lines are msgspec structs,
since there are many: decoding one leaves its body as undecoded bytes.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    WrapValidator,
    model_serializer,
)

if TYPE_CHECKING:
    from collections.abc import Callable

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

    # Built when first used: a DAG file that is only read would pay 8 ms for what it does not use.
    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)


def _number(value: object) -> float | None:
    """A finite number, also from a text that holds one."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _whole_count(count: object) -> int:
    number = _number(count)
    return int(number) if number is not None and 0 < number < _ABSURD_COUNT else 0


_ABSURD_COUNT: Final = 2**63

Count = Annotated[int, BeforeValidator(_whole_count)]
"""A count; 0 also where a server sends ``null``, since it does not know it yet, or what cannot be one."""

_YEAR_10000: Final = 253_402_300_800


def _whole_seconds(moment: object) -> int | None:
    """Seconds since 1970, from the numbers and ISO texts (in UTC unless they say otherwise) that servers send for them;
    0 and "" mean not yet, and what lies after the year 9999 is in another unit."""
    seconds = _number(moment)
    if seconds is None and isinstance(moment, str):
        try:
            parsed = datetime.fromisoformat(moment)
        except ValueError:
            return None
        seconds = (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
    return int(seconds) if seconds is not None and 0 < seconds < _YEAR_10000 else None


Timestamp = Annotated[int | None, BeforeValidator(_whole_seconds)]


def _text(value: object) -> str | None:
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None


Text = Annotated[str | None, BeforeValidator(_text)]


def _none_if_unreadable(value: object, read: Callable[[object], object]) -> object:
    try:
        return read(value)
    except ValidationError:
        return None


_NoneIfUnreadable = WrapValidator(_none_if_unreadable)


class File(_Model):
    """A file as a provider stores it.

    ``id`` is ``file-…`` at OpenAI and Azure and a ``gs://`` URI at Vertex; ``bytes`` is the size.
    """

    id: str
    object: Annotated[Literal["file"], BeforeValidator(lambda _: "file")] = "file"
    bytes: Count = 0
    created_at: Timestamp = None
    expires_at: Timestamp = None
    filename: Text = None
    purpose: Text = None
    status: Text = None
    status_details: Text = None
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


class _TokensDetails(_Model):
    @model_serializer(mode="wrap")
    def _without_rare_kinds(self, handler: SerializerFunctionWrapHandler) -> dict[str, int]:
        """Kinds that few models have are named only where there are some."""
        counts: dict[str, int] = handler(self)
        return {name: count for name, count in counts.items() if count or name in _COMMON_KINDS}


_COMMON_KINDS: Final = ("cached_tokens", "reasoning_tokens")


class InputTokensDetails(_TokensDetails):
    """Kinds of input. ``cached_tokens`` were read from the provider's cache, ``cache_write_tokens`` written to it."""

    cached_tokens: Count = 0
    cache_write_tokens: Count = 0
    audio_tokens: Count = 0
    image_tokens: Count = 0


class OutputTokensDetails(_TokensDetails):
    """Kinds of output."""

    reasoning_tokens: Count = 0
    audio_tokens: Count = 0
    image_tokens: Count = 0


class Usage(_Model):
    """Tokens of a whole batch, in the names of the Responses API on every endpoint."""

    input_tokens: Count = 0
    input_tokens_details: Annotated[InputTokensDetails | None, _NoneIfUnreadable] = None
    output_tokens: Count = 0
    output_tokens_details: Annotated[OutputTokensDetails | None, _NoneIfUnreadable] = None
    total_tokens: Count = 0


class BatchError(_Model):
    """Why a batch as a whole was refused: never the failure of a single request, which stands in the error file."""

    code: Text = None
    message: Text = None
    param: Text = None
    line: Annotated[int | None, _NoneIfUnreadable] = None


class BatchErrors(_Model):
    object: Annotated[Literal["list"], BeforeValidator(lambda _: "list")] = "list"
    data: tuple[BatchError, ...] = ()


def _listed_errors(errors: object) -> object:
    """The reasons in OpenAI's shape, from the bare lists, single errors and texts that servers send as well."""
    if errors is None or isinstance(errors, BatchErrors):
        return errors
    data = errors.get("data", [errors]) if isinstance(errors, dict) and errors else errors
    listed = data if isinstance(data, list | tuple) else [data]
    told = [{"message": error} if isinstance(error, str) else error for error in listed if error]
    return {"data": [error for error in told if isinstance(error, dict | BatchError)]}


def _counts(counts: object) -> object:
    return counts if isinstance(counts, dict | RequestCounts) else {}


class Batch(_Model):
    """One job at a provider, made from one input file.

    ``provider_status`` keeps the provider's own word for ``status``; ``None`` says that it is the same.
    """

    id: str
    object: Annotated[Literal["batch"], BeforeValidator(lambda _: "batch")] = "batch"
    status: BatchStatus
    endpoint: Text = None
    input_file_id: str | None = None
    completion_window: Text = None
    model: Text = None
    errors: Annotated[BatchErrors | None, BeforeValidator(_listed_errors)] = None
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
    request_counts: Annotated[RequestCounts, BeforeValidator(_counts)] = Field(default_factory=RequestCounts)
    usage: Annotated[Usage | None, _NoneIfUnreadable] = None
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
