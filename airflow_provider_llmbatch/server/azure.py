"""The face of Azure OpenAI before the server's application: its paths, its key and tokens, its answers and refusals.

Both shapes of Microsoft's REST API: ``/openai/files`` and ``/openai/batches`` with a dated ``api-version`` in each
call, and ``/openai/v1/...`` with or without one. What a batch does differently there is the dialect ``AZURE``.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, urlencode

from airflow_provider_llmbatch.server.azure_answers import V1, VERSIONS, refused, shown
from airflow_provider_llmbatch.server.bodies import read, replayed
from airflow_provider_llmbatch.server.refusals import ApiError
from airflow_provider_llmbatch.server.validation import first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from airflow_provider_llmbatch.models import File
    from airflow_provider_llmbatch.server.azure_answers import Answer, Version
    from airflow_provider_llmbatch.server.azure_limits import Intake, TokenQueue
    from airflow_provider_llmbatch.server.dialect import Dialect
    from airflow_provider_llmbatch.server.store import Store

_MOST_OWN_HEADERS: Final = 10
# What clients send by themselves; anything else is a header of the caller's own, which Azure counts.
_USUAL_HEADERS: Final = frozenset(
    b"accept accept-encoding accept-language api-key authorization cache-control connection content-length "
    b"content-type expect host idempotency-key origin openai-organization openai-project traceparent tracestate "
    b"transfer-encoding user-agent via".split()
)
_USUAL_PREFIXES: Final = (b"x-stainless-", b"x-ms-", b"x-forwarded-", b"sec-")
_NO_KEY: Final = (
    "Access denied due to missing subscription key. Make sure to include subscription key when making requests to an "
    "API."
)
_WRONG_KEY: Final = (
    "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for an "
    "active subscription and use a correct regional API endpoint for your resource."
)
_NO_ACCESS: Final = (
    "Unauthorized. Access token is missing, invalid, audience is incorrect (https://cognitiveservices.azure.com), or "
    "have expired."
)


@dataclass(frozen=True)
class _Call:
    """A call, as far as the face has to know it.

    :param path: Below ``/openai`` or ``/openai/v1``.
    :param query: Without its ``api-version``.
    """

    method: str
    path: str
    query: list[tuple[str, str]]
    version: Version

    @property
    def is_creation(self) -> bool:
        return (self.method, self.path) == ("POST", "/batches")

    @property
    def is_upload(self) -> bool:
        return (self.method, self.path) == ("POST", "/files")


class AzureFace:
    """An application with OpenAI's paths, as one with Azure's.

    :param api_key: What callers send in ``api-key``, or as a bearer token, as which it stands for one of Entra ID too.
    :param intake: Which files are still being read.
    :param queue: Which batches are refused, since too much waits; ``None``: none is.
    """

    def __init__(
        self, app: ASGIApp, store: Store, dialect: Dialect, *, api_key: str, intake: Intake, queue: TokenQueue | None
    ) -> None:
        self._app = app
        self._store = store
        self._dialect = dialect
        self._key = api_key.encode()
        self._intake = intake
        self._queue = queue
        self._creating = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        send, version = _identified(send), V1
        try:
            call = _call_of(scope)
            version = call.version
            self._check_headers(scope["headers"])
            await self._pass(call, scope, receive, send)
        except ApiError as error:
            await _refuse(send, error, version)

    def _check_headers(self, headers: list[tuple[bytes, bytes]]) -> None:
        own = [name for name, _ in headers if name not in _USUAL_HEADERS and not name.startswith(_USUAL_PREFIXES)]
        if len(own) > _MOST_OWN_HEADERS:
            raise ApiError(431, f"Request Header Fields Too Large: {len(own)} custom headers, at most 10.", code="431")
        given = dict(headers)
        bearer = given.get(b"authorization", b"")
        if key := given.get(b"api-key"):
            if not hmac.compare_digest(key, self._key):
                raise ApiError(401, _WRONG_KEY, code="401")
        elif not bearer:
            raise ApiError(401, _NO_KEY, code="401")
        elif not hmac.compare_digest(bearer, b"Bearer " + self._key):
            raise ApiError(401, _NO_ACCESS, code="Unauthorized")

    async def _pass(self, call: _Call, scope: Scope, receive: Receive, send: Send) -> None:
        turned = _Turned(send, lambda status, answer: self._turn(call, status, answer))
        if not call.is_creation:
            await self._app(self._inner(scope, call), receive, turned)
            return
        async with self._creating:  # so that two batches do not take the same place in the queue
            body = self._creation(await read(receive))
            await self._app(self._inner(scope, call, len(body)), replayed(body, receive), turned)

    def _inner(self, scope: Scope, call: _Call, length: int | None = None) -> Scope:
        """The call as the application knows it; ``length``: of its body, if that is another now."""
        fields = {name: value for name, value in scope["headers"] if name != b"api-key"}
        fields[b"authorization"] = b"Bearer " + self._key
        if length is not None:
            fields[b"content-length"] = str(length).encode()
        path = f"/v1{call.path}"
        query = urlencode(call.query).encode()
        return {**scope, "path": path, "raw_path": path.encode(), "query_string": query, "headers": [*fields.items()]}

    def _creation(self, body: bytes) -> bytes:
        """What the application is asked for: the service takes the endpoint from the lines, whatever the call says.

        :raises ApiError: The input is not ready, or the queue is full.
        """
        try:
            wanted = json.loads(body)
        except ValueError:
            return body
        if not isinstance(wanted, dict) or not isinstance(wanted.get("input_file_id"), str):
            return body
        told = wanted.get("endpoint")
        file = self._store.file(wanted["input_file_id"])
        if file is not None:
            self._check_input(file)
            told = told and (first_line(self._store.content(file)).url or told)
        if isinstance(told, str):
            wanted["endpoint"] = self._dialect.full_endpoint(told)
        return json.dumps(wanted).encode()

    def _check_input(self, file: File) -> None:
        status, _ = self._intake.state(file.id)
        if status != "processed":
            message = f"The file {file.id} is not ready: its status is '{status}' and must be 'processed'."
            raise ApiError(400, message, code="invalidPayload", param="input_file_id")
        if self._queue is not None:
            self._queue.check(file)

    def _turn(self, call: _Call, status: int, answer: Answer) -> tuple[int, Answer, Mapping[str, str]]:
        """Status, body and further headers, for an answer of the application."""
        version = call.version
        if status >= 400:
            return status, refused(status, answer["error"], version), {}
        headers: dict[str, str] = {}
        if call.is_upload:
            self._intake.begin(answer)
            status = version.upload_status
            headers = {} if version.is_v1 else {"Location": f"{version.prefix}/files/{answer['id']}"}
        elif call.is_creation:
            status = version.creation_status
        if self._queue and version.tells_queue and call.path == "/batches":
            headers = self._queue.headers()
        return status, shown(answer, version, self._intake, is_new=call.is_creation), headers


def _call_of(scope: Scope) -> _Call:
    """:raises ApiError: Azure has nothing at this path, or not in this version."""
    query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    version = VERSIONS.get(next((value for name, value in query if name == "api-version"), None))
    path: str = scope["path"]
    is_v1 = path.startswith("/openai/v1/")
    if is_v1 and version is not V1:
        raise ApiError(400, "API version not supported", code="BadRequest")
    if version is None or version.is_v1 != is_v1 or not path.startswith("/openai/"):
        raise ApiError(404, "Resource not found", code="404")
    rest = [(name, value) for name, value in query if name != "api-version"]
    if unknown := [name for name, _ in rest if name.startswith("$")]:  # unfiltered, a list would be a wrong answer
        raise ApiError(400, f"This server does not know the query parameter {unknown[0]}.", code="invalidPayload")
    return _Call(scope["method"], path.removeprefix(version.prefix), rest, version)


class _Turned:
    """Holds an answer in JSON back until it is whole, sends what it is turned into, and lets a file's content pass."""

    def __init__(self, send: Send, turn: Callable[[int, Answer], tuple[int, Answer, Mapping[str, str]]]) -> None:
        self._send = send
        self._turn = turn
        self._status: int | None = None
        self._body = bytearray()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and _is_json(message):
            self._status = message["status"]
        elif self._status is None or message["type"] != "http.response.body":
            await self._send(message)
        else:
            self._body += message.get("body", b"")
            if not message.get("more_body"):
                status, answer, headers = self._turn(self._status, json.loads(self._body))
                await _send(self._send, status, answer, headers)


def _is_json(start: Message) -> bool:
    kind: bytes = dict(start["headers"]).get(b"content-type", b"")
    return kind.startswith(b"application/json")


def _identified(send: Send) -> Send:
    """Gives the answer an id, as Azure's gateway does."""
    request_id = str(uuid.uuid4()).encode()

    async def identified(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], (b"apim-request-id", request_id)]}
        await send(message)

    return identified


async def _refuse(send: Send, error: ApiError, version: Version) -> None:
    told = {"message": str(error), "type": "invalid_request_error", "param": error.param, "code": error.code}
    headers = error.headers if version.tells_queue else None
    await _send(send, error.status_code, refused(error.status_code, told, version), headers or {})


async def _send(send: Send, status: int, answer: Answer, headers: Mapping[str, str]) -> None:
    body = json.dumps(answer).encode()
    fields = {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}
    encoded = [(name.lower().encode(), value.encode()) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
