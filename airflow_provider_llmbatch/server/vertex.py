"""The face of Vertex AI: batch prediction jobs over REST (``v1``), from Cloud Storage to Cloud Storage, and the tokens
that callers need for it.

Jobs run as batches of the application behind the face, whose own calls the face does not pass on.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import parse_qs

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.responses import JSONResponse

from airflow_provider_llmbatch.server.google_json import camel_case
from airflow_provider_llmbatch.server.google_refusals import GoogleError, add_error_bodies, refused
from airflow_provider_llmbatch.server.service_account import GRANT_TYPE, LIFETIME
from airflow_provider_llmbatch.server.vertex_creation import created
from airflow_provider_llmbatch.server.vertex_filter import filtered
from airflow_provider_llmbatch.server.vertex_jobs import new_job_id, parent_name, shown, time_text
from airflow_provider_llmbatch.server.vertex_run import JobRun, Workplace, now

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.types import ASGIApp, Receive, Scope, Send

    from airflow_provider_llmbatch.server.runner import Runner
    from airflow_provider_llmbatch.server.service_account import ServiceAccount
    from airflow_provider_llmbatch.server.store import Store
    from airflow_provider_llmbatch.server.vertex_jobs import Job, Jobs
    from airflow_provider_llmbatch.server.vertex_storage import Storage

log = logging.getLogger(__name__)

_PARENT: Final = "/v1/projects/{project}/locations/{location}/batchPredictionJobs"
_PAGE: Final = 100
_LARGEST_PAGE: Final = 1_000
_NO_TOKEN: Final = (
    "Request is missing required authentication credential. Expected OAuth 2 access token, login cookie or other valid "  # noqa: S105
    "authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project."
)
_WRONG_TOKEN: Final = (
    "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid "  # noqa: S105
    "authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project."
)
_ENDED: Final = "{name} has ended as JOB_STATE_{state}: there is nothing to cancel."
_NOT_ENDED: Final = "{name} is JOB_STATE_{state}: only a job that has ended can be deleted."


@dataclass(frozen=True)
class Rules:
    """How jobs run here.

    :param queue_seconds: How long a job is queued.
    :param rows_per_shard: Of an output.
    :param lost_rows: Says how many rows a fault takes from the next output.
    """

    queue_seconds: float
    rows_per_shard: int
    lost_rows: Callable[[], int]


class VertexFace:
    """An application with Vertex AI's paths.

    :param inner: Whose runner answers the batches; its lifespan is part of the face's.
    :param api_key: Counts as a token, too.
    :param model: The only one there is, or ``None`` if there is any.
    """

    def __init__(
        self,
        inner: FastAPI,
        store: Store,
        jobs: Jobs,
        storage: Storage,
        account: ServiceAccount,
        *,
        api_key: str,
        model: str | None,
        rules: Rules,
    ) -> None:
        self._jobs = jobs
        self._running: dict[str, JobRun] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._model = model
        self._place: Workplace | None = None

        @asynccontextmanager
        async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
            async with inner.router.lifespan_context(inner):
                runner: Runner = inner.state.runner
                self._place = Workplace(
                    store,
                    jobs,
                    runner,
                    storage,
                    queue_seconds=rules.queue_seconds,
                    rows_per_shard=rules.rows_per_shard,
                    lost_rows=rules.lost_rows,
                )
                for job in jobs.unfinished():
                    self._begin(job)
                yield
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)
            storage.close()  # which also ends what threads still read or write
            jobs.close()

        app = FastAPI(title="llmbatch-server", lifespan=lifespan, openapi_url=None)
        app.add_middleware(_TokenRequired, account=account, api_key=api_key)
        add_error_bodies(app)
        app.include_router(self._job_routes())
        app.include_router(_token_routes(account))
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    def _begin(self, job: Job) -> JobRun:
        if self._place is None:
            raise RuntimeError("The face was not started.")
        run = JobRun(self._place, job)
        self._running[job.id] = run
        task = asyncio.create_task(run.to_the_end(), name=job.id)
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(job, done))
        return run

    def _ended(self, job: Job, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._running.pop(job.id, None)
        if not task.cancelled() and (error := task.exception()):
            log.error("%s stopped and goes on at the next start", job.name, exc_info=error)

    def _found(self, project: str, location: str, job_id: str) -> Job:
        parent = parent_name(project, location)
        job = self._jobs.job(parent, job_id)
        if job is None:
            raise GoogleError(404, f"The BatchPredictionJob does not exist: {parent}/batchPredictionJobs/{job_id}.")
        return job

    def _shown(self, job: Job) -> dict[str, object]:
        run = self._running.get(job.id)
        return shown(run.job, run.stats()) if run else shown(job)

    def _job_routes(self) -> APIRouter:
        router = APIRouter(prefix=_PARENT)
        router.add_api_route("", self._create, methods=["POST"])
        router.add_api_route("", self._list, methods=["GET"])
        router.add_api_route("/{job_id}", self._get, methods=["GET"])
        router.add_api_route("/{job_id}:cancel", self._cancel, methods=["POST"])
        router.add_api_route("/{job_id}", self._delete, methods=["DELETE"])
        return router

    # All of them run in the event loop, as the jobs do, so that none sees a job between two states.

    async def _create(self, project: str, location: str, request: Request) -> dict[str, object]:
        asked = created(await _json(request), project=project, location=location, model=self._model)
        job = asked.job(new_job_id(), at=now())
        self._jobs.save(job)
        return shown(self._begin(job).job)

    async def _list(
        self,
        project: str,
        location: str,
        wanted: Annotated[str, Query(alias="filter")] = "",
        page_size: Annotated[int, Query(alias="pageSize", ge=0)] = 0,
        page_token: Annotated[str, Query(alias="pageToken", pattern="^[0-9]{0,18}$")] = "",
        read_mask: Annotated[str, Query(alias="readMask")] = "",
    ) -> dict[str, object]:
        fits, limit = filtered(wanted), min(page_size or _PAGE, _LARGEST_PAGE)
        listed = self._jobs.after(parent_name(project, location), int(page_token) if page_token else None)
        page = list(islice(((seq, job) for seq, job in listed if fits(job)), limit + 1))
        answer: dict[str, object] = {}
        if page:
            answer["batchPredictionJobs"] = [_masked(self._shown(job), read_mask) for _, job in page[:limit]]
        if len(page) > limit:
            answer["nextPageToken"] = str(page[limit - 1][0])
        return answer

    async def _get(self, project: str, location: str, job_id: str) -> dict[str, object]:
        return self._shown(self._found(project, location, job_id))

    async def _cancel(self, project: str, location: str, job_id: str) -> dict[str, object]:
        job = self._found(project, location, job_id)
        if job.has_ended:
            raise GoogleError(400, _ENDED.format(name=job.name, state=job.state), status="FAILED_PRECONDITION")
        (self._running.get(job.id) or self._begin(job)).cancel()
        return {}

    async def _delete(self, project: str, location: str, job_id: str) -> dict[str, object]:
        job = self._found(project, location, job_id)
        if not job.has_ended:
            raise GoogleError(400, _NOT_ENDED.format(name=job.name, state=job.state), status="FAILED_PRECONDITION")
        self._jobs.delete(job)
        return _done(job)


def _masked(job: dict[str, object], mask: str) -> dict[str, object]:
    names = {camel_case(name.strip().partition(".")[0]) for name in mask.split(",") if name.strip()}
    return {name: value for name, value in job.items() if name in names} if names - {"*"} else job


def _done(job: Job) -> dict[str, object]:
    """A long-running operation that has ended already."""
    kind, times = "type.googleapis.com/google.cloud.aiplatform.v1.DeleteOperationMetadata", time_text(now())
    return {
        "name": f"{parent_name(job.project, job.location)}/operations/{new_job_id()}",
        "metadata": {"@type": kind, "genericMetadata": {"createTime": times, "updateTime": times}},
        "done": True,
        "response": {"@type": "type.googleapis.com/google.protobuf.Empty"},
    }


async def _json(request: Request) -> Any:
    try:
        return json.loads(await request.body())
    except (ValueError, RecursionError):
        raise GoogleError(400, "Invalid JSON payload received. Unexpected token.") from None


def _token_routes(account: ServiceAccount) -> APIRouter:
    router = APIRouter()

    @router.post("/token")
    async def token(request: Request) -> JSONResponse:
        form = parse_qs((await request.body()).decode("utf-8", "replace"))
        if form.get("grant_type") != [GRANT_TYPE]:
            return _no_token("unsupported_grant_type", f"Invalid grant_type: this server knows {GRANT_TYPE}")
        made = account.token_for(form.get("assertion", [""])[0])
        if made is None:
            return _no_token("invalid_grant", "Invalid JWT Signature.")
        return JSONResponse({"access_token": made, "expires_in": LIFETIME - 1, "token_type": "Bearer"})

    return router


def _no_token(error: str, description: str) -> JSONResponse:
    return JSONResponse({"error": error, "error_description": description}, 400)


class _TokenRequired:
    """Every call needs a token, unknown paths included, but for the one that gives tokens out."""

    def __init__(self, app: ASGIApp, *, account: ServiceAccount, api_key: str) -> None:
        self._app = app
        self._account = account
        self._key = api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (scope["method"], scope["path"]) != ("POST", "/token"):
            given: bytes = dict(scope["headers"]).get(b"authorization", b"")
            if not self._is_known(given.removeprefix(b"Bearer ")):
                error = GoogleError(401, _WRONG_TOKEN if given else _NO_TOKEN)
                await refused(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _is_known(self, token: bytes) -> bool:
        return hmac.compare_digest(token, self._key) or self._account.knows(token.decode("latin-1"))
