"""One triggerer that waits for 10 to 10,000 batches, with our triggers and with the peers', each in a fresh process.

The batches lie in a real embedded server on loopback whose every answer takes 100 ms. A side begins to wait for all of
them, 50 at a time as Airflow does, with the intervals that its operator has by default; then they end, evenly spread
over the window. Calls are counted in the client that each side sends them with.

Lag is what a sleep of 10 ms on the event loop took longer, from the first trigger to the last event. Memory is the
resident set when all wait, less that before the first trigger, when everything is imported. The delay is from the end
of a batch at the server to the event. A peer whose last events do not come in time counts with that time. A missing
peer is a failure.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loopback import KEY, cpu_seconds, request_line, resident, running_server, upload
from report import Row, add_json_option, end_well_when_told_to, publish, version_in, versions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ANSWER_SECONDS = 0.1
AT_ONCE = 50  # triggers that Airflow's triggerer begins in one turn of its loop
SETTLED = 45.0
PATIENCE = 240.0
LARGEST_OF_PEERS = 1_000
MAX_LAG_MS = 20
MAX_KB = 20
BATCHES_PER_CALL = 50
OURS = "ours: LLMBatchTrigger"
OPENAI = "openai: OpenAIBatchTrigger"
COMMON_AI = "common-ai: LLMBatchTrigger"
SIDES = (OURS, OPENAI, COMMON_AI)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[10, 100, 1_000, 10_000], help="(%(default)s)")
    parser.add_argument("--window", type=float, default=60, help="seconds in which they end (default: %(default)s)")
    peers = parser.add_mutually_exclusive_group(required=True)
    peers.add_argument("--peer-python", type=Path, help="a Python with the same Airflow, and common-ai and openai")
    peers.add_argument("--without-peers", action="store_true", help="only our own side")
    parser.add_argument("--side", help=argparse.SUPPRESS)  # how this script starts itself
    parser.add_argument("--about", type=Path, help=argparse.SUPPRESS)
    add_json_option(parser)
    options = parser.parse_args()
    if options.side:
        answers = os.fdopen(os.dup(1), "w")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what the sides log would be measured along
        asyncio.run(waited(options.side, json.loads(options.about.read_text()), answers))
        return 0

    about = versions("apache-airflow", "airflow-provider-llmbatch", "httpx")
    pythons = {OURS: Path(sys.executable)}
    if not options.without_peers:
        pythons |= dict.fromkeys((OPENAI, COMMON_AI), options.peer_python)
        for package in ("apache-airflow-providers-openai", "apache-airflow-providers-common-ai"):
            found = version_in(options.peer_python, package)
            if found is None:
                print(f"{package} is not installed in {options.peer_python}. Nothing was measured.", file=sys.stderr)
                return 1
            about[package] = found
    end_well_when_told_to()
    rows: list[Row] = []
    for count in options.batches:
        found_of = {
            side: measured(side, python, count, options.window)
            for side, python in pythons.items()
            if side == OURS or count <= LARGEST_OF_PEERS
        }
        rows += [row_of(side, count, found, found_of) for side, found in found_of.items()]
    title = f"One triggerer process, answers after {ANSWER_SECONDS * 1000:.0f} ms, ends within {options.window:.0f} s"
    return publish(title, about, rows, options.json)


def row_of(side: str, count: int, found: dict[str, float], found_of: dict[str, dict[str, float]]) -> Row:
    name = f"{count:,} {side}"
    if side != OURS:
        return Row(name, found)
    targets = {}
    if count == 10_000:
        targets[f"{MAX_LAG_MS} ms at p99"] = found["lag p99 ms"] < MAX_LAG_MS
        targets[f"{MAX_KB} KB"] = found["KB each"] < MAX_KB
        targets[f"{BATCHES_PER_CALL} batches a call"] = found["batches per call and cycle"] >= BATCHES_PER_CALL
    peers = [figures for other, figures in found_of.items() if other != OURS]
    if count >= 100 and peers:
        targets["half of the peers' delay"] = found["delay p50 s"] <= min(each["delay p50 s"] for each in peers) / 2
        targets["a tenth of their calls"] = found["calls/min"] <= min(each["calls/min"] for each in peers) / 10
    missed = [target for target, reached in targets.items() if not reached]
    return Row(name, found, ", ".join(missed or targets), None if not targets else not missed)


def measured(side: str, python: Path, count: int, window: float) -> dict[str, float]:
    print(f"{count:,} {side} …", file=sys.stderr)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        faults = folder / "faults.json"
        faults.write_text(
            json.dumps({"calls": [{"fault": "delay", "method": "GET", "path": "batches", "seconds": ANSWER_SECONDS}]})
        )
        with running_server(folder, "--faults", str(faults)) as server, server.client() as client:
            source = folder / "input.jsonl"
            source.write_bytes(request_line(0, "Is it good?"))
            ids = batches_in_progress(folder / "data" / "server.sqlite", upload(client, source), count)
            about = folder / "about.json"
            about.write_text(json.dumps({"url": server.url, "batch_ids": ids}))
            with child(side, python, folder, about) as process:
                assert process.stdout is not None
                waiting = json.loads(process.stdout.readline())
                ends = end_all(folder / "data" / "server.sqlite", ids, window)
                try:
                    out, _ = process.communicate(timeout=PATIENCE)
                    told = json.loads(out)
                    is_whole = True
                except subprocess.TimeoutExpired:
                    process.terminate()
                    told = json.loads(process.communicate()[0])
                    is_whole = False
    now = time.time()
    delays = [told["events"].get(batch_id, now) - ends[batch_id] for batch_id in ids]
    lags = told["lags"]
    figures = {
        "lag p50 ms": statistics.median(lags) * 1000,
        "lag p99 ms": quantile(lags, 0.99) * 1000,
        "lag max ms": max(lags) * 1000,
        "calls/min": told["calls"] / told["seconds"] * 60,
        "CPU %": told["cpu"] / told["seconds"] * 100,
        "KB each": waiting["MB"] * 1000 / count,
        "delay p50 s": statistics.median(delays),
        "delay p99 s": quantile(delays, 0.99),
    }
    if waiting["cycles"]:
        figures["batches per call and cycle"] = count * waiting["cycles"] / waiting["calls"]
    if not is_whole:
        figures["never told"] = float(sum(batch_id not in told["events"] for batch_id in ids))
    return figures


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def batches_in_progress(database: Path, file_id: str, count: int) -> list[str]:
    """Batches that the server shows and nobody works on, so that nothing but its answers takes its time."""
    from airflow_provider_llmbatch.models import Batch
    from airflow_provider_llmbatch.server.store import new_id

    now = int(time.time())
    batches = [
        Batch(
            id=new_id("batch_"),
            status="in_progress",
            endpoint="/v1/chat/completions",
            input_file_id=file_id,
            completion_window="24h",
            created_at=now,
            in_progress_at=now,
            expires_at=now + 86_400,
            request_counts={"total": 1_000, "completed": 0, "failed": 0},
        )
        for _ in range(count)
    ]
    with sqlite3.connect(database) as connection:
        connection.executemany(
            "INSERT INTO batches (id, row) VALUES (?, ?)", [(batch.id, batch.model_dump_json()) for batch in batches]
        )
    connection.close()
    return [batch.id for batch in batches]


def end_all(database: Path, ids: Sequence[str], window: float) -> dict[str, float]:
    """End the batches in any order, evenly spread; returns when, in seconds since 1970."""
    order = random.Random(0).sample(ids, len(ids))
    start = time.time()
    ends = {}
    connection = sqlite3.connect(database, timeout=30)
    at = 0
    while at < len(order):
        due = min(int((time.time() - start) / window * len(order)) + 1, len(order))
        with connection:
            for batch_id in order[at:due]:
                ends[batch_id] = time.time()
                connection.execute(
                    "UPDATE batches SET row = json_set(row, '$.status', 'completed', '$.completed_at', ?, "
                    "'$.request_counts.completed', 1000) WHERE id = ?",
                    (int(ends[batch_id]), batch_id),
                )
        at = due
        time.sleep(0.05)
    connection.close()
    return ends


@contextmanager
def child(side: str, python: Path, folder: Path, about: Path) -> Iterator[subprocess.Popen[str]]:
    url = json.loads(about.read_text())["url"]
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(folder / "airflow"),
        "AIRFLOW_CONN_LLMBATCH_DEFAULT": json.dumps({"conn_type": "llmbatch_openai", "host": url, "password": KEY}),
        "AIRFLOW_CONN_OPENAI_DEFAULT": json.dumps({"conn_type": "openai", "host": url, "password": KEY}),
        "AIRFLOW_CONN_PYDANTICAI_DEFAULT": json.dumps({"conn_type": "pydanticai", "host": url, "password": KEY}),
    }
    command = [str(python), __file__, "--without-peers", "--side", side, "--about", str(about)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def waited(side: str, about: dict[str, Any], answers: Any) -> None:
    """Wait for all batches as a triggerer does; says once that all wait, and at the end what it took."""
    logging.disable(logging.CRITICAL)
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    calls = count_calls()
    ids: list[str] = about["batch_ids"]
    made = triggers(side, ids)
    memory, cpu, started = resident(), cpu_seconds(), time.monotonic()
    events: dict[str, float] = {}
    lags: list[float] = []
    probe = asyncio.create_task(measure_lag(lags))
    running = []
    for at in range(0, len(ids), AT_ONCE):
        for batch_id, trigger in zip(ids[at : at + AT_ONCE], made[at : at + AT_ONCE], strict=True):
            running.append(asyncio.create_task(until_event(trigger, batch_id, events)))
        await asyncio.sleep(0)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(15, stopped.set)
    await asyncio.sleep(max(SETTLED - (time.monotonic() - started), 0))
    told = {"MB": resident() - memory, "calls": calls["all"], "cycles": calls["first pages"]}
    print(json.dumps(told), file=answers, flush=True)
    everything = asyncio.gather(*running)
    stop = asyncio.create_task(stopped.wait())
    await asyncio.wait([everything, stop], return_when=asyncio.FIRST_COMPLETED)
    probe.cancel()
    told = {"events": events, "lags": lags, "calls": calls["all"], "seconds": time.monotonic() - started}
    print(json.dumps({**told, "cpu": cpu_seconds() - cpu}), file=answers, flush=True)
    os._exit(0)  # threads that are in a call would be waited for


async def measure_lag(lags: list[float]) -> None:
    while True:
        begun = time.perf_counter()
        await asyncio.sleep(0.01)
        lags.append(max(time.perf_counter() - begun - 0.01, 0))


async def until_event(trigger: Any, batch_id: str, events: dict[str, float]) -> None:
    async for _ in trigger.run():
        events[batch_id] = time.time()
        return


def count_calls() -> dict[str, int]:
    """Status calls, counted where each side sends them; a list's first page begins a cycle."""
    calls = {"all": 0, "first pages": 0}

    def count(client: Any) -> None:
        send = client.send

        def counting(self: Any, request: Any, **options: Any) -> Any:
            if request.method == "GET" and "/batches" in request.url.path:
                calls["all"] += 1
                calls["first pages"] += request.url.path.endswith("/batches") and "after" not in request.url.params
            return send(self, request, **options)

        client.send = counting

    for name in ("httpx", "httpx2"):  # OpenAI's client has moved to the latter
        with suppress(ModuleNotFoundError):
            count(import_module(name).Client)
    return calls


