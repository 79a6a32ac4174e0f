"""Gemini batches on Vertex AI with the verbs of OpenAI's files and batches.

A file is an object of the connection's bucket, translated line by line on its way there; a batch is a batch prediction
job; its results are whatever objects the service wrote, translated on their way back. Facts: Google's REST API v1 of
``projects.locations.batchPredictionJobs`` (discovery document of 2026-11-06), its guide "Batch inference with Gemini"
of 2026 (limits, queue and run time), and what public code has seen of the output's layout.
"""

from __future__ import annotations

import json
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Final
from urllib.parse import urlsplit

from typing_extensions import override

from airflow_provider_llmbatch.adapters.base import Adapter, Limits
from airflow_provider_llmbatch.adapters.http import Call, HttpClient
from airflow_provider_llmbatch.adapters.refusals import lost_answer
from airflow_provider_llmbatch.adapters.vertex.creation import JobCreation
from airflow_provider_llmbatch.adapters.vertex.credentials import GoogleAuthorization
from airflow_provider_llmbatch.adapters.vertex.files import VertexFiles, refuse_expiry
from airflow_provider_llmbatch.adapters.vertex.jobs import (
    CHAT_ENDPOINT,
    batch_of,
    has_ended,
    metadata_problem,
)
from airflow_provider_llmbatch.adapters.vertex.location import JobName, api_url_of, parent_of
from airflow_provider_llmbatch.adapters.vertex.storage import Bucket
from airflow_provider_llmbatch.errors import (
    AccessRefusedError,
    BatchInputError,
    ConnectionSettingsError,
    LLMBatchError,
    NotFoundError,
    RequestRefusedError,
    UnavailableError,
    UnexpectedAnswerError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import BinaryIO

    from pydantic import JsonValue

    from airflow_provider_llmbatch.adapters.base import LineCheck
    from airflow_provider_llmbatch.adapters.vertex.settings import VertexSettings
    from airflow_provider_llmbatch.models import Batch, File

_JOBS_PER_PAGE: Final = 100


class VertexAdapter(Adapter):
    provider: ClassVar[str] = "vertex"
    title: ClassVar[str] = "Vertex AI"
    limits: ClassVar[Limits] = Limits(
        max_requests=200_000,
        max_file_bytes=1_000_000_000,
        endpoints=frozenset({CHAT_ENDPOINT}),
        max_metadata_pairs=64,
        max_metadata_key_chars=63,
        max_metadata_value_chars=63,
        package_pairs=2,
        metadata_problem=metadata_problem,
    )
    # Up to 72 h in the queue, then 24 h of running.
    worst_case_hours: ClassVar[float] = 96.0
    names_unexecuted: ClassVar[bool] = False
    verifies_downloads: ClassVar[bool] = True
    stores_as_sent: ClassVar[bool] = False

    def __init__(self, settings: VertexSettings) -> None:
        self._settings = settings
        self._api_url = _api_url(settings)
        host = urlsplit(self._api_url).hostname or ""
        self._is_google = host.endswith(".googleapis.com")
        self._authorization = GoogleAuthorization(settings.identity, settings.transport)
        self._http = HttpClient(
            self._api_url,
            title=self.title if self._is_google else f"The server at {host}",
            headers={},
            settings=settings.transport,
            authorization=self._authorization,
        )
        self._creation = JobCreation(self._api_url, self._http, self._authorization, settings.transport)

    @cached_property
    def _bucket(self) -> Bucket:
        if not self._settings.bucket:
            raise ConnectionSettingsError(
                "This connection has no bucket, where input files and results of Vertex AI lie. Nothing was sent or "
                'billed. Set it in the connection, such as "bucket": "gs://my-bucket/llm-batches".'
            )
        return Bucket(
            self._settings.bucket,
            authorization=self._authorization,
            transport=self._settings.transport,
            storage_url=self._settings.storage_url,
        )

    @cached_property
    def _files(self) -> VertexFiles:
        return VertexFiles(self._bucket, self._settings)

    @cached_property
    def _parent(self) -> str:
        project = self._settings.project or self._authorization.project
        if not project:
            raise ConnectionSettingsError(
                "This connection names no project, and neither does the identity that it uses. Nothing was sent or "
                "billed. Set the project in the connection."
            )
        return parent_of(project, self._settings.location)

    @override
    def create_file(
        self, stream: BinaryIO, *, filename: str, purpose: str = "batch", expires_after: int | None = None
    ) -> File:
        return self._files.create(stream, filename=filename, purpose=purpose, expires_after=expires_after)

    @override
    def retrieve_file(self, file_id: str) -> File:
        return self._files.retrieve(file_id)

    @override
    def list_files(self, *, purpose: str | None = None, limit: int | None = None) -> Iterator[File]:
        return self._files.listed(purpose=purpose, limit=limit)

    @override
    def delete_file(self, file_id: str) -> None:
        self._files.delete(file_id)

    @override
    def file_content(self, file_id: str) -> Iterator[bytes]:
        return self._files.content(file_id)

    @override
    def line_check(self) -> LineCheck:
        return self._files.line_check()

    @override
    def input_ids(self, file_id: str) -> Iterator[bytes]:
        return self._files.input_ids(file_id)

    @override
    def create_batch(
        self,
        input_file_id: str,
        *,
        endpoint: str,
        completion_window: str = "24h",
        metadata: Mapping[str, str] | None = None,
        output_expires_after: int | None = None,
    ) -> Batch:
        if endpoint != CHAT_ENDPOINT or completion_window != "24h":
            raise BatchInputError(
                f"A batch with the endpoint {endpoint!r} and the completion window {completion_window!r} was asked "
                f"for; on Vertex AI they can be {CHAT_ENDPOINT!r} and '24h' only. Nothing was created or billed."
            )
        refuse_expiry("output_expires_after", output_expires_after)
        body = self._files.creation(input_file_id, metadata or {})
        try:
            job = self._creation.create(self._parent, body, action=f"create a batch from {input_file_id}")
            return self._batch_of(job, "create a batch")
        except UnavailableError as error:
            if not error.reached:
                raise
            problem: LLMBatchError = lost_answer(error, f"a batch from {input_file_id}")
        except (RequestRefusedError, AccessRefusedError) as error:
            problem = self._explained(error, str(body["model"]))
        raise problem

    @override
    def retrieve_batch(self, batch_id: str) -> Batch:
        return self._look(self._job(batch_id))

    @override
    def list_batches(self, *, after: str | None = None, limit: int | None = None) -> Iterator[Batch]:
        return self._listed({}, after=after, limit=limit)

    @override
    def list_batches_with(self, name: str, value: str) -> Iterator[Batch]:
        return self._listed({"filter": f'labels.{name}="{value}"'})

    @override
    def cancel_batch(self, batch_id: str) -> Batch:
        job = self._job(batch_id)
        call = Call("POST", f"{self._url(job)}:cancel", f"cancel the batch {batch_id}", json={}, conflict_passes=False)
        try:
            self._http.send(call)
        except NotFoundError:
            raise
        except RequestRefusedError:
            # How a job that has ended refuses is written nowhere; what it says of itself counts.
            with suppress(UnavailableError):
                batch = self._look(job)
                if has_ended(batch) or batch.status == "cancelling":
                    return batch
            raise
        batch = self._look(job)
        # It may take a while to say so itself, since the service only takes note of it.
        return (
            batch if batch.is_terminal else batch.model_copy(update={"status": "cancelling", "provider_status": None})
        )

    @property
    @override
    def price_list(self) -> str | None:
        return "google"

    @override
    def console_url(self, batch_id: str) -> str | None:
        with suppress(LLMBatchError):
            return self._job(batch_id).console_url if self._is_google else None
        return None

    @override
    def ping(self) -> str:
        batches = list(self.list_batches(limit=1))
        found = f"one of its batches is {batches[0].id} ({batches[0].status})" if batches else "it has no batches yet"
        list(self._bucket.list(limit=1))
        return (
            f"{self._http.title} accepts the identity for {self._parent}, and {found}. The bucket "
            f"{self._bucket.uri('')} can be listed."
        )

    @override
    def close(self) -> None:
        self._http.close()
        if "_bucket" in self.__dict__:
            self._bucket.close()

    def _explained(self, error: RequestRefusedError | AccessRefusedError, model: str) -> LLMBatchError:
        """The same error, with what Google's own words leave out."""
        more = ""
        if isinstance(error, NotFoundError):
            elsewhere = "" if self._settings.location == "global" else ' Newer models are often only in "global".'
            more = f" No batch was created. Is {model} offered in {self._settings.location!r}?{elsewhere}"
        elif isinstance(error, AccessRefusedError) or error.code == "FAILED_PRECONDITION":
            more = (
                f" No batch was created. Besides the identity (roles/aiplatform.user), Vertex AI's service agent "
                f"(service-PROJECT_NUMBER@gcp-sa-aiplatform.iam.gserviceaccount.com) must be allowed to read and write "
                f"{self._bucket.uri('')}, and the bucket must lie where {self._settings.location!r} can use it."
            )
        return type(error)(
            f"{error}{more}", status_code=error.status_code, code=error.code, request_id=error.request_id
        )

    def _job(self, batch_id: str) -> JobName:
        """:raises BatchInputError: It is neither a job's full name nor, as the console shows it, its number."""
        if batch_id.isascii() and batch_id.isdigit():
            batch_id = f"{self._parent}/batchPredictionJobs/{batch_id}"
        return JobName.parse(batch_id)

    def _url(self, job: JobName) -> str:
        """A job can be read only where it was made, whatever the connection's location is now."""
        elsewhere = not self._settings.endpoint and job.location != self._settings.location
        return f"{api_url_of(job.location)}/v1/{job}" if elsewhere else f"v1/{job}"

    def _look(self, job: JobName) -> Batch:
        action = f"look up the batch {job}"
        return self._batch_of(self._json(Call("GET", self._url(job), action)), action)

    def _listed(
        self, params: Mapping[str, str], *, after: str | None = None, limit: int | None = None
    ) -> Iterator[Batch]:
        remaining, begun = limit, after is None
        cursor = dict(params)
        while remaining is None or remaining > 0:
            asked = _JOBS_PER_PAGE if remaining is None or not begun else min(_JOBS_PER_PAGE, remaining)
            call = Call(
                "GET",
                f"v1/{self._parent}/batchPredictionJobs",
                "list the batches",
                params={**cursor, "pageSize": str(asked)},
            )
            page = self._json(call)
            jobs = page.get("batchPredictionJobs")
            for job in jobs if isinstance(jobs, list) else ():
                if not isinstance(job, dict) or (remaining is not None and remaining <= 0):
                    continue
                batch = self._batch_of(job, "list the batches")
                if begun:
                    yield batch
                    remaining = None if remaining is None else remaining - 1
                begun = begun or batch.id == after
            token = page.get("nextPageToken")
            if not isinstance(token, str) or not token or token == cursor.get("pageToken"):
                break
            cursor["pageToken"] = token
        if not begun and remaining != 0:
            raise NotFoundError(f"The list of batches in {self._parent} holds no {after} to begin behind.")

    def _json(self, call: Call) -> dict[str, JsonValue]:
        body = self._http.send(call)
        try:
            content = json.loads(body)
        except ValueError:
            content = None
        if isinstance(content, dict):
            return content
        raise UnexpectedAnswerError(
            f"{self._http.title} was asked to {call.action} and answered with {len(body)} bytes that are no JSON "
            "object, so something else than the API answered. A retry helps only if that is passing; else mend the "
            "connection's endpoint."
        )

    def _batch_of(self, job: Mapping[str, JsonValue], action: str) -> Batch:
        try:
            return batch_of(job)
        except ValueError as error:
            problem = str(error)
        raise UnexpectedAnswerError(
            f"{self._http.title} was asked to {action} and answered with JSON that is no job ({problem}). A retry "
            "helps only if that is passing; else the server does not speak Vertex AI's API."
        )


def _api_url(settings: VertexSettings) -> str:
    if settings.endpoint is None:
        return api_url_of(settings.location)
    parts = urlsplit(settings.endpoint)
    if parts.scheme in ("http", "https") and parts.hostname and parts.path.strip("/") in ("", "v1"):
        return f"{parts.scheme}://{parts.netloc}"
    shown = settings.endpoint.rpartition("@")[2]  # what stands before may be a password
    raise ConnectionSettingsError(
        f"The endpoint {shown!r} of this connection is not of the form https://host. Nothing was sent. Leave it empty "
        "for Google's own."
    )
