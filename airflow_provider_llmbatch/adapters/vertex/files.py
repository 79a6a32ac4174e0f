"""Files of Vertex AI: objects of the connection's bucket, translated line by line on their way there and back.

An input lies under ``files/``, in a folder of its own, since Cloud Storage would replace an object of the same name. A
batch's output is a folder, whose id ends in a slash; what counts in it are the shards of the predictions, which public
code has seen under these names. Beside them may lie an incremental file, written during the run, which repeats some of
their lines: it counts only where there are no shards, since a job that was stopped may have got no further.
"""

from __future__ import annotations

import json
import re
import secrets
from itertools import chain
from typing import TYPE_CHECKING, Final

from airflow_provider_llmbatch.adapters.http import BLOCK_BYTES
from airflow_provider_llmbatch.adapters.lines import join_lines, split_lines
from airflow_provider_llmbatch.adapters.vertex.jobs import creation_of
from airflow_provider_llmbatch.adapters.vertex.location import model_name_of
from airflow_provider_llmbatch.errors import BatchInputError, NotFoundError
from airflow_provider_llmbatch.models import File

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import BinaryIO

    from pydantic import JsonValue

    from airflow_provider_llmbatch.adapters.base import LineCheck
    from airflow_provider_llmbatch.adapters.vertex.requests import RequestMapping
    from airflow_provider_llmbatch.adapters.vertex.settings import VertexSettings
    from airflow_provider_llmbatch.adapters.vertex.storage import Bucket, StoredObject

_FILES: Final = "files/"
_BATCHES: Final = "batches/"
_is_shard: Final = re.compile(r"(?:.*/)?predictions\.jsonl(-\d+-of-\d+)?").fullmatch
_is_incremental: Final = re.compile(r"(?:.*/)?incremental_predictions\.jsonl(-\d+-of-\d+)?").fullmatch


class VertexFiles:
    """The verbs for files, as ``adapters.base`` describes them."""

    def __init__(self, bucket: Bucket, settings: VertexSettings) -> None:
        self._bucket = bucket
        self._settings = settings

    def create(
        self, stream: BinaryIO, *, filename: str, purpose: str = "batch", expires_after: int | None = None
    ) -> File:
        refuse_expiry("expires_after", expires_after)
        metadata = {"filename": filename, "purpose": purpose}
        blocks = _blocks(stream)
        if purpose == "batch":
            blocks, described = self._translated(stream, filename)
            metadata |= described
        name = f"{_FILES}{secrets.token_hex(12)}/{filename}"  # of its own, so that no upload overwrites another
        return _file_of(self._bucket.upload(name, blocks, metadata=metadata))

    def retrieve(self, file_id: str) -> File:
        if not file_id.endswith("/"):
            return _file_of(self._bucket.stat(_object_uri(file_id)))
        shards = self._shards(file_id)
        return File(
            id=file_id,
            bytes=sum(shard.bytes for shard in shards),
            created_at=max((shard.created_at for shard in shards), default=None),
            filename=file_id.rstrip("/").rpartition("/")[2],
            purpose="batch_output",
            provider="vertex",
        )

    def listed(self, *, purpose: str | None = None, limit: int | None = None) -> Iterator[File]:
        listed = 0
        if limit is not None and limit <= 0:
            return
        for stored in self._bucket.list(_FILES):
            file = _file_of(stored)
            if purpose is None or file.purpose == purpose:
                yield file
                listed += 1
                if listed == limit:
                    return

    def delete(self, file_id: str) -> None:
        """Delete an input file, or all objects of a batch's output, if it lies in the connection's bucket."""
        if not file_id.endswith("/"):
            self._bucket.delete(_object_uri(file_id))
            return
        if not file_id.startswith(self._bucket.uri(_BATCHES)) or file_id == self._bucket.uri(_BATCHES):
            raise BatchInputError(
                f"{file_id} is no output of a batch in this connection's bucket, so nothing in it was deleted. Use "
                "Google's own tools for other folders."
            )
        objects = list(self._bucket.list(file_id))
        if not objects:
            raise _no_results(file_id)
        for stored in objects:
            self._bucket.delete(stored.uri)

    def content(self, file_id: str) -> Iterator[bytes]:
        """An input file as it is stored; of a batch's output, every shard, as lines of an OpenAI result file."""
        if file_id.endswith("/"):
            return join_lines(self._result_lines(file_id))
        return self._bucket.download(_object_uri(file_id))

    def line_check(self) -> LineCheck:
        from airflow_provider_llmbatch.adapters.vertex.preflight import GeminiLines  # noqa: PLC0415 - never to look

        return GeminiLines(self._mapping())

    def input_ids(self, file_id: str) -> Iterator[bytes]:
        from airflow_provider_llmbatch.adapters.vertex.responses import custom_id_of  # noqa: PLC0415 - never to look

        def named(line: bytes) -> bytes:
            try:
                return json.dumps({"custom_id": custom_id_of(line)}).encode()
            except (ValueError, RecursionError):
                return line  # which names nothing: whoever reads it sees the same

        return join_lines(named(line) for line in split_lines(self._bucket.download(_object_uri(file_id))))

    def creation(self, input_file_id: str, metadata: Mapping[str, str]) -> dict[str, JsonValue]:
        """The body that creates a job from an input.

        :raises NotFoundError: The input is not there.
        :raises BatchInputError: Nobody says for which model it is.
        """
        stored = self._bucket.stat(_object_uri(input_file_id))
        model = stored.metadata.get("model") or self._settings.model
        if model is None:
            raise BatchInputError(
                f"{input_file_id} does not say for which model it is, since it was not uploaded by this package, and "
                "the connection has no default one. Nothing was created or billed."
            )
        requests = stored.metadata.get("requests", "")
        return creation_of(
            model=model,
            input_uri=stored.uri,
            output_prefix=self._bucket.uri(f"{_BATCHES}{secrets.token_hex(12)}/"),
            display_name=f"llmbatch {_name_of(stored)}",
            metadata=metadata,
            requests=int(requests) if requests.isdecimal() else None,
        )

    def _mapping(self) -> RequestMapping:
        from airflow_provider_llmbatch.adapters.vertex.requests import (  # noqa: PLC0415 - never to look
            MappingSettings,
            RequestMapping,
        )

        settings = self._settings
        budgets = {} if settings.thinking_budgets is None else {"thinking_budgets": settings.thinking_budgets}
        return RequestMapping(
            MappingSettings(drop_params=settings.drop_params, default_model=settings.model, **budgets)
        )

    def _translated(self, stream: BinaryIO, filename: str) -> tuple[Iterator[bytes], dict[str, str]]:
        """An input in Gemini's format, and what is known of it before it is read to its end."""
        requests = _count_lines(stream) if stream.seekable() else None
        mapping = self._mapping()
        blocks = join_lines(_mapped(mapping, stream, filename))
        first = next(blocks, b"")
        model = mapping.model
        if model is None:
            raise BatchInputError(
                f"The lines of {filename} name no model, and the connection has no default one. Nothing was uploaded "
                "or billed."
            )
        described = {"model": model_name_of(model)}
        if requests is not None:
            described["requests"] = str(requests)
        return chain((first,), blocks), described

    def _shards(self, directory: str) -> list[StoredObject]:
        """:raises NotFoundError: There are none."""
        found = list(self._bucket.list(directory))
        shards = [stored for stored in found if _is_shard(stored.name)]
        shards = shards or [stored for stored in found if _is_incremental(stored.name)]
        if not shards:
            raise _no_results(directory)
        return shards

    def _result_lines(self, directory: str) -> Iterator[bytes]:
        from airflow_provider_llmbatch.adapters.vertex.responses import result_line  # noqa: PLC0415 - never to look

        for shard in self._shards(directory):
            for line in split_lines(self._bucket.download(shard.uri)):
                if not line.strip():
                    continue
                try:
                    yield result_line(line)
                except (ValueError, RecursionError):
                    yield line  # costs one request its answer: whoever reads it finds no id in it, and says so


