"""OpenAI's files and batches, and every server that speaks them.

Facts: OpenAI's OpenAPI description 2.3.0 (files, batches); its Batch guide of autumn 2026 (limits, life of files). What
other servers do differently is taken as it comes: fields that are missing, null or empty, unknown statuses, odd times.
"""

from __future__ import annotations

import json
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, ClassVar, Final, TypeVar, get_args
from urllib.parse import quote, urlsplit

from pydantic import BaseModel, JsonValue, ValidationError
from typing_extensions import override

from airflow_provider_llmbatch.adapters.base import Adapter, Limits
from airflow_provider_llmbatch.adapters.body_parameters import PARAMETERS
from airflow_provider_llmbatch.adapters.http import BLOCK_BYTES, Call, HttpClient, TransportSettings
from airflow_provider_llmbatch.adapters.refusals import lost_answer, unbilled
from airflow_provider_llmbatch.errors import (
    BatchInputError,
    BrokenTransferError,
    ConnectionSettingsError,
    NotFoundError,
    RequestRefusedError,
    UnavailableError,
    UnexpectedAnswerError,
)
from airflow_provider_llmbatch.models import Batch, BatchStatus, File

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import BinaryIO

DEFAULT_BASE_URL: Final = "https://api.openai.com/v1"
_CONSOLE_HOSTS: Final = frozenset(
    {"api.openai.com"} | {f"{r}.api.openai.com" for r in ("us", "eu", "ae", "au", "in", "jp")}
)
_CONSOLE_URL: Final = "https://platform.openai.com/batches/{batch_id}"
_STATUSES: Final = frozenset(get_args(BatchStatus))
_BATCHES_PER_PAGE: Final = 100
_FILES_PER_PAGE: Final = 1_000
_NO_SUCH_MODEL: Final = "model_not_found"

ModelT = TypeVar("ModelT", bound=BaseModel)


@dataclass(frozen=True)
class OpenAISettings:
    """What a connection to OpenAI, or to a server like it, needs.

    :param api_key: Sent as a bearer token.
    :param headers: Sent with each call; their values count as secrets.
    :param console_url: Where people look at a batch, ``{batch_id}`` in it; OpenAI's own console if ``None``.
    """

    api_key: str = field(repr=False)
    base_url: str = DEFAULT_BASE_URL
    organization: str | None = None
    project: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    console_url: str | None = None
    transport: TransportSettings = field(default_factory=TransportSettings)


