"""Where Vertex AI answers, and what its resources are called.

Facts: google-genai 3.4 (hosts of regions, ``global``, ``us``, ``eu``); google-cloud-aiplatform 2.7.0 (resource names;
the console's address, in ``jobs.py``). A job can be read only where it was made, so its full name is a batch's id.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from typing_extensions import override

from airflow_provider_llmbatch.errors import BatchInputError, ConnectionSettingsError

_GLOBAL: Final = "global"
_MULTI_REGIONS: Final = frozenset({"us", "eu"})
_LOCATION: Final = re.compile(r"[a-z][a-z0-9-]{0,40}")
# An id, an id with the domain of its organization in front, or a number.
_PROJECT: Final = re.compile(r"(?:[a-z0-9.-]+:)?[a-z][a-z0-9-]{2,28}[a-z0-9]|\d+")
_JOB: Final = re.compile(r"projects/([^/]+)/locations/([^/]+)/batchPredictionJobs/(\d+)")
_MODEL_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]*")
_TUNED_MODEL: Final = re.compile(r"projects/[^/]+/locations/[^/]+/models/[^/]+")
_PUBLISHED_MODEL: Final = re.compile(r"publishers/[^/]+/models/[^/]+")


def api_url_of(location: str) -> str:
    """The base URL for a location, up to the version's path: ``https://us-central1-aiplatform.googleapis.com``.

    :raises ConnectionSettingsError: It is no location; a word that is none would lead the token to another host.
    """
    _check_location(location)
    if location == _GLOBAL:
        return "https://aiplatform.googleapis.com"
    if location in _MULTI_REGIONS:
        return f"https://aiplatform.{location}.rep.googleapis.com"
    return f"https://{location}-aiplatform.googleapis.com"


def parent_of(project: str, location: str) -> str:
    """The resource that jobs are created in, and listed from.

    :raises ConnectionSettingsError: One of the two is none.
    """
    _check_location(location)
    if not _PROJECT.fullmatch(project):
        raise ConnectionSettingsError(
            f"The project {project!r} of this connection is no id of a Google Cloud project (such as my-project-123). "
            "Nothing was sent. Mend the connection."
        )
    return f"projects/{project}/locations/{location}"


def model_name_of(model: str) -> str:
    """A model as a job names it: an id alone is Google's own; full names, tuned models among them, stay as they are.

    :raises BatchInputError: It is neither.
    """
    bare = model.removeprefix("models/").removeprefix("google/")
    if _PUBLISHED_MODEL.fullmatch(model) or _TUNED_MODEL.fullmatch(model):
        return model
    if _MODEL_ID.fullmatch(bare):
        return f"publishers/google/models/{bare}"
    raise BatchInputError(
        f"{model!r} is no model of Vertex AI: it is an id such as gemini-2.5-flash, or a full name such as "
        "publishers/google/models/gemini-2.5-flash. Nothing was uploaded or billed."
    )


@dataclass(frozen=True)
class JobName:
    """:param project: Id or number; Vertex AI answers with the number, whatever it was asked with."""

    project: str
    location: str
    number: str

    @classmethod
    def parse(cls, text: str) -> JobName:
        """:raises BatchInputError: The text is no full name of a job."""
        match = _JOB.fullmatch(text)
        if match and _LOCATION.fullmatch(match[2]) and _PROJECT.fullmatch(match[1]):
            return cls(*match.groups())
        raise BatchInputError(
            f"{text!r} is no id of a batch on Vertex AI, which is the full name of a job: "
            "projects/PROJECT/locations/LOCATION/batchPredictionJobs/NUMBER. Nothing was sent."
        )

    @property
    def console_url(self) -> str:
        """Where a person can see the job."""
        return (
            f"https://console.cloud.google.com/agent-platform/locations/{self.location}/batch-predictions/"
            f"{self.number}?project={self.project}"
        )

    @override
    def __str__(self) -> str:
        return f"projects/{self.project}/locations/{self.location}/batchPredictionJobs/{self.number}"


def _check_location(location: str) -> None:
    if not _LOCATION.fullmatch(location):
        raise ConnectionSettingsError(
            f"The location {location!r} of this connection is none of Vertex AI: it is a region such as us-central1, "
            "or global, us or eu. Nothing was sent. Mend the connection."
        )