def _mapped(mapping: RequestMapping, stream: BinaryIO, filename: str) -> Iterator[bytes]:
    for number, line in enumerate(split_lines(_blocks(stream)), 1):
        try:
            yield mapping.line(line)
        except ValueError as error:
            problem = str(error)
        else:
            continue
        raise BatchInputError(
            f"Line {number} of {filename} {problem}. Nothing was billed, and what was uploaded of it is gone. A retry "
            "would find the same: mend the input."
        )


def _blocks(stream: BinaryIO) -> Iterator[bytes]:
    while block := stream.read(BLOCK_BYTES):
        yield block


def _count_lines(stream: BinaryIO) -> int:
    """From where it stands, which it does afterwards again."""
    start = stream.tell()
    count, last = 0, b"\n"
    for block in _blocks(stream):
        count += block.count(b"\n")
        last = block[-1:]
    stream.seek(start)
    return count + (last != b"\n")


def _file_of(stored: StoredObject) -> File:
    return File(
        id=stored.uri,
        bytes=stored.bytes,
        created_at=stored.created_at,
        filename=_name_of(stored),
        purpose=stored.metadata.get("purpose"),
        provider="vertex",
    )


def _name_of(stored: StoredObject) -> str:
    return stored.metadata.get("filename") or stored.uri.rpartition("/")[2]


def _object_uri(file_id: str) -> str:
    """:raises BatchInputError: It is no object of Cloud Storage."""
    bucket, _, name = file_id.removeprefix("gs://").partition("/")
    if file_id.startswith("gs://") and bucket and name and not name.endswith("/"):
        return file_id
    raise BatchInputError(
        f"{file_id!r} is no id of a file on Vertex AI, which is gs://bucket/name of an object. Nothing was sent."
    )


def _no_results(directory: str) -> NotFoundError:
    return NotFoundError(
        f"There are no predictions in {directory}. A retry would not find them either: they were deleted, perhaps "
        "by the bucket's lifecycle, or the job was stopped before it wrote any."
    )


def refuse_expiry(name: str, seconds: int | None) -> None:
    if seconds is not None:
        raise BatchInputError(
            f"{name} is {seconds:,} s, and Vertex AI keeps files until somebody deletes them. Nothing was uploaded, "
            "created or billed. Leave it out, and give the bucket a lifecycle rule that deletes old objects."
        )
