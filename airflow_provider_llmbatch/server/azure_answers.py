"""The server's answers in the words of each version of Azure OpenAI's API.

Microsoft's examples contradict each other: the older ones in its guide to batch deployments have capital statuses,
times in ISO 8601 and counts that are null, the newer ones look as OpenAI's. So that clients meet both, 2024-10-21
answers as the older ones while a batch is validated, and the other versions as the newer ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_llmbatch.server.azure_limits import Intake

Answer = dict[str, Any]


@dataclass(frozen=True)
class Version:
    """An api-version.

    :param prefix: What stands before ``/files`` and ``/batches``.
    :param is_older: Whether it answers as the older examples do.
    :param tells_queue: Whether its headers tell how full the queue is.
    """

    prefix: str
    upload_status: int
    creation_status: int
    is_older: bool = False
    tells_queue: bool = False

    @property
    def is_v1(self) -> bool:
        return self.prefix.endswith("/v1")


V1: Final = Version("/openai/v1", 200, 201)
VERSIONS: Final[Mapping[str | None, Version]] = {
    "2024-10-21": Version("/openai", 201, 200, is_older=True),
    "2025-04-01-preview": Version("/openai", 201, 201, tells_queue=True),
    "v1": V1,
    "preview": V1,
    None: V1,
}
"""By api-version; the statuses of success as the REST specifications have them."""

# The classic API's codes (enum ``ErrorCode`` of its specification); the gateway before it has numbers instead.
_CLASSIC_CODES: Final = {
    400: "invalidPayload",
    404: "notFound",
    405: "invalidPayload",
    409: "unexpectedEntityState",
    413: "invalidPayload",
    500: "internalFailure",
}
_OWN_CODES: Final = frozenset({"quotaExceeded", "token_limit_exceeded", "invalidPayload"})


def refused(status: int, error: Answer, version: Version) -> Answer:
    """A refusal: in the classic shape code, message and target; in v1 as OpenAI's."""
    code = error.get("code")
    if version.is_v1 or code in _OWN_CODES or status not in _CLASSIC_CODES or str(code).isdecimal():
        told = {**error, "code": code}
    else:
        told = {**error, "code": _CLASSIC_CODES[status]}
    if not version.is_v1:
        told = {"code": told["code"], "message": told["message"], "target": told.get("param")}
    return {"error": {name: value for name, value in told.items() if version.is_v1 or value is not None}}


def shown(answer: Answer, version: Version, intake: Intake, *, is_new: bool) -> Answer:
    """A file, a batch, or a page of them; ``is_new``: it was created just now."""
    kind = answer.get("object")
    if kind == "list":
        return {**answer, "data": [shown(item, version, intake, is_new=False) for item in answer["data"]]}
    if kind == "batch":
        return _batch(answer, version, is_new=is_new)
    if kind == "file" and "status" in answer:
        status, details = intake.state(answer["id"])
        told = {**answer, "status": status, "status_details": details}
        return {name: value for name, value in told.items() if version.is_v1 or value is not None}
    return answer


def _batch(batch: Answer, version: Version, *, is_new: bool) -> Answer:
    # Empty strings and not null: the guide's examples.
    told = {**batch, **{name: batch[name] or "" for name in ("output_file_id", "error_file_id")}}
    if not version.is_v1:
        told = {name: value for name, value in told.items() if name not in ("model", "usage")}
        told["endpoint"] = str(batch["endpoint"]).removeprefix("/v1")
    if not version.is_older:
        return told
    if batch["errors"] is not None:
        lines = [{**each, "line": each["line"] and str(each["line"])} for each in batch["errors"]["data"]]
        told["errors"] = {"object": "list", "value": lines}
    if batch["status"] != "validating":
        return told
    times = {name: _iso(value) for name, value in told.items() if name.endswith("_at") and value is not None}
    counts = dict.fromkeys(batch["request_counts"])
    return {
        **told,
        **times,
        "status": "Validating",
        "request_counts": counts,
        "endpoint": None if is_new else told["endpoint"],
    }


def _iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.0000000+00:00")
