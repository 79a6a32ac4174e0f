"""Peak memory and time of a fresh process that uploads or downloads 200 MB, beside OpenAI's own client.

Every side runs in a process of its own against the same embedded server (a real process on loopback, engine ``echo``).
Memory is the highest resident set (VmHWM) less that at the start of the transfer, when everything is imported and the
client is made. CPU seconds are the client process's own; the server's work is in the seconds of all sides alike.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
from report import Row, add_json_option, end_well_when_told_to, publish, versions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_MEGABYTES = 32
TARGET = f"{MAX_MEGABYTES} MB above the start"
KEY = "sk-benchmark-0123456789"
PROMPT_CHARACTERS = 4_000  # 200 MB are then some 48,000 requests: near both limits of a batch at OpenAI


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=int, default=200_000_000, help="size of the input (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="fresh processes for each side (default: %(default)s)")
    parser.add_argument("--side", help=argparse.SUPPRESS)  # how this script starts itself
    add_json_option(parser)
    options = parser.parse_args()
    if options.side:
        json.dump(measured(options.side), sys.stdout)
        return 0

    sides = {name: name in OURS for name in SIDES}
    about = versions("apache-airflow", "airflow-provider-llmbatch", "openai")
    if about["openai"] == "not installed":
        print("OpenAI's client is not installed: the peer is left out (pip install openai).")
        sides = {name: ours for name, ours in sides.items() if ours}
    end_well_when_told_to()
    with tempfile.TemporaryDirectory() as folder, running_server(Path(folder)) as url:
        source = Path(folder) / "input.jsonl"
        lines = write_requests(source, options.bytes)
        os.environ |= prepared(url, source, Path(folder))
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
        for _ in range(options.rounds):
            for name in sides:
                runs[name].append(in_fresh_process(name))
    rows = [row_of(name, found, ours=sides[name]) for name, found in runs.items()]
    title = f"Transfers of {options.bytes:,} bytes ({lines:,} lines), the worst of {options.rounds} fresh processes"
    return publish(title, about, rows, options.json)


def row_of(name: str, runs: list[dict[str, float]], *, ours: bool) -> Row:
    """The highest memory, and the fastest time: what disturbs it only ever adds to it."""
    peak = max(run["MB"] for run in runs)
    seconds, cpu = min(run["seconds"] for run in runs), min(run["cpu"] for run in runs)
    figures = {
        "bytes": f"{int(runs[0]['bytes']):,}",
        "peak MB above the start": peak,
        "fastest s": seconds,
        "least CPU s": cpu,
    }
    return Row(name, figures, TARGET if ours else "", peak < MAX_MEGABYTES if ours else None)


def in_fresh_process(side: str) -> dict[str, float]:
    child = subprocess.run([sys.executable, __file__, "--side", side], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(child.stdout.splitlines()[-1])


def write_requests(path: Path, size: int) -> int:
    """Fill a file of exactly this size with requests; returns how many."""
    number = written = 0
    with path.open("wb") as stream:
        while written < size:
            line = request_line(number, "The parcel came late but whole. " * (PROMPT_CHARACTERS // 32))
            left = size - written - len(line)
            if left < len(line):  # the last line takes what is left
                line = request_line(number, "x" * (PROMPT_CHARACTERS + left))
                line = request_line(number, "x" * (PROMPT_CHARACTERS + left + size - written - len(line)))
            written += stream.write(line)
            number += 1
    assert path.stat().st_size == size
    return number


def request_line(number: int, text: str) -> bytes:
    body = {"model": "echo", "messages": [{"role": "user", "content": text}]}
    request = {"custom_id": f"row-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(request).encode() + b"\n"


@contextmanager
def running_server(folder: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "airflow_provider_llmbatch.server", "--engine", "echo", "--port", "0"]
    environment = {**os.environ, "LLMBATCH_SERVER_API_KEY": KEY}
    server = subprocess.Popen(
        [*command, "--data", str(folder / "data")], stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert server.stdout is not None
        yield server.stdout.readline().removeprefix("Listening on ").strip()
    finally:
        server.kill()
        server.wait()


def prepared(url: str, source: Path, folder: Path) -> dict[str, str]:
    """What the sides find in their environment; a batch has been run over the input, so that there are results."""
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {KEY}"}, timeout=600, trust_env=False) as client:
        with source.open("rb") as stream:
            files = {"file": ("input.jsonl", stream, "application/jsonl")}
            file = client.post("files", data={"purpose": "batch"}, files=files).raise_for_status().json()
        request = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        batch = client.post("batches", json=request).raise_for_status().json()
        while batch["status"] != "completed":
            assert batch["status"] in ("validating", "in_progress", "finalizing"), batch
            time.sleep(0.5)
            batch = client.get(f"batches/{batch['id']}").raise_for_status().json()
    connection = {"conn_type": "llmbatch_openai", "host": url, "password": KEY}
    return {
        "AIRFLOW_HOME": os.environ.get("AIRFLOW_HOME", str(folder / "airflow")),
        "AIRFLOW_CONN_LLMBATCH_DEFAULT": json.dumps(connection),
        "BENCHMARK_URL": url,
        "BENCHMARK_SOURCE": str(source),
        "BENCHMARK_LANDED": str(folder / "landed.jsonl"),
        "BENCHMARK_FILE": file["id"],
        "BENCHMARK_BATCH": batch["id"],
    }


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


def resident() -> float:
    return _status("VmRSS")


def highest() -> float:
    return _status("VmHWM")


def _status(name: str) -> float:
    """Megabytes, from Linux's account of this process."""
    text = Path("/proc/self/status").read_text()
    return int(text.partition(f"{name}:")[2].split()[0]) * 1024 / 1e6


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def upload_through_hook() -> Callable[[], int]:
    hook = _hook()
    return lambda: hook.create_file(os.environ["BENCHMARK_SOURCE"]).bytes or 0


