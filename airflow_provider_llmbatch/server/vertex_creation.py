"""What may become a job: the check of a creation, as far as it is known what Vertex AI checks at once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_llmbatch.server.google_json import JsonFieldError, message
from airflow_provider_llmbatch.server.google_refusals import GoogleError, wrong_field
from airflow_provider_llmbatch.server.store import new_id
from airflow_provider_llmbatch.server.vertex_jobs import Job, number_of
from airflow_provider_llmbatch.server.vertex_storage import is_uri

if TYPE_CHECKING:
    from airflow_provider_llmbatch.server.google_json import Json

_MODEL: Final = re.compile(
    r"(?:projects/[^/]+/locations/[^/]+/)?publishers/(?P<publisher>[^/]+)/models/(?P<id>.+)", re.DOTALL
)
_LABEL_KEY: Final = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_LABEL_VALUE: Final = re.compile(r"[a-z0-9_-]{0,63}")
_MOST_LABELS: Final = 64
_LONGEST_NAME: Final = 128
# Fields that only the service sets; it ignores what a caller puts there (``OUTPUT_ONLY`` in the API's description).
_OUTPUT_ONLY: Final = frozenset(
    {
        *(
            "name",
            "modelVersionId",
            "outputInfo",
            "state",
            "error",
            "partialFailures",
            "resourcesConsumed",
            "completionStats",
        ),
        *(
            "createTime",
            "startTime",
            "endTime",
            "updateTime",
            "modelMonitoringStatsAnomalies",
            "modelMonitoringStatus",
            "satisfiesPzs",
            "satisfiesPzi",
        ),
    }
)
_NO_MODEL: Final = (
    "Publisher Model `projects/{project}/locations/{location}/publishers/google/models/{model}` was not found or your "
    "project does not have access to it. Please ensure you are using a valid model version. For more information, see: "
    "https://cloud.google.com/vertex-ai/generative-ai/docs/learn/model-versions"
)


@dataclass(frozen=True)
class Creation:
    """A creation that was found good."""

    project: str
    location: str
    asked: Json

    def job(self, job_id: str, *, at: float) -> Job:
        return Job(
            id=job_id,
            project=number_of(self.project),
            location=self.location,
            asked=self.asked,
            batch_id=new_id("batch_"),
            file_id=new_id("file-"),
            created=at,
            updated=at,
        )


def created(given: Any, *, project: str, location: str, model: str | None) -> Creation:
    """Check what a caller wants.

    :param model: The only one there is, or ``None`` if there is any.
    :raises GoogleError: It cannot become a job.
    """
    try:
        read = message("BatchPredictionJob", given)
    except JsonFieldError as error:
        raise GoogleError(400, str(error)) from None
    asked = {name: value for name, value in read.items() if name not in _OUTPUT_ONLY}
    name = asked.get("displayName")
    if not isinstance(name, str) or not name:
        raise wrong_field("batch_prediction_job.display_name", "Required field is not set.")
    if len(name) > _LONGEST_NAME:
        raise wrong_field("batch_prediction_job.display_name", f"At most {_LONGEST_NAME} characters are allowed.")
    _check_labels(asked.get("labels", {}))
    _check_model(asked.get("model"), project, location, model)
    _check_places(asked)
    return Creation(project, location, asked)


def _check_labels(labels: object) -> None:
    field = "batch_prediction_job.labels"
    if not isinstance(labels, dict) or len(labels) > _MOST_LABELS:
        raise wrong_field(field, f"At most {_MOST_LABELS} labels are allowed.")
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key):
            raise wrong_field(field, f"The label key {key!r} is invalid: {_LABEL_KEY.pattern}")
        if not isinstance(value, str) or not _LABEL_VALUE.fullmatch(value):
            raise wrong_field(field, f"The value {value!r} of the label {key} is invalid: {_LABEL_VALUE.pattern}")


def _check_model(given: object, project: str, location: str, served: str | None) -> None:
    if not isinstance(given, str) or not given:
        raise wrong_field("batch_prediction_job.model", "Required field is not set.")
    found = _MODEL.fullmatch(given)
    if found is None:
        raise GoogleError(404, f"The Model does not exist: {given}. This server has publishers' models only.")
    if found["publisher"] != "google":
        raise GoogleError(400, f"This server runs no batches of {found['publisher']}'s models, only of Google's.")
    if served not in (None, found["id"]):
        raise GoogleError(404, _NO_MODEL.format(project=project, location=location, model=found["id"]))


def _check_places(asked: Json) -> None:
    source, target = asked.get("inputConfig", {}), asked.get("outputConfig", {})
    if source.get("instancesFormat") != "jsonl" or target.get("predictionsFormat") != "jsonl":
        raise GoogleError(400, "This server reads and writes the format jsonl, in Cloud Storage, and no other.")
    uris = source.get("gcsSource", {}).get("uris")
    if not isinstance(uris, list) or len(uris) != 1 or not is_uri(uris[0]) or uris[0].endswith("/") or "*" in uris[0]:
        raise wrong_field(
            "batch_prediction_job.input_config.gcs_source.uris", "One URI is needed, such as gs://bucket/input.jsonl."
        )
    prefix = target.get("gcsDestination", {}).get("outputUriPrefix")
    if not isinstance(prefix, str) or not is_uri(f"{prefix.rstrip('/')}/"):
        raise wrong_field(
            "batch_prediction_job.output_config.gcs_destination.output_uri_prefix",
            "A URI is needed, such as gs://bucket/output.",
        )
