"""The embedded server with the engine ``echo``: requests per second, and its own memory for a file of 200 MB.

Each round starts a server of its own (a real process on loopback). Requests per second count from the creation of a
batch until it has completed, so validation and the result file are in it, and the upload is not. Memory is the server's
highest resident set (VmHWM) while it does one thing, less its resident set when it had just started; the client reads
and writes in blocks and has no part in it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from loopback import (
    cpu_seconds,
    forget_highest,
    highest,
    request_line,
    resident,
    run_batch,
    running_server,
    upload,
    write_requests,
)
from report import Row, add_json_option, end_well_when_told_to, publish, versions

if TYPE_CHECKING:
    from collections.abc import Callable

POLL_SECONDS = 0.05


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=50_000, help="short ones, in a batch (default: %(default)s)")
    parser.add_argument("--bytes", type=int, default=200_000_000, help="of the large file (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="each with a fresh server (default: %(default)s)")
    add_json_option(parser)
    options = parser.parse_args()

    end_well_when_told_to()
    speeds: list[dict[str, float]] = []
    peaks: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        short, large = folder / "short.jsonl", folder / "large.jsonl"
        short.write_bytes(b"".join(request_line(number, f"row {number}") for number in range(options.requests)))
        lines = write_requests(large, options.bytes)
        for number in range(options.rounds):
            speeds.append(speed(folder / f"speed-{number}", short, options.requests))
            peaks.append(memory(folder / f"memory-{number}", large, lines))
    title = (
        f"Server with the engine echo, {options.rounds} rounds: {options.requests:,} short requests, and "
        f"{options.bytes:,} bytes in {lines:,} lines"
    )
    about = versions("airflow-provider-llmbatch", "uvicorn", "fastapi")
    return publish(title, about, rows_of(speeds, peaks), options.json)


def rows_of(speeds: list[dict[str, float]], peaks: list[dict[str, float]]) -> list[Row]:
    rates = [run["requests/s"] for run in speeds]
    rows = [
        Row(
            "batch of short requests",
            {
                "median requests/s": statistics.median(rates),
                "fastest requests/s": max(rates),
                "least CPU s": min(run["cpu"] for run in speeds),
                "peak MB above the start": max(run["MB"] for run in speeds),
            },
        )
    ]
    for what in peaks[0]:
        peak = max(run[what] for run in peaks)
        dashes = dict.fromkeys(("median requests/s", "fastest requests/s", "least CPU s"), "")
        rows.append(Row(what, {**dashes, "peak MB above the start": peak}))
    return rows


def speed(folder: Path, source: Path, requests: int) -> dict[str, float]:
    with running_server(folder) as server, server.client() as client:
        start = resident(server.pid)
        file_id = upload(client, source)
        forget_highest(server.pid)
        begin, cpu = time.perf_counter(), cpu_seconds(server.pid)
        batch = run_batch(client, file_id, poll_seconds=POLL_SECONDS)
        seconds = time.perf_counter() - begin
        assert batch["request_counts"] == {"total": requests, "completed": requests, "failed": 0}, batch
        return {
            "requests/s": requests / seconds,
            "cpu": cpu_seconds(server.pid) - cpu,
            "MB": highest(server.pid) - start,
        }


def memory(folder: Path, source: Path, lines: int) -> dict[str, float]:
    """Megabytes above the start, for each thing that the server does with a large file."""
    with running_server(folder) as server, server.client() as client:
        start = resident(server.pid)
        peaks: dict[str, float] = {}

        def peak_of(what: str, act: Callable[[], object]) -> object:
            forget_highest(server.pid)
            done = act()
            peaks[what] = highest(server.pid) - start
            return done

        def download(file_id: str) -> int:
            with client.stream("GET", f"files/{file_id}/content") as answer:
                answer.raise_for_status()
                return sum(len(block) for block in answer.iter_raw())

        file_id = str(peak_of("upload of the large file", lambda: upload(client, source)))
        size = peak_of("download of the large file", lambda: download(file_id))
        assert size == source.stat().st_size, size
        batch = peak_of("batch over the large file", lambda: run_batch(client, file_id))
        assert isinstance(batch, dict)
        assert batch["request_counts"] == {"total": lines, "completed": lines, "failed": 0}, batch
        peak_of("download of its results", lambda: download(batch["output_file_id"]))
        return peaks


if __name__ == "__main__":
    sys.exit(main())