class OpenAIAdapter(Adapter):
    """The verbs on the wire. What a dialect of this API does differently it overrides: ``_client``, ``_expiry_fields``,
    ``_files_page_size``, ``_until_ready``, ``_spelled``, ``_file_of`` and ``_batch_of``.
    """

    provider: ClassVar[str] = "openai"
    title: ClassVar[str] = "OpenAI"
    limits: ClassVar[Limits] = Limits(
        max_requests=50_000,
        # 200 MB in the documents; 209,715,200 bytes were enforced where somebody looked. The lower one holds in both
        # cases.
        max_file_bytes=200_000_000,
    )
    worst_case_hours: ClassVar[float] = 24.0
    _upload_type: ClassVar[str] = "application/jsonl"
    _accepts: str = "key"

    def __init__(self, settings: OpenAISettings) -> None:
        self._settings = settings
        self._host = urlsplit(settings.base_url).hostname or ""
        self._is_openai = self._host in _CONSOLE_HOSTS
        self._http = self._client(settings)

    def _client(self, settings: OpenAISettings) -> HttpClient:
        return HttpClient(
            _checked_base_url(settings.base_url),
            title=self.title if self._is_openai else f"The server at {self._host}",
            headers=checked_headers(_headers_of(settings)),
            settings=settings.transport,
            secrets=(settings.api_key, *settings.headers.values()),
        )

    @override
    def create_file(
        self, stream: BinaryIO, *, filename: str, purpose: str = "batch", expires_after: int | None = None
    ) -> File:
        fields = {"purpose": purpose}
        if expires_after is not None:
            fields |= self._expiry_fields(expires_after)
        form = _UploadForm(stream, filename, fields, self._upload_type)
        call = Call(
            "POST",
            "/files",
            f"store the file {filename}",
            headers=form.headers,
            body=form.blocks,
            # A repeated upload costs nothing but a file that nobody uses, which expires by itself.
            repeat=form.can_repeat,
        )
        try:
            return self._file(self._http.send(call), call)
        except UnavailableError as error:
            if form.can_repeat or not form.begun or isinstance(error, BrokenTransferError):
                problem = unbilled(error)
            else:
                problem = _spent(f"{error} ", error)
        raise problem

    @override
    def retrieve_file(self, file_id: str) -> File:
        call = Call("GET", f"/files/{_segment(file_id)}", f"look up the file {file_id}")
        return self._file(self._http.send(call), call)

    @override
    def list_files(self, *, purpose: str | None = None, limit: int | None = None) -> Iterator[File]:
        params = {"purpose": purpose} if purpose else {}
        pages = self._pages("/files", "list the files", params, page_size=self._files_page_size(), limit=limit)
        for items in pages:
            for item in items:
                yield self._file_of(item, "list the files")

    @override
    def delete_file(self, file_id: str) -> None:
        self._http.send(Call("DELETE", f"/files/{_segment(file_id)}", f"delete the file {file_id}"))

    @override
    def file_content(self, file_id: str) -> Iterator[bytes]:
        return self._http.stream(Call("GET", f"/files/{_segment(file_id)}/content", f"send the file {file_id}"))

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
        body: dict[str, JsonValue] = {
            "input_file_id": input_file_id,
            "endpoint": self._spelled(endpoint),
            "completion_window": completion_window,
        }
        if metadata:
            body["metadata"] = dict(metadata)
        if output_expires_after is not None:
            body["output_expires_after"] = {"anchor": "created_at", "seconds": output_expires_after}
        self._until_ready(input_file_id)
        call = Call("POST", "/batches", f"create a batch from {input_file_id}", json=body, repeat=False)
        try:
            return self._batch(self._http.send(call), call)
        except UnavailableError as error:
            if not error.reached:
                raise
            lost = lost_answer(error, f"a batch from {input_file_id}")
        raise lost

    @override
    def retrieve_batch(self, batch_id: str) -> Batch:
        call = Call("GET", f"/batches/{_segment(batch_id)}", f"look up the batch {batch_id}")
        return self._batch(self._http.send(call), call)

    @override
    def list_batches(self, *, after: str | None = None, limit: int | None = None) -> Iterator[Batch]:
        params = {"after": after} if after else {}
        for items in self._pages("/batches", "list the batches", params, page_size=_BATCHES_PER_PAGE, limit=limit):
            for item in items:
                yield self._batch_of(item, "list the batches")

    @override
    def batch_pages(self) -> Iterator[list[Batch]]:
        for items in self._pages("/batches", "list the batches", {}, page_size=_BATCHES_PER_PAGE, limit=None):
            page = []
            for item in items:
                with suppress(UnexpectedAnswerError):
                    page.append(self._batch_of(item, "list the batches"))
            yield page

    @override
    def cancel_batch(self, batch_id: str) -> Batch:
        call = Call(
            "POST", f"/batches/{_segment(batch_id)}/cancel", f"cancel the batch {batch_id}", conflict_passes=False
        )
        try:
            return self._batch(self._http.send(call), call)
        except NotFoundError:
            raise
        except (RequestRefusedError, UnavailableError) as error:
            if isinstance(error, UnavailableError) and error.status_code != HTTPStatus.INTERNAL_SERVER_ERROR:
                raise
            # Which status a finished batch answers with is written nowhere, and gateways such as LiteLLM's proxy make a
            # bare 500 of it; what the batch says of itself counts.
            with suppress(UnavailableError):
                batch = self.retrieve_batch(batch_id)
                if batch.is_terminal or batch.status == "cancelling":
                    return batch
            raise

    @override
    def console_url(self, batch_id: str) -> str | None:
        address = self._settings.console_url or (_CONSOLE_URL if self._is_openai else None)
        return address and address.replace("{batch_id}", quote(batch_id, safe=""))

    @property
    @override
    def price_list(self) -> str | None:
        return "openai" if self._is_openai else self._settings.base_url  # some that speak this API publish prices too

    @override
    def ping(self) -> str:
        batches = list(self.list_batches(limit=1))
        found = f"the newest batch is {batches[0].id} ({batches[0].status})" if batches else "it has no batches yet"
        return f"{self._http.title} accepts the {self._accepts}, and {found}."

    @override
    def known_parameters(self, endpoint: str) -> frozenset[str] | None:
        return PARAMETERS.get(endpoint) if self._is_openai else None

    @override
    def check_model(self, model: str) -> None:
        try:
            self._http.send(Call("GET", f"/models/{_segment(model)}", f"look up the model {model}"))
        except NotFoundError as error:
            # A server that does not know this path says 404 as well, but not that it is the model that is missing.
            if not self._is_openai and error.code != _NO_SUCH_MODEL:
                raise
            words = " ".join(dict.fromkeys(("404", error.code or "404")))
            refused = BatchInputError(
                f"{self._http.title} does not serve the model {model!r} to this connection ({words}). "
                "Nothing was uploaded or billed. A retry would find the same: correct the model's name, or choose a "
                "connection that serves it.",
                status_code=error.status_code,
                code=error.code,
                request_id=error.request_id,
            )
        else:
            return
        raise refused

    @override
    def close(self) -> None:
        self._http.close()

    def _expiry_fields(self, seconds: int) -> dict[str, str]:
        """How an upload names its expiry."""
        return {"expires_after[anchor]": "created_at", "expires_after[seconds]": str(seconds)}

    def _files_page_size(self) -> int | None:
        """How many files to ask for at a time; ``None`` where that cannot be asked."""
        return _FILES_PER_PAGE

    def _until_ready(self, input_file_id: str) -> None:
        """Wait until a batch can be made of a file, where that takes a while."""

    def _spelled(self, endpoint: str) -> str:
        """What a batch's ``endpoint`` is called on the wire."""
        return endpoint

    def _pages(
        self, path: str, action: str, params: Mapping[str, str], *, page_size: int | None, limit: int | None
    ) -> Iterator[list[dict[str, JsonValue]]]:
        """Every item of a listing once, a page and a call for each step, until one leads back to an earlier one."""
        remaining = limit
        cursor = dict(params)
        followed = {cursor.get("after")}
        seen: set[str] = set()
        while remaining is None or remaining > 0:
            size = page_size if page_size is None or remaining is None else min(page_size, remaining)
            asked = {} if size is None else {"limit": str(size)}
            call = Call("GET", path, action, params={**cursor, **asked})
            page = _json_object(self._http.send(call), action, self._http.title)
            data = page.get("data", page.get("value"))  # Azure's older versions say value
            items = [item for item in data if isinstance(item, dict)] if isinstance(data, list) else []
            new = [item for item in items if str(item.get("id")) not in seen]
            seen.update(str(item.get("id")) for item in new)
            yield new if remaining is None else new[:remaining]
            remaining = None if remaining is None else remaining - len(new)
            last_id = _cursor(page, items)
            if not page.get("has_more") or not isinstance(last_id, str) or last_id in followed:
                return
            followed.add(last_id)
            cursor["after"] = last_id

    def _file(self, body: bytes, call: Call) -> File:
        return self._file_of(_json_object(body, call.action, self._http.title), call.action)

    def _file_of(self, content: dict[str, JsonValue], action: str) -> File:
        return _validated(File, {**content, "provider": self.provider}, action, self._http.title)

    def _batch(self, body: bytes, call: Call) -> Batch:
        return self._batch_of(_json_object(body, call.action, self._http.title), call.action)

    def _batch_of(self, content: dict[str, JsonValue], action: str) -> Batch:
        word = content.get("status")
        known = isinstance(word, str) and word in _STATUSES
        mended: dict[str, JsonValue] = {
            **{name: None if value == "" else value for name, value in content.items()},
            "object": "batch",
            "status": word if known else "unknown",
            "provider": self.provider,
            "provider_status": None if known or not word else str(word),
            "request_counts": content.get("request_counts") or {},
            "metadata": _texts(content.get("metadata")),
        }
        return _validated(Batch, mended, action, self._http.title)