def upload_through_adapter() -> Callable[[], int]:
    adapter = _hook().adapter

    def transfer() -> int:
        with Path(os.environ["BENCHMARK_SOURCE"]).open("rb") as stream:
            return adapter.create_file(stream, filename="input.jsonl").bytes or 0

    return transfer


def upload_through_openai() -> Callable[[], int]:
    client = _openai()
    return lambda: client.files.create(file=Path(os.environ["BENCHMARK_SOURCE"]), purpose="batch").bytes


def download_through_adapter() -> Callable[[], int]:
    """To a file, as every side does it."""
    adapter = _hook().adapter

    def transfer() -> int:
        with Path(os.environ["BENCHMARK_LANDED"]).open("wb") as stream:
            return sum(stream.write(block) for block in adapter.file_content(os.environ["BENCHMARK_FILE"]))

    return transfer


def download_results() -> Callable[[], int]:
    """The operator itself; the batch's output is about as long as its input, a bit more."""
    from airflow_provider_llmbatch.operators.batch import LLMBatchDownloadResultsOperator

    landed = Path(os.environ["BENCHMARK_LANDED"])
    operator = LLMBatchDownloadResultsOperator(
        task_id="download", batch_id=os.environ["BENCHMARK_BATCH"], destination=str(landed)
    )
    _hook()  # imports the adapter, as the other sides do before they begin

    def transfer() -> int:
        operator.execute({})
        return landed.stat().st_size

    return transfer


def download_through_openai(*, whole: bool) -> Callable[[], int]:
    client = _openai()
    landed, file_id = Path(os.environ["BENCHMARK_LANDED"]), os.environ["BENCHMARK_FILE"]

    def transfer() -> int:
        if whole:
            client.files.content(file_id).write_to_file(landed)
        else:
            with client.files.with_streaming_response.content(file_id) as response:
                response.stream_to_file(landed)
        return landed.stat().st_size

    return transfer


def _hook():  # noqa: ANN202 - its type would import the hook, and its memory, on the peer's side too
    from airflow_provider_llmbatch.hooks.batch import LLMBatchHook

    hook = LLMBatchHook()
    assert hook.adapter.provider == "openai"
    return hook


def _openai():  # noqa: ANN202 - likewise
    from openai import OpenAI

    return OpenAI(base_url=os.environ["BENCHMARK_URL"], api_key=KEY)


OURS = {
    "upload: LLMBatchHook.create_file, checked": upload_through_hook,
    "upload: adapter alone": upload_through_adapter,
    "download: adapter.file_content": download_through_adapter,
    "download: LLMBatchDownloadResultsOperator, merged": download_results,
}
PEERS = {
    "upload: openai files.create": upload_through_openai,
    "download: openai files.content": lambda: download_through_openai(whole=True),
    "download: openai files.content, streaming response": lambda: download_through_openai(whole=False),
}
SIDES = {**OURS, **PEERS}


if __name__ == "__main__":
    sys.exit(main())
