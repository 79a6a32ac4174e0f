"""Landing of 100,000 results (200 MB): from result files at a provider to one result set, in fresh processes.

Our side downloads both batches' files, gives each row its outcome and usage, joins it to the caller's key in the order
of the input, checks the sums and publishes set and manifest. The peers do what they have for it: common-ai writes rows
in the order in which they came and leaves the join to the user; LiteLLM sums cost and usage up and writes nothing.
All read from the same embedded server (a real process on loopback, engine ``echo``), which answers with its prompt: a
JSON object, so that the same answers also fit a schema. Memory is the highest resident set (VmHWM) less that before the
landing, when everything is imported. CPU seconds are the process's own. A missing peer is a failure.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loopback import KEY, cpu_seconds, highest, resident, run_batch, running_server
from report import Row, add_json_option, end_well_when_told_to, publish, version_in, versions

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

MAX_MEGABYTES = 64
MAX_CPU_SECONDS = 2.5
LINE_BYTES = 2_000
ROWS_PER_BATCH = 50_000
SCHEMA = {
    "type": "object",
    "properties": {"label": {"enum": ["good", "bad"]}, "why": {"type": "string"}},
    "required": ["label", "why"],
    "additionalProperties": False,
}
LITELLM_PYTHON = Path(__file__).parents[1] / ".venv" / "litellm" / "bin" / "python"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=int, default=100_000, help="rows to land (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="fresh processes for each side (default: %(default)s)")
    peers = parser.add_mutually_exclusive_group(required=True)
    peers.add_argument("--peer-python", type=Path, help="a Python with the same Airflow, and common-ai and openai")
    peers.add_argument("--without-peers", action="store_true", help="only our own sides")
    parser.add_argument(
        "--litellm-python", type=Path, default=LITELLM_PYTHON, help="has LiteLLM installed (default: %(default)s)"
    )
    parser.add_argument("--side", help=argparse.SUPPRESS)  # how this script starts itself
    parser.add_argument("--about", type=Path, help=argparse.SUPPRESS)
    add_json_option(parser)
    options = parser.parse_args()
    if options.side:
        json.dump(measured(options.side, json.loads(options.about.read_text())), sys.stdout)
        return 0

    pythons = dict.fromkeys(OURS, Path(sys.executable))
    about = versions("apache-airflow", "airflow-provider-llmbatch", "msgspec", "jsonschema", "pyarrow")
    if not options.without_peers:
        pythons |= dict.fromkeys(COMMON_AI, options.peer_python) | dict.fromkeys(LITELLM, options.litellm_python)
        for package, python in (
            ("apache-airflow-providers-common-ai", options.peer_python),
            ("litellm", options.litellm_python),
        ):
            found = version_in(python, package)
            if found is None:
                print(f"The peer {package} is not installed in {python}. Nothing was measured.", file=sys.stderr)
                return 1
            about[package] = found
    end_well_when_told_to()
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in pythons}
    with tempfile.TemporaryDirectory() as name, running_server(Path(name)) as server, server.client() as client:
        folder = Path(name)
        prepare(folder, server.url, client, options.results, peers=not options.without_peers)
        for _ in range(options.rounds):
            for side, python in pythons.items():
                runs[side].append(in_fresh_process(side, python, folder))
        size = json.loads((folder / "about.json").read_text())["bytes"]
    rows = [row_of(side, found) for side, found in runs.items()]
    title = f"Landing of {options.results:,} results ({size:,} bytes), the worst memory of {options.rounds} processes"
    return publish(title, about, rows, options.json)


def row_of(side: str, runs: list[dict[str, float]]) -> Row:
    """The highest memory, and the fastest time: what disturbs it only ever adds to it."""
    peak = max(run["MB"] for run in runs)
    seconds, cpu = min(run["seconds"] for run in runs), min(run["cpu"] for run in runs)
    figures = {"least CPU s": cpu, "fastest s": seconds, "peak MB above the start": peak}
    figures["bytes written"] = f"{int(runs[0]['bytes']):,}"
    if side != TARGETED:
        return Row(side, figures)
    target = f"{MAX_CPU_SECONDS} s of CPU, {MAX_MEGABYTES} MB"
    return Row(side, figures, target, cpu < MAX_CPU_SECONDS and peak < MAX_MEGABYTES)


def in_fresh_process(side: str, python: Path, folder: Path) -> dict[str, float]:
    command = [str(python), __file__, "--without-peers", "--side", side, "--about", str(folder / "about.json")]
    environment = {
        "AIRFLOW_HOME": str(folder / "airflow"),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # or importing it waits for the internet
    }
    child = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment})
    shutil.rmtree(folder / "out", ignore_errors=True)
    return json.loads(child.stdout.splitlines()[-1])


def prepare(folder: Path, url: str, client: httpx.Client, count: int, *, peers: bool) -> None:
    """Stage the input, run its batches, and the same for the peer that needs ids of its own."""
    import structlog

    from airflow_provider_llmbatch.core.run.requests import Row as InputRow
    from airflow_provider_llmbatch.core.run.sources import Origin
    from airflow_provider_llmbatch.core.run.stage import SplitLimits, write_stage
    from airflow_provider_llmbatch.core.storage import Folder

    origin = Origin("generated")
    body = json.dumps({"model": "echo", "messages": [{"role": "user", "content": answer_text()}]}).encode()
    rows = (
        InputRow(
            url="/v1/chat/completions",
            model="echo",
            body=body,
            source=b"",
            origin=origin,
            number=number + 1,
            key=b'"review-%d"' % number,
        )
        for number in range(count)
    )
    limits = SplitLimits(max_rows=ROWS_PER_BATCH, max_bytes=2**40)
    stage = write_stage(Folder(folder / "stage"), rows, limits=limits, log=structlog.get_logger())
    ours, theirs = [], []
    for part in stage.parts:
        path = folder / "stage" / part.requests_name()
        ours.append(batch_over(client, path))
        if peers:
            renamed = folder / "renamed.jsonl"
            with path.open("rb") as lines, renamed.open("wb") as stream:
                for index, line in enumerate(lines):
                    request = json.loads(line)
                    stream.write(json.dumps({**request, "custom_id": f"bench-{index}"}).encode() + b"\n")
            theirs.append({"id": batch_over(client, renamed)["id"], "rows": part.rows})
    files = [client.get(f"files/{batch['output_file_id']}").raise_for_status().json() for batch in ours]
    about = {"url": url, "folder": str(folder), "ours": ours, "theirs": theirs, "rows": count}
    (folder / "about.json").write_text(json.dumps({**about, "bytes": sum(file["bytes"] for file in files)}))


def answer_text() -> str:
    """What makes a result line of the embedded server some 2,000 bytes long."""
    return json.dumps({"label": "good", "why": "The parcel came late but whole. " * ((LINE_BYTES - 560) // 32)})


def batch_over(client: httpx.Client, path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        files = {"file": ("input.jsonl", stream, "application/jsonl")}
        file = client.post("files", data={"purpose": "batch"}, files=files).raise_for_status().json()
    return run_batch(client, file["id"])


def measured(side: str, about: dict[str, Any]) -> dict[str, float]:
    """Make the side ready, then run it; returns bytes written, megabytes above the start, seconds and CPU seconds."""
    land = SIDES[side](about)
    memory, seconds, cpu = resident(), time.perf_counter(), cpu_seconds()
    size = land()
    return {
        "bytes": size,
        "MB": highest() - memory,
        "seconds": time.perf_counter() - seconds,
        "cpu": cpu_seconds() - cpu,
    }


def ours(
    about: dict[str, Any], *, response_format: Any = None, kind: str = "jsonl", priced: bool = True
) -> Callable[[], int]:
    import structlog

    from airflow_provider_llmbatch.adapters.openai import OpenAIAdapter, OpenAISettings
    from airflow_provider_llmbatch.core.costs.prices import Prices
    from airflow_provider_llmbatch.core.costs.table import price_table
    from airflow_provider_llmbatch.core.run.answers import land
    from airflow_provider_llmbatch.core.run.manifest import AttemptEntry, Fingerprints, RunFacts, RunIdentity
    from airflow_provider_llmbatch.core.run.publish import publish as publish_set
    from airflow_provider_llmbatch.core.run.shape import shape_of
    from airflow_provider_llmbatch.core.run.stage import Stage
    from airflow_provider_llmbatch.core.run.tables import check_format
    from airflow_provider_llmbatch.core.storage import Folder
    from airflow_provider_llmbatch.models import Batch

    folder = Path(about["folder"])
    stage, output = Stage.open(Folder(folder / "stage")), Folder(folder / "out")
    assert stage is not None
    adapter = OpenAIAdapter(OpenAISettings(api_key=KEY, base_url=about["url"]))
    batches = [Batch.model_validate(batch) for batch in about["ours"]]
    shape = shape_of(model() if response_format == "model" else response_format) if response_format else None
    facts = RunFacts(
        run=RunIdentity(key="benchmark"),
        provider="openai",
        source="generated",
        fingerprints=Fingerprints(rows="", parameters=""),
        started_at=0,
    )
    check_format(kind)
    prices = Prices("openai", price_table({"models": {"echo": {"model": "gpt-5-mini"}}}, name="of the benchmark"))
    if priced:
        assert prices.of("echo", time.time()) is not None  # imports the published prices

    def run() -> int:
        attempts, bills = {}, {}
        for part, batch in zip(stage.parts, batches, strict=True):
            landed = land(
                adapter,
                batch,
                part=part.number,
                attempt=1,
                ordinals=stage.ordinals(part),
                folder=stage.folder,
                shape=shape,
                prices=prices if priced else None,
                log=structlog.get_logger(),
            )
            bills[batch.id] = landed.costs
            entry = AttemptEntry(attempt=1, batch_id=batch.id, outcomes=dict(landed.outcomes), usage=landed.usage)
            attempts[part.number] = [entry]
        manifest = publish_set(
            stage,
            output,
            answers=stage.folder,
            attempts=attempts,
            bills=bills,
            facts=facts,
            publish_id="benchmark",
            published_at=0,
            kind=kind,
        )
        assert manifest.outcomes == {"succeeded": about["rows"]}, manifest.outcomes
        assert manifest.usage.total_tokens > 0
        assert bool(manifest.costs.total_usd) == priced
        return sum(part.bytes for part in manifest.parts)

    return run


def published_prices(about: dict[str, Any]) -> Callable[[], int]:
    """Once for each process that lands something, at the first price that is looked up."""
    import httpx  # as the adapters have it

    from airflow_provider_llmbatch.core.costs.prices import Prices

    del about, httpx

    def run() -> int:
        assert Prices("openai").of("gpt-5-mini", time.time()) is not None
        return 0

    return run


def download(about: dict[str, Any]) -> Callable[[], int]:
    """The bytes alone, to a file: what all sides have in common."""
    from airflow_provider_llmbatch.adapters.openai import OpenAIAdapter, OpenAISettings

    adapter = OpenAIAdapter(OpenAISettings(api_key=KEY, base_url=about["url"]))

    def run() -> int:
        with (Path(about["folder"]) / "downloaded").open("wb") as stream:
            files = [batch["output_file_id"] for batch in about["ours"]]
            return sum(stream.write(block) for file in files for block in adapter.file_content(file))

    return run


def model() -> Any:
    from typing import Literal

    from pydantic import create_model

    return create_model("Answer", label=(Literal["good", "bad"], ...), why=(str, ...))


def common_ai(about: dict[str, Any], *, structured: bool) -> Callable[[], int]:
    from airflow.providers.common.ai.batch.openai import OpenAIBatchAdapter
    from airflow.providers.common.ai.batch.output_schema import build_output_spec
    from airflow.providers.common.ai.batch.results import stream_results_to_jsonl
    from airflow.sdk import ObjectStoragePath

    adapter = OpenAIBatchAdapter(api_key=KEY, base_url=about["url"])
    next(adapter.iter_results(about["theirs"][0]["id"]))  # the client's first calls import most of it
    spec = build_output_spec(model() if structured else str)
    folder = Path(about["folder"]) / "out"

    def run() -> int:
        size = 0
        for number, batch in enumerate(about["theirs"]):
            landed = folder / f"{number}.jsonl"
            counts, _ = stream_results_to_jsonl(
                adapter=adapter,
                batch_id=batch["id"],
                output_spec=spec,
                request_count=batch["rows"],
                custom_id_prefix="bench",
                destination=ObjectStoragePath(f"file://{landed}"),
            )
            assert counts["success"] == batch["rows"], counts
            size += landed.stat().st_size
        return size

    return run


def litellm_cost(about: dict[str, Any]) -> Callable[[], int]:
    import asyncio

    import litellm
    from litellm.batches.batch_utils import handle_completed_batch
    from litellm.types.utils import LiteLLMBatch

    server = {"api_base": about["url"], "api_key": KEY}
    litellm.file_retrieve(about["ours"][0]["output_file_id"], custom_llm_provider="openai", **server)
    # Its price list knows no model called echo, and a line without a price is another path.
    prices = {"input_cost_per_token": 1e-6, "output_cost_per_token": 1e-6, "litellm_provider": "openai", "mode": "chat"}
    litellm.register_model({"echo": prices})
    batches = [LiteLLMBatch(**batch) for batch in about["ours"]]

    def run() -> int:
        for batch in batches:
            found = asyncio.run(handle_completed_batch(batch, "openai", "echo", litellm_params=server))
            assert found.usage.total_tokens > 0, found
        return 0

    return run


TARGETED = "land, price and publish, JSON lines"
OURS = {
    TARGETED: ours,
    "the same without prices": lambda about: ours(about, priced=False),
    "import of the published prices": published_prices,
    "land and publish, JSON schema": lambda about: ours(about, response_format=SCHEMA),
    "land and publish, Pydantic model": lambda about: ours(about, response_format="model"),
    "land and publish, Parquet": lambda about: ours(about, kind="parquet"),
    "download alone": download,
}
COMMON_AI = {
    "common-ai: stream_results_to_jsonl": lambda about: common_ai(about, structured=False),
    "common-ai: the same, Pydantic model": lambda about: common_ai(about, structured=True),
}
LITELLM = {"litellm: handle_completed_batch": litellm_cost}
SIDES = {**OURS, **COMMON_AI, **LITELLM}


if __name__ == "__main__":
    sys.exit(main())
