"""The bucket of a connection: input files go there, and Vertex AI writes its predictions there.

Plain REST (Cloud Storage's JSON API v1) over ``adapters/http.py``, for looks, which a triggerer makes too, and for
transfers alike. google-cloud-storage 3.17 was tried for uploads and left: see ``resumable.py``.
"""

from __future__ import annotations

import json
import os
import re
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

from airflow_provider_llmbatch.adapters.http import Call, HttpClient
from airflow_provider_llmbatch.adapters.refusals import unbilled
from airflow_provider_llmbatch.adapters.vertex.checksums import Checksum
from airflow_provider_llmbatch.adapters.vertex.resumable import ResumableUpload
from airflow_provider_llmbatch.errors import (
    AccessRefusedError,
    BatchInputError,
    BrokenTransferError,
    ConnectionSettingsError,
    LLMBatchError,
    NotFoundError,
    RequestRefusedError,
    UnavailableError,
    UnexpectedAnswerError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from airflow_provider_llmbatch.adapters.http import Authorization, TransportSettings

SERVICE_AGENT: Final = "service-PROJECT_NUMBER@gcp-sa-aiplatform.iam.gserviceaccount.com"
"""As whom Vertex AI reads inputs and writes predictions."""

_TITLE: Final = "Cloud Storage"
_GOOGLE: Final = "https://storage.googleapis.com"
_EMULATOR: Final = "STORAGE_EMULATOR_HOST"  # as Google's own clients have it
_FIELDS: Final = "name,bucket,size,timeCreated,metadata,generation,crc32c,contentEncoding"
_PER_PAGE: Final = 1_000
_BUCKET: Final = r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]"
_ADDRESS: Final = re.compile(rf"({_BUCKET})|gs://({_BUCKET})(?:/(.*))?")
# A name with one of these would stand for several objects, to Vertex AI or to Google's tools.
_WILD: Final = re.compile(r"[*?\[\]#\x00-\x1f\x7f]")


@dataclass(frozen=True)
class StoredObject:
    """What is known of an object without reading it.

    :param name: Below the prefix of the bucket's setting; of an object elsewhere, its whole name in its own bucket.
    :param created_at: Seconds since 1970.
    :param generation: Changes whenever the object is replaced.
    :param crc32c: In base 64, as Cloud Storage writes it; empty where it says none.
    """

    name: str
    uri: str
    bytes: int
    created_at: int
    metadata: Mapping[str, str] = field(default_factory=dict)
    generation: str = ""
    crc32c: str = ""


@dataclass(frozen=True)
class _Address:
    """:param name: Of an object, or where names begin; may be empty."""

    bucket: str
    name: str

    @property
    def uri(self) -> str:
        return f"gs://{self.bucket}/{self.name}"

    @property
    def objects(self) -> str:
        return f"/storage/v1/b/{self.bucket}/o"

    @property
    def path(self) -> str:
        return f"{self.objects}/{quote(self.name, safe='')}"


