"""Where Vertex AI answers, and what its resources are called."""

from __future__ import annotations

import pytest

from airflow_provider_llmbatch.adapters.vertex.location import JobName, api_url_of, model_name_of, parent_of
from airflow_provider_llmbatch.errors import BatchInputError, ConnectionSettingsError

NAME = "projects/my-project/locations/europe-west4/batchPredictionJobs/123456789"


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("us-central1", "https://us-central1-aiplatform.googleapis.com"),
        ("northamerica-northeast1", "https://northamerica-northeast1-aiplatform.googleapis.com"),
        ("global", "https://aiplatform.googleapis.com"),
        ("us", "https://aiplatform.us.rep.googleapis.com"),
        ("eu", "https://aiplatform.eu.rep.googleapis.com"),
    ],
)
def test_each_kind_of_location_has_its_host(location: str, url: str) -> None:
    assert api_url_of(location) == url


@pytest.mark.parametrize("location", ["", "US", "evil.com/", "us-central1@evil.com", "a b", "-x", "x\n"])
def test_a_location_that_is_none_leads_no_token_to_another_host(location: str) -> None:
    for use in (api_url_of, lambda place: parent_of("my-project", place)):
        with pytest.raises(ConnectionSettingsError) as refused:
            use(location)
        assert str(refused.value) == (
            f"The location {location!r} of this connection is none of Vertex AI: it is a region such as us-central1, "
            "or global, us or eu. Nothing was sent. Mend the connection."
        )


@pytest.mark.parametrize("project", ["my-project-123", "123456", "example.com:my-project"])
def test_jobs_are_created_below_a_project_and_a_location(project: str) -> None:
    assert parent_of(project, "global") == f"projects/{project}/locations/global"


@pytest.mark.parametrize("project", ["", "My-Project", "a/b", "my project", "../x", "my-project?", "my-project\n"])
def test_a_project_that_is_none_is_refused(project: str) -> None:
    with pytest.raises(ConnectionSettingsError, match="is no id of a Google Cloud project"):
        parent_of(project, "global")


@pytest.mark.parametrize("model", ["gemini-2.5-flash", "google/gemini-2.5-flash", "models/gemini-2.5-flash"])
def test_an_id_alone_is_a_model_of_googles(model: str) -> None:
    assert model_name_of(model) == "publishers/google/models/gemini-2.5-flash"


@pytest.mark.parametrize(
    "name", ["publishers/google/models/gemini-3", "projects/p1234/locations/us-central1/models/7@2"]
)
def test_a_full_name_of_a_model_stays_as_it_is(name: str) -> None:
    assert model_name_of(name) == name


@pytest.mark.parametrize("model", ["", "a b", "a/b/c", "publishers/google/models/", "gemini?x=1", "gemini\n"])
def test_what_is_no_model_is_refused_before_anything_is_uploaded(model: str) -> None:
    with pytest.raises(BatchInputError, match="is no model of Vertex AI"):
        model_name_of(model)


def test_a_batch_is_known_by_the_full_name_of_its_job() -> None:
    name = JobName.parse(NAME)
    assert (name, str(name)) == (JobName("my-project", "europe-west4", "123456789"), NAME)


def test_a_job_has_a_page_in_the_console() -> None:
    assert JobName.parse(NAME).console_url == (
        "https://console.cloud.google.com/agent-platform/locations/europe-west4/batch-predictions/123456789"
        "?project=my-project"
    )


@pytest.mark.parametrize(
    "text",
    ["", "123", "batch_abc", NAME + "/x", NAME + ":cancel", NAME + "\n", NAME.replace("europe-west4", "evil.com")],
)
def test_what_is_no_name_of_a_job_is_refused(text: str) -> None:
    with pytest.raises(BatchInputError) as refused:
        JobName.parse(text)
    assert str(refused.value) == (
        f"{text!r} is no id of a batch on Vertex AI, which is the full name of a job: "
        "projects/PROJECT/locations/LOCATION/batchPredictionJobs/NUMBER. Nothing was sent."
    )