class _UploadForm:
    """A file as multipart/form-data (RFC 7578), made while it is sent: httpx's own reads a stream from its start."""

    def __init__(self, stream: BinaryIO, filename: str, fields: Mapping[str, str], content_type: str) -> None:
        self._stream = stream
        boundary = secrets.token_hex(16)
        name = filename.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
        parts = [
            f'--{boundary}\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n' for k, v in fields.items()
        ]
        parts.append(
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
            f"Content-Type: {content_type}\r\n\r\n"
        )
        self._head = "".join(parts).encode()
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self.can_repeat = stream.seekable()
        self.headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        self._start = stream.tell() if self.can_repeat else 0
        if self.can_repeat:
            size = stream.seek(0, os.SEEK_END) - self._start
            stream.seek(self._start)
            self.headers["Content-Length"] = str(len(self._head) + size + len(self._tail))
        self.begun = False

    def blocks(self) -> Iterator[bytes]:
        """The form from its start; raises at once, before anything is sent, if the stream is spent."""
        if self.begun:
            if not self.can_repeat:
                raise _spent()
            self._stream.seek(self._start)
        return self._blocks()

    def _blocks(self) -> Iterator[bytes]:
        yield self._head
        while block := self._stream.read(BLOCK_BYTES):
            self.begun = True
            yield block
        yield self._tail


