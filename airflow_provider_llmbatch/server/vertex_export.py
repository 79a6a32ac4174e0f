"""What came of a job's batch, as the objects that Vertex AI leaves in Cloud Storage.

``predictions.jsonl``, or shards of it, in another order than the input, and an ``incremental_predictions.jsonl`` of
some rows that stand in the others too, as the service has been seen to leave one.
"""

from __future__ import annotations

import time
from array import array
from itertools import islice
from typing import TYPE_CHECKING, Final

import msgspec

from airflow_provider_llmbatch.models import ResultResponse  # noqa: TC001 - msgspec reads the annotation
from airflow_provider_llmbatch.server.gemini_answers import prediction
from airflow_provider_llmbatch.server.store import open_private
from airflow_provider_llmbatch.server.vertex_jobs import Stats

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedReader
    from pathlib import Path

    from airflow_provider_llmbatch.models import Batch
    from airflow_provider_llmbatch.server.store import Store
    from airflow_provider_llmbatch.server.vertex_jobs import Job
    from airflow_provider_llmbatch.server.vertex_storage import Storage

_INCREMENTAL_ROWS: Final = 100


class _Body(msgspec.Struct):
    request: msgspec.Raw


class _Request(msgspec.Struct):
    body: _Body


class _Result(msgspec.Struct):
    custom_id: str
    response: ResultResponse | None = None


_decode_request = msgspec.json.Decoder(_Request).decode
_decode_result = msgspec.json.Decoder(_Result).decode


class Export:
    """The rows of a batch that has ended; those that were never asked are in no row. Blocking: for a thread.

    :param lost_rows: So many, at most, are left out.
    """

    def __init__(self, store: Store, job: Job, batch: Batch, *, lost_rows: int) -> None:
        self._job = job
        self._batch = batch
        self._wanted = lost_rows
        self.lost = 0
        self._input = store.input_of(batch)
        self._folder = store.uploads
        ids = (batch.output_file_id, batch.error_file_id)
        files = [file for file_id in ids if file_id and (file := store.file(file_id)) is not None]
        self._results = [store.content(file) for file in files]

    def write(self, storage: Storage, rows_per_shard: int) -> Stats:
        """Write all objects, in the place of those of an earlier try.

        :raises StorageRefusedError: The bucket is not there, or may not be written.
        :raises StorageAwayError: Cloud Storage cannot be reached.
        """
        asked = array("Q", _offsets(self._input))
        # Of each answer its file and its place there, in one number: some hundred thousand of them may be here.
        places = array("Q")
        for kind, path in enumerate(self._results):
            places.extend(len(self._results) * offset + kind for offset in _offsets(path))
        places.reverse()  # the last one answered first
        shards = max(-(-len(places) // rows_per_shard), 1)
        successful = failed = written = self.lost = 0
        local = self._folder / f"file-{self._job.id}"
        with self._input.open("rb") as requests:
            streams = [path.open("rb") for path in self._results]
            try:
                for shard in range(shards):
                    part = places[shard * rows_per_shard : (shard + 1) * rows_per_shard]
                    with open(local, "wb", opener=open_private) as output:
                        for place in part:
                            offset, kind = divmod(place, len(self._results))
                            row = self._row(_line_at(streams[kind], offset), asked, requests)
                            if row is None:
                                continue
                            if written >= len(asked) - self._wanted:
                                self.lost += 1
                                continue
                            line, is_good = row
                            output.write(line + b"\n")
                            written += 1
                            successful += is_good
                            failed += not is_good
                    if shard == 0:
                        self._write_incremental(storage, local)
                    storage.write(f"{self._job.directory}/{_name(shard, shards)}", local)
            finally:
                for stream in streams:
                    stream.close()
                local.unlink(missing_ok=True)
        return Stats(successful=successful, failed=failed, incomplete=len(asked) - successful - failed)

    def _row(self, line: bytes, asked: array[int], requests: BufferedReader) -> tuple[bytes, bool] | None:
        """A row of the output and whether it succeeded; ``None`` for a request that was never asked."""
        result = _decode_result(line)
        if result.response is None:
            return None
        number = int(result.custom_id.partition(" ")[0])
        request = _decode_request(_line_at(requests, asked[number - 1])).body.request
        return prediction(bytes(request), result.response, at=time.time())

    def _write_incremental(self, storage: Storage, shard: Path) -> None:
        local = shard.with_name(f"{shard.name}.incremental")
        try:
            with shard.open("rb") as rows, open(local, "wb", opener=open_private) as some:
                some.writelines(islice(rows, _INCREMENTAL_ROWS))
            storage.write(f"{self._job.directory}/incremental_predictions.jsonl", local)
        finally:
            local.unlink(missing_ok=True)


def _name(shard: int, shards: int) -> str:
    return "predictions.jsonl" if shards == 1 else f"predictions.jsonl-{shard:05d}-of-{shards:05d}"


def _offsets(path: Path) -> Iterator[int]:
    at = 0
    with path.open("rb") as stream:
        for line in stream:
            yield at
            at += len(line)


def _line_at(stream: BufferedReader, offset: int) -> bytes:
    stream.seek(offset)
    return stream.readline()