def triggers(side: str, ids: Sequence[str]) -> list[Any]:
    """What each side's operator defers to, with its own default interval."""
    day = 86_400.0
    if side == OURS:
        from airflow_provider_llmbatch.hooks.batch import LLMBatchHook
        from airflow_provider_llmbatch.triggers.batch import LLMBatchTrigger

        LLMBatchHook("llmbatch_default").adapter.close()  # imports what the first look would
        return [LLMBatchTrigger("llmbatch_default", batch_id, time.time() + day) for batch_id in ids]
    if side == OPENAI:
        from airflow.providers.openai.hooks.openai import OpenAIHook
        from airflow.providers.openai.triggers.openai import OpenAIBatchTrigger

        OpenAIHook("openai_default").get_conn()
        return [OpenAIBatchTrigger("openai_default", batch_id, poll_interval=60, timeout=day) for batch_id in ids]
    from airflow.providers.common.ai.batch.dispatch import build_adapter
    from airflow.providers.common.ai.triggers.llm_batch import LLMBatchTrigger as CommonAITrigger

    build_adapter("openai", llm_conn_id="pydanticai_default").close()
    return [
        CommonAITrigger(
            llm_conn_id="pydanticai_default",
            adapter="openai",
            batch_id=batch_id,
            poll_interval=60,
            end_time=time.time() + day,
            timeout=int(day),
            cancel_on_kill=True,
            cancel_on_timeout=True,
        )
        for batch_id in ids
    ]


if __name__ == "__main__":
    sys.exit(main())