def _spent(what: str = "", error: UnavailableError | None = None) -> BrokenTransferError:
    return BrokenTransferError(
        f"{what}The upload broke off, and its source cannot be read a second time. Nothing was billed. A retry has to "
        "open the source anew; one that can be opened again, such as a path, starts over by itself.",
        status_code=error.status_code if error else None,
        code=error.code if error else None,
        request_id=error.request_id if error else None,
        retry_after=error.retry_after if error else None,
    )


def _headers_of(settings: OpenAISettings) -> dict[str, str]:
    named = {
        "OpenAI-Organization": settings.organization,
        "OpenAI-Project": settings.project,
        "Authorization": f"Bearer {settings.api_key}",
    }
    return {**{name: value for name, value in named.items() if value}, **settings.headers}


def checked_headers(headers: dict[str, str]) -> dict[str, str]:
    """The same headers.

    :raises ConnectionSettingsError: One cannot be sent; the message names it and does not quote it.
    """
    for name, value in headers.items():
        # Checked here, since the transport's own complaint would quote the value, which may be the key.
        if not (value.isascii() and value.isprintable() and name.isascii() and name.isprintable()):
            raise ConnectionSettingsError(
                f"The header {name!r} of this connection holds characters that cannot be sent (a line break, or a "
                "letter outside ASCII). Nothing was sent. Mend the connection; a pasted API key often brings a line "
                "break along."
            )
    return headers


def _checked_base_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        shown = url.rpartition("@")[2]  # what stands before may be a password
        raise ConnectionSettingsError(
            f"The base URL {shown!r} of this connection is not of the form https://host/v1. Nothing was sent."
        )
    return url


def _segment(identifier: str) -> str:
    """An id as one segment of a path: ids come from users, and one with a slash would call something else."""
    if not identifier or identifier in (".", ".."):
        raise BatchInputError(f"{identifier!r} is no id of a file or batch. Nothing was sent.")
    return quote(identifier, safe="")


def _cursor(page: Mapping[str, JsonValue], items: list[dict[str, JsonValue]]) -> JsonValue:
    """What to ask for the next page with: the last item's id, as OpenAI's client does.

    Gateways that rewrite the ids of items (LiteLLM's proxy with its header for a model) do not take those as cursors,
    but leave ``first_id`` and ``last_id`` as they were.
    """
    if not items:
        return None
    rewritten = page.get("first_id") and page.get("first_id") != items[0].get("id")
    return page.get("last_id") if rewritten else items[-1].get("id")


def _texts(metadata: JsonValue) -> dict[str, JsonValue] | None:
    if not isinstance(metadata, dict):
        return None
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}


def _json_object(body: bytes, action: str, title: str) -> dict[str, JsonValue]:
    try:
        content = json.loads(body.decode("utf-8-sig"))
    except ValueError:
        content = None
    if isinstance(content, dict):
        return content
    raise UnexpectedAnswerError(
        f"{title} was asked to {action} and answered with {len(body)} bytes that are no JSON object, so something else "
        "than the API answered. A retry helps only if that is passing; else mend the connection's base URL."
    )


def _validated(model: type[ModelT], content: dict[str, JsonValue], action: str, title: str) -> ModelT:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        wrong = ", ".join(sorted({".".join(map(str, e["loc"])) for e in error.errors(include_input=False)}))
    raise UnexpectedAnswerError(
        f"{title} was asked to {action} and answered with JSON that is no {model.__name__.lower()} (wrong or missing: "
        f"{wrong}). A retry helps only if that is passing; else the server does not speak OpenAI's batch API."
    )
