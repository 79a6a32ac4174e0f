"""Peak memory and time of a fresh process that uploads or downloads 200 MB, beside OpenAI's and LiteLLM's clients.

Every side runs in a process of its own against the same embedded server (a real process on loopback, engine ``echo``).
Memory is the highest resident set (VmHWM) less that at the start of the transfer, when everything is imported and the
client is made. CPU seconds are the client process's own; the server's work is in the seconds of all sides alike.
LiteLLM cannot stand beside Airflow, so its sides run in a Python of their own. A missing peer is a failure.
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

from loopback import KEY, Server, cpu_seconds, highest, resident, run_batch, running_server, upload, write_requests
from report import Row, add_json_option, end_well_when_told_to, publish, version_in, versions

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

MAX_MEGABYTES = 32
TARGET = f"{MAX_MEGABYTES} MB above the start"
LITELLM_PYTHON = Path(__file__).parents[1] / ".venv" / "litellm" / "bin" / "python"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=int, default=200_000_000, help="size of the input (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="fresh processes for each side (default: %(default)s)")
    parser.add_argument(
        "--litellm-python", type=Path, default=LITELLM_PYTHON, help="has LiteLLM installed (default: %(default)s)"
    )
    parser.add_argument("--side", help=argparse.SUPPRESS)  # how this script starts itself
    add_json_option(parser)
    options = parser.parse_args()
    if options.side:
        json.dump(measured(options.side), sys.stdout)
        return 0

    pythons = {name: str(options.litellm_python) if name in LITELLM else sys.executable for name in SIDES}
    about = versions("apache-airflow", "airflow-provider-llmbatch")
    for package, python in (("openai", sys.executable), ("litellm", options.litellm_python)):
        found = version_in(python, package)
        if found is None:
            print(f"The peer {package} is not installed in {python}. Nothing was measured.", file=sys.stderr)
            return 1
        about[package] = found
    end_well_when_told_to()
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in SIDES}
    with tempfile.TemporaryDirectory() as folder, running_server(Path(folder)) as server, server.client() as client:
        source = Path(folder) / "input.jsonl"
        lines = write_requests(source, options.bytes)
        os.environ |= prepared(server, client, source, Path(folder))
        for _ in range(options.rounds):
            for name, python in pythons.items():
                runs[name].append(in_fresh_process(name, python))
                check(name, runs[name][-1], client, options.bytes)
    rows = [row_of(name, found, ours=name in OURS) for name, found in runs.items()]
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


def in_fresh_process(side: str, python: str) -> dict[str, float]:
    child = subprocess.run([python, __file__, "--side", side], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(child.stdout.splitlines()[-1])


def check(side: str, run: dict[str, float], client: httpx.Client, size: int) -> None:
    """Everything went where it should: the server has what was uploaded, which is then deleted, or all was landed."""
    if side.startswith("upload"):
        newest = client.get("files", params={"limit": 1, "purpose": "batch"}).raise_for_status().json()["data"][0]
        assert newest["id"] != os.environ["BENCHMARK_FILE"], f"{side}: nothing reached the server"
        assert newest["bytes"] == size, newest
        client.delete(f"files/{newest['id']}").raise_for_status()
    assert run["bytes"] >= size, f"{side}: {run['bytes']} bytes"


def prepared(server: Server, client: httpx.Client, source: Path, folder: Path) -> dict[str, str]:
    """What the sides find in their environment; a batch has been run over the input, so that there are results."""
    file_id = upload(client, source)
    batch = run_batch(client, file_id)
    connection = {"conn_type": "llmbatch_openai", "host": server.url, "password": KEY}
    return {
        "AIRFLOW_HOME": os.environ.get("AIRFLOW_HOME", str(folder / "airflow")),
        "AIRFLOW_CONN_LLMBATCH_DEFAULT": json.dumps(connection),
        "BENCHMARK_URL": server.url,
        "BENCHMARK_SOURCE": str(source),
        "BENCHMARK_LANDED": str(folder / "landed.jsonl"),
        "BENCHMARK_FILE": file_id,
        "BENCHMARK_BATCH": batch["id"],
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # or importing it waits for the internet
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


def upload_through_litellm(*, opened: bool) -> Callable[[], int]:
    litellm, source = _litellm(), Path(os.environ["BENCHMARK_SOURCE"])

    def transfer() -> int:
        if not opened:
            return litellm.create_file(file=source, purpose="batch", **_litellm_server()).bytes
        with source.open("rb") as stream:
            return litellm.create_file(file=stream, purpose="batch", **_litellm_server()).bytes

    return transfer


def download_through_litellm(*, stream: bool) -> Callable[[], int]:
    litellm, landed = _litellm(), Path(os.environ["BENCHMARK_LANDED"])

    def transfer() -> int:
        answer = litellm.file_content(file_id=os.environ["BENCHMARK_FILE"], stream=stream, **_litellm_server())
        with landed.open("wb") as file:
            return sum(file.write(block) for block in (answer.stream_iterator if stream else [answer.content]))

    return transfer


def _hook():  # noqa: ANN202 - its type would import the hook, and its memory, on the peer's side too
    from airflow_provider_llmbatch.hooks.batch import LLMBatchHook

    hook = LLMBatchHook()
    assert hook.adapter.provider == "openai"
    return hook


def _openai():  # noqa: ANN202 - likewise
    from openai import OpenAI

    return OpenAI(base_url=os.environ["BENCHMARK_URL"], api_key=KEY)


def _litellm():  # noqa: ANN202 - likewise
    import litellm

    # Its first call imports most of it, which is not to count as a transfer.
    litellm.file_retrieve(os.environ["BENCHMARK_FILE"], **_litellm_server())
    return litellm


def _litellm_server() -> dict[str, str]:
    return {"custom_llm_provider": "openai", "api_base": os.environ["BENCHMARK_URL"], "api_key": KEY}


OURS = {
    "upload: LLMBatchHook.create_file, checked": upload_through_hook,
    "upload: adapter alone": upload_through_adapter,
    "download: adapter.file_content": download_through_adapter,
    "download: LLMBatchDownloadResultsOperator, merged": download_results,
}
OPENAI = {
    "upload: openai files.create": upload_through_openai,
    "download: openai files.content": lambda: download_through_openai(whole=True),
    "download: openai files.content, streaming response": lambda: download_through_openai(whole=False),
}
LITELLM = {
    "upload: litellm.create_file, a path": lambda: upload_through_litellm(opened=False),
    "upload: litellm.create_file, an open file": lambda: upload_through_litellm(opened=True),
    "download: litellm.file_content": lambda: download_through_litellm(stream=False),
    "download: litellm.file_content, stream": lambda: download_through_litellm(stream=True),
}
SIDES = {**OURS, **OPENAI, **LITELLM}


if __name__ == "__main__":
    sys.exit(main())