class Bucket:
    """A ``gs://bucket[/prefix]``, or ``bucket`` alone. Safe to use from several threads.

    ``name`` is below the prefix; a whole ``gs://`` URI, of any bucket, will do everywhere but for an upload. What goes
    wrong raises as ``errors`` describes; a missing bucket is a ``ConnectionSettingsError``, a missing object a
    ``NotFoundError``.

    :param storage_url: Scheme, host and port of another service than Google's; else ``STORAGE_EMULATOR_HOST`` counts.
    :param sleep: Waits between attempts; replaced in tests only.
    :raises ConnectionSettingsError: The address is no bucket.
    """

    def __init__(
        self,
        address: str,
        *,
        authorization: Authorization | None,
        transport: TransportSettings,
        storage_url: str | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._root = _checked_address(address)
        self._http = HttpClient(
            _checked_url(storage_url or os.environ.get(_EMULATOR) or _GOOGLE),
            title=_TITLE,
            headers={},
            settings=transport,
            authorization=authorization,
            sleep=sleep,
        )

    def uri(self, name: str) -> str:
        return self._at(name).uri

    def upload(self, name: str, blocks: Iterator[bytes], *, metadata: Mapping[str, str]) -> StoredObject:
        """Store what the blocks hold, in constant memory, as an object that did not exist before.

        An object appears when its last byte has arrived and its checksum (CRC32C) is right, or not at all: whatever
        the blocks raise, and whatever goes wrong on the way, nothing is left, and nothing is billed but storage.

        :param metadata: Texts to keep with the object.
        :raises BrokenTransferError: What arrived was something else, or not all of it.
        :raises BatchInputError: No object can have that name.
        """
        if name.startswith("gs://") or not name or _WILD.search(name):
            raise BatchInputError(f"{name!r} is no name for an object of {self._root.uri}. Nothing was uploaded.")
        at = self._at(name)
        resource = {"name": at.name, "metadata": dict(metadata), "contentType": "application/jsonl"}
        upload = ResumableUpload(self._http, at.bucket, resource, at.uri)
        try:
            with self._explained(at, missing_bucket=True):
                upload.open()
            with self._explained(at):
                return self._object_of(upload.send(blocks), at.bucket)
        except UnavailableError as error:
            problem = unbilled(error)
        raise problem

    def stat(self, name: str) -> StoredObject:
        """Look an object up."""
        at = self._at(name)
        return self._object_of(self._resource(at), at.bucket)

    def delete(self, name: str) -> None:
        """Delete an object. Where the bucket keeps what was deleted for a while, so does this."""
        at = self._at(name)
        with self._explained(at):
            self._http.send(Call("DELETE", at.path, f"delete {at.uri}"))

    def list(self, prefix: str = "", *, limit: int | None = None) -> Iterator[StoredObject]:
        """Page through the objects whose names begin so, in the order of their names.

        :param limit: Bounds the whole listing.
        """
        at = self._at(prefix)
        remaining = limit
        params = {"prefix": at.name, "fields": f"items({_FIELDS}),nextPageToken"}
        seen: set[str] = set()
        while remaining is None or remaining > 0:
            params["maxResults"] = str(_PER_PAGE if remaining is None else min(_PER_PAGE, remaining))
            call = Call("GET", at.objects, f"list {at.uri}", params=params)
            with self._explained(at, missing_bucket=True):
                page = _json_object(self._http.send(call), call.action)
                found = [self._object_of(item, at.bucket) for item in page.get("items") or ()]
            yield from found if remaining is None else found[:remaining]
            remaining = None if remaining is None else remaining - len(found)
            token = page.get("nextPageToken")
            if not token or token in seen:  # one that comes again would lead round in a circle
                return
            seen.add(token)
            params["pageToken"] = token

    def download(self, name: str) -> Iterator[bytes]:
        """Stream an object's bytes in blocks; what breaks off goes on at the byte where it ended.

        :raises BrokenTransferError: After the last block: fewer bytes came, or others than were stored.
        """
        at = self._at(name)
        resource = self._resource(at)
        stored = self._object_of(resource, at.bucket)
        if resource.get("contentEncoding"):
            raise RequestRefusedError(
                f"{stored.uri} is stored compressed (Content-Encoding {resource['contentEncoding']}), so what arrives "
                "of it could not be checked. Nothing was billed. A retry would be refused again: store it as it is."
            )
        # The generation makes every attempt read the same bytes, even if the object is replaced in between.
        params = {"alt": "media", **({"generation": stored.generation} if stored.generation else {})}
        checksum, received = Checksum(), 0
        with self._explained(at):
            for block in self._http.stream(Call("GET", at.path, f"send {stored.uri}", params=params)):
                checksum.update(block)
                received += len(block)
                yield block
        problem = None
        if received != stored.bytes:
            problem = f"{received:,} bytes of {stored.uri} arrived, and it has {stored.bytes:,}"
        elif stored.crc32c and stored.crc32c != checksum.text:
            problem = f"{stored.uri} arrived with the checksum {checksum.text}, and has {stored.crc32c} (CRC32C)"
        if problem:
            raise BrokenTransferError(
                f"{problem}: something on the way changed it. It is whole in the bucket, and nothing was billed. "
                "What was read must not be used; a retry reads it anew."
            )

    def close(self) -> None:
        """Give the sockets back. The bucket must not be used afterwards."""
        self._http.close()

    def _at(self, name: str) -> _Address:
        if not name.startswith("gs://"):
            return _Address(self._root.bucket, self._root.name + name)
        match = _ADDRESS.fullmatch(name)
        if match is None:
            raise BatchInputError(f"{name!r} is no address of the form gs://bucket/name. Nothing was sent.")
        return _Address(match[2], match[3] or "")

    def _resource(self, at: _Address) -> dict[str, Any]:
        call = Call("GET", at.path, f"look up {at.uri}", params={"fields": _FIELDS})
        with self._explained(at):
            return _json_object(self._http.send(call), call.action)

    def _object_of(self, resource: Mapping[str, Any], bucket: str) -> StoredObject:
        name = str(resource.get("name", ""))
        is_ours = bucket == self._root.bucket and name.startswith(self._root.name)
        try:
            return StoredObject(
                name=name.removeprefix(self._root.name) if is_ours else name,
                uri=_Address(bucket, name).uri,
                bytes=int(resource["size"]),
                created_at=int(datetime.fromisoformat(resource["timeCreated"]).timestamp()),
                metadata=dict(resource.get("metadata") or {}),
                generation=str(resource.get("generation") or ""),
                crc32c=str(resource.get("crc32c") or ""),
            )
        except (KeyError, TypeError, ValueError) as error:
            problem = f"{type(error).__name__}: {error}"
        raise UnexpectedAnswerError(
            f"{_TITLE} described gs://{bucket}/{name} in a way that is not its own ({problem}), so something else than "
            "Cloud Storage answered. A retry helps only if that is passing; else mend the connection's storage URL."
        )

    @contextmanager
    def _explained(self, at: _Address, *, missing_bucket: bool = False) -> Iterator[None]:
        """Say what to do about a refusal.

        :param missing_bucket: Whether what is not found can only be the bucket.
        """
        try:
            yield
        except (AccessRefusedError, NotFoundError) as error:
            explained = _explained(error, at, missing_bucket or "bucket does not exist" in str(error))
        else:
            return
        raise explained


def _explained(error: LLMBatchError, at: _Address, is_bucket: bool) -> LLMBatchError:
    about: dict[str, Any] = {"status_code": error.status_code, "code": error.code, "request_id": error.request_id}
    if isinstance(error, NotFoundError):
        if not is_bucket:
            return error
        return ConnectionSettingsError(
            f"{error} There is no bucket gs://{at.bucket}, or none that this identity may see. Mend the connection's "
            "bucket, or create it where the connection's location can use it.",
            **about,
        )
    if error.status_code != HTTPStatus.FORBIDDEN:
        return error  # a token that is not accepted, or cannot be had, has nothing to do with rights
    return AccessRefusedError(
        f"{error} To be stored and read, files need the role Storage Object Admin (roles/storage.objectAdmin) on "
        f"gs://{at.bucket}: give it to the identity of this connection, and to Vertex AI's service agent "
        f"({SERVICE_AGENT}), which reads the input and writes the predictions.",
        **about,
    )


def _checked_address(address: str) -> _Address:
    match = _ADDRESS.fullmatch(address.strip())
    prefix = (match[3] or "").strip("/") if match else ""
    if match is None or _WILD.search(prefix) or "//" in prefix:
        raise ConnectionSettingsError(
            f"The bucket {address!r} of this connection is none: it is gs://bucket, gs://bucket/prefix, or the name "
            "of the bucket alone (lower-case letters, digits, dots, dashes and underscores). Nothing was sent. Mend "
            "the connection."
        )
    return _Address(match[1] or match[2], f"{prefix}/" if prefix else "")


def _checked_url(url: str) -> str:
    url = url if "://" in url else f"http://{url}"  # as emulators write theirs
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConnectionSettingsError(
            f"The storage URL {url.rpartition('@')[2]!r} is not of the form https://host:port. Nothing was sent. Mend "
            f"the connection, or the environment variable {_EMULATOR}."
        )
    return url


def _json_object(body: bytes, action: str) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except ValueError:
        content = None
    if isinstance(content, dict):
        return content
    raise UnexpectedAnswerError(
        f"{_TITLE} was asked to {action} and answered with {len(body)} bytes that are no JSON object, so something "
        "else answered. A retry helps only if that is passing; else mend the connection's storage URL."
    )
