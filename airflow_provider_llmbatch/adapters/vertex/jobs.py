"""Vertex AI's batch prediction jobs as batches, and a batch as the body that creates a job. Pure.

Facts: ``BatchPredictionJob``, ``JobState`` and ``CompletionStats`` of ``google.cloud.aiplatform_v1`` 2.7.0; Google's
guide "Batch inference with Gemini" of 2026. Google's own clients disagree about which states are ends; taken here is
their union, since a wait that misses one never ends.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from airflow_provider_llmbatch.adapters.vertex.location import model_name_of
from airflow_provider_llmbatch.models import Batch, BatchError, BatchErrors, BatchStatus, RequestCounts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic import JsonValue

CHAT_ENDPOINT: Final = "/v1/chat/completions"
REQUESTS_LABEL: Final = "llmbatch_requests"
"""The label of a job that says how many requests it has, which the job itself may not know until its end."""

_STATE: Final = "JOB_STATE_"
_PAUSED: Final = f"{_STATE}PAUSED"
_STATUSES: Final[Mapping[str, BatchStatus]] = {
    f"{_STATE}QUEUED": "validating",
    f"{_STATE}PENDING": "validating",
    f"{_STATE}RUNNING": "in_progress",
    f"{_STATE}UPDATING": "in_progress",
    f"{_STATE}CANCELLING": "cancelling",
    f"{_STATE}SUCCEEDED": "completed",
    f"{_STATE}PARTIALLY_SUCCEEDED": "completed",
    f"{_STATE}FAILED": "failed",
    f"{_STATE}CANCELLED": "cancelled",
    f"{_STATE}EXPIRED": "expired",
    # Nothing resumes it by itself, so waiting would last to the deadline. Not expected for Gemini.
    _PAUSED: "cancelled",
}
# google.rpc.Code, which a job's errors name by number.
_CODES: Final = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)
_PUBLISHER: Final = "publishers/google/models/"
_LONGEST_NAME: Final = 128  # characters of a displayName
_PACKAGE: Final = "llmbatch_"
_is_key: Final = re.compile(r"[a-z][a-z0-9_-]*").fullmatch
_is_value: Final = re.compile(r"[a-z0-9_-]*").fullmatch


def batch_of(job: Mapping[str, JsonValue]) -> Batch:
    """A job as a batch.

    :raises ValueError: It has no name, so it is none.
    """
    name, word = job.get("name"), _text(job.get("state"))
    if not isinstance(name, str) or not name:
        raise ValueError("it has no name")
    status = _STATUSES.get(word or "", "unknown")
    labels = _mapping(job.get("labels"))
    ended_at = job.get("endTime") or job.get("updateTime")
    counts = _counts(job, labels)
    return Batch.model_validate(
        {
            "id": name,
            "status": status,
            "provider": "vertex",
            "provider_status": word,
            "endpoint": CHAT_ENDPOINT,
            "completion_window": "24h",
            "model": _short_model(job.get("model")),
            "input_file_id": _input_uri(job),
            "output_file_id": _output_directory(job, status, counts),
            "errors": _errors(job, word),
            "created_at": job.get("createTime"),
            "in_progress_at": job.get("startTime"),
            "cancelling_at": job.get("updateTime") if status == "cancelling" else None,
            **({f"{status}_at": ended_at} if status in ("completed", "failed", "expired", "cancelled") else {}),
            "request_counts": counts,
            "metadata": {name: str(value) for name, value in labels.items() if name != REQUESTS_LABEL} or None,
        }
    )


def metadata_problem(name: str, value: str) -> str | None:
    """What keeps a pair of metadata from being a label, which is all that a job has for it; never bent into one."""
    if not _is_key(name) or name.startswith(_PACKAGE):
        return (
            f"{name!r} cannot be the name of a label, which is what Vertex AI keeps metadata as: it begins with a "
            f"lower-case letter, holds nothing but a-z, 0-9, _ and -, and does not begin with {_PACKAGE}"
        )
    if not _is_value(value):
        return (
            f"the value of {name!r} cannot be that of a label, which is what Vertex AI keeps metadata as: it holds "
            "nothing but a-z, 0-9, _ and -"
        )
    return None


def has_ended(batch: Batch) -> bool:
    """Whether the job has ended for good; a paused one only counts as ended, and can still be cancelled."""
    return batch.is_terminal and batch.provider_status != _PAUSED


def creation_of(
    *,
    model: str,
    input_uri: str,
    output_prefix: str,
    display_name: str,
    metadata: Mapping[str, str],
    requests: int | None,
) -> dict[str, JsonValue]:
    """The body that creates a job.

    :param model: As in an OpenAI line, such as ``gemini-2.5-flash``, or a resource name.
    :param output_prefix: Where its results go, each in a directory that the service names.
    :param metadata: Legal labels, checked before.
    :param requests: How many lines the input has, if that is known.
    :raises BatchInputError: The model is neither.
    """
    counted = {} if requests is None else {REQUESTS_LABEL: str(requests)}
    return {
        "displayName": display_name[:_LONGEST_NAME],
        "model": model_name_of(model),
        "inputConfig": {"instancesFormat": "jsonl", "gcsSource": {"uris": [input_uri]}},
        "outputConfig": {"predictionsFormat": "jsonl", "gcsDestination": {"outputUriPrefix": output_prefix}},
        "labels": {**metadata, **counted},
    }


def _short_model(model: JsonValue) -> str | None:
    return model.rpartition(_PUBLISHER)[2] if isinstance(model, str) and model else None


def _input_uri(job: Mapping[str, JsonValue]) -> str | None:
    """``None`` for a job that reads BigQuery or several files, which this package does not make."""
    uris = _mapping(_mapping(job.get("inputConfig")).get("gcsSource")).get("uris")
    return _text(uris[0]) if isinstance(uris, list) and len(uris) == 1 else None


def _output_directory(job: Mapping[str, JsonValue], status: BatchStatus, counts: RequestCounts) -> str | None:
    """Where results lie once it has ended; ``None`` if there cannot be any."""
    if status not in ("completed", "failed", "expired", "cancelled"):
        return None
    directory = _text(_mapping(job.get("outputInfo")).get("gcsOutputDirectory"))
    destination = _mapping(_mapping(job.get("outputConfig")).get("gcsDestination"))
    prefix = _text(destination.get("outputUriPrefix"))
    if status == "completed":
        directory = directory or prefix
    elif directory or job.get("startTime") or counts.done:
        # What it had by then may be there or not, and the job may not say where; below its prefix nothing else lies.
        directory = prefix or directory
    return f"{directory.rstrip('/')}/" if directory else None


def _counts(job: Mapping[str, JsonValue], labels: Mapping[str, JsonValue]) -> RequestCounts:
    """Its counts; they are texts, absent when they are 0, and -1 when they are not known."""
    stats = _mapping(job.get("completionStats"))
    completed, failed, left = (
        _count(stats.get(name)) for name in ("successfulCount", "failedCount", "incompleteCount")
    )
    counted = completed + failed + left
    return RequestCounts(total=max(counted, _count(labels.get(REQUESTS_LABEL))), completed=completed, failed=failed)


def _count(value: JsonValue) -> int:
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() else 0


def _errors(job: Mapping[str, JsonValue], word: str | None) -> BatchErrors | None:
    found = tuple(_told(job))
    if word == _PAUSED:
        paused = BatchError(
            code=_PAUSED,
            message="The job is paused, which counts as its end here, since nothing resumes it by itself. Look at it "
            "in Google's console, or cancel it.",
        )
        found = (paused, *found)
    return BatchErrors(data=found) if found else None


def _told(job: Mapping[str, JsonValue]) -> Iterator[BatchError]:
    partial = job.get("partialFailures")
    for status in (job.get("error"), *(partial if isinstance(partial, list) else ())):
        error = _mapping(status)
        code, message = error.get("code"), _text(error.get("message"))
        if code or message:
            yield BatchError(code=_code(code), message=message)


def _code(code: JsonValue) -> str | None:
    return _CODES[code] if isinstance(code, int) and 0 < code < len(_CODES) else _text(code)


def _mapping(value: JsonValue) -> Mapping[str, JsonValue]:
    return value if isinstance(value, dict) else {}


def _text(value: JsonValue) -> str | None:
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) and value != "" else None
