"""Staging and upload of 50,000 requests of 2 KB (100 MB), in fresh processes; ``--growth``: staging alone, of ever more
rows of 200 bytes that are made on the fly.

Our side reads the input, makes and checks the requests, writes the stage (requests, keys and columns), and uploads it.
The peers do what they have for it: common-ai's operator takes a list, holds it, and uploads it from memory, checked for
its limits (and Airflow renders that list as a template first, which is measured apart); LiteLLM uploads a file that
somebody else has made, so making it with ``json`` counts as its own. All upload to the same embedded server (a real
process on loopback, engine ``echo``). Memory is the highest resident set (VmHWM) less that before, when everything is
imported. CPU seconds are the process's own. A missing peer is a failure.
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

from loopback import ENDPOINT, KEY, cpu_seconds, highest, resident, running_server
from report import Row, add_json_option, end_well_when_told_to, publish, version_in, versions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx

MAX_MEGABYTES = 64
MAX_CPU_SECONDS = 1.5
LINE_BYTES = 2_000
GROWTH_BYTES = 200
GROWTH_ROWS = (10_000, 100_000, 1_000_000, 10_000_000)
PROMPT = "Classify the sentiment of this review: {text}"
LITELLM_PYTHON = Path(__file__).parents[1] / ".venv" / "litellm" / "bin" / "python"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=50_000, help="of 2 KB each (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="fresh processes for each side (default: %(default)s)")
    kinds = parser.add_mutually_exclusive_group(required=True)
    kinds.add_argument("--peer-python", type=Path, help="a Python with the same Airflow, and common-ai and openai")
    kinds.add_argument("--without-peers", action="store_true", help="only our own sides")
    kinds.add_argument("--growth", action="store_true", help="stage rows of 200 bytes, ever more of them")
    parser.add_argument("--rows", type=int, nargs="+", default=GROWTH_ROWS, help="of the growth (default: %(default)s)")
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
    end_well_when_told_to()
    return growth(options) if options.growth else beside_peers(options)


def beside_peers(options: argparse.Namespace) -> int:
    pythons = dict.fromkeys(OURS, Path(sys.executable))
    about = versions("apache-airflow", "airflow-provider-llmbatch", "msgspec", "pyarrow")
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
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in pythons}
    with tempfile.TemporaryDirectory() as name, running_server(Path(name)) as server, server.client() as client:
        folder = Path(name)
        size = prepare(folder, server.url, options.requests)
        for _ in range(options.rounds):
            for side, python in pythons.items():
                runs[side].append(in_fresh_process(side, python, folder))
                check(side, client, options.requests)
    rows = [row_of(side, found) for side, found in runs.items()]
    title = f"Staging and upload of {options.requests:,} requests ({size:,} bytes of records), the worst memory of "
    return publish(f"{title}{options.rounds} processes", about, rows, options.json)


def growth(options: argparse.Namespace) -> int:
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for count in options.rows:
            (folder / "about.json").write_text(json.dumps({"folder": name, "rows": count}))
            run = in_fresh_process(GROWTH, Path(sys.executable), folder)
            figures: dict[str, float | str] = {
                "CPU s": run["cpu"],
                "s": run["seconds"],
                "CPU us a row": run["cpu"] / count * 1e6,
                "peak MB above the start": run["MB"],
                "bytes staged": f"{int(run['bytes']):,}",
            }
            rows.append(Row(f"{count:,} rows", figures, f"{MAX_MEGABYTES} MB", run["MB"] < MAX_MEGABYTES))
    title = f"Staging of rows of {GROWTH_BYTES} bytes that are made on the fly"
    return publish(title, versions("apache-airflow", "airflow-provider-llmbatch", "msgspec"), rows, options.json)


def row_of(side: str, runs: list[dict[str, float]]) -> Row:
    """The highest memory, and the fastest time: what disturbs it only ever adds to it."""
    peak = max(run["MB"] for run in runs)
    seconds, cpu = min(run["seconds"] for run in runs), min(run["cpu"] for run in runs)
    figures = {"least CPU s": cpu, "fastest s": seconds, "peak MB above the start": peak}
    if side not in TARGETED:
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


def check(side: str, client: httpx.Client, count: int) -> None:
    """What was uploaded is what was to be, line by line; then it is deleted."""
    if side in NOTHING_UPLOADED:
        return
    files = client.get("files", params={"limit": 100, "purpose": "batch"}).raise_for_status().json()["data"]
    assert len(files) == 1, f"{side}: {len(files)} files"
    content = client.get(f"files/{files[0]['id']}/content").raise_for_status().content
    assert content.count(b"\n") == count, side
    first, last = (json.loads(line) for line in (content[: content.index(b"\n")], content.splitlines()[-1]))
    for line, number in ((first, 0), (last, count - 1)):
        text = line["body"]["messages"][0]["content"]
        assert text == PROMPT.format(text=review(number)), f"{side}: {text[:80]}"
    client.delete(f"files/{files[0]['id']}").raise_for_status()


def review(number: int) -> str:
    """A text that makes a record of exactly 2,000 bytes."""
    beginning = f"Parcel {number:08} came late but whole. "
    return (beginning * 80)[: LINE_BYTES - len(json.dumps({"id": f"{number:08}", "text": ""})) - 1]


def prepare(folder: Path, url: str, count: int) -> int:
    """Write the same input as records and as ready lines; returns the bytes of the records."""
    records, ready = folder / "records.jsonl", folder / "ready.jsonl"
    with records.open("w") as plain, ready.open("w") as lines:
        for number in range(count):
            text = review(number)
            plain.write(json.dumps({"id": f"{number:08}", "text": text}) + "\n")
            body = {"model": "echo", "messages": [{"role": "user", "content": PROMPT.format(text=text)}]}
            line = {"custom_id": f"{number:08}", "method": "POST", "url": ENDPOINT, "body": body}
            lines.write(json.dumps(line) + "\n")
    write_parquet(records, folder / "records.parquet")
    (folder / "about.json").write_text(json.dumps({"url": url, "folder": str(folder), "rows": count}))
    return records.stat().st_size


def write_parquet(records: Path, path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet as pq

    with records.open() as lines:
        table = pa.Table.from_pylist([json.loads(line) for line in lines])
    pq.write_table(table, path, row_group_size=5_000)


def measured(side: str, about: dict[str, Any]) -> dict[str, float]:
    """Make the side ready, then run it; returns bytes, megabytes above the start, seconds and CPU seconds."""
    run = SIDES[side](about)
    memory, seconds, cpu = resident(), time.perf_counter(), cpu_seconds()
    size = run()
    return {
        "bytes": size,
        "MB": highest() - memory,
        "seconds": time.perf_counter() - seconds,
        "cpu": cpu_seconds() - cpu,
    }


def ours(about: dict[str, Any], *, source: str, ready: bool = False) -> Callable[[], int]:
    import structlog

    from airflow_provider_llmbatch.adapters.openai import OpenAIAdapter, OpenAISettings
    from airflow_provider_llmbatch.core.run.requests import RequestTemplate
    from airflow_provider_llmbatch.core.run.sources import FileSource, file_records
    from airflow_provider_llmbatch.core.run.stage import SplitLimits, write_stage
    from airflow_provider_llmbatch.core.storage import Folder

    if source.endswith(".parquet"):
        from pyarrow import parquet  # noqa: F401 - as everything else, before the start

    adapter = OpenAIAdapter(OpenAISettings(api_key=KEY, base_url=about["url"]))
    template = RequestTemplate() if ready else RequestTemplate(PROMPT, model="echo", key="id")
    folder = Path(about["folder"])
    file = FileSource(folder / source, source)
    log = structlog.wrap_logger(None, processors=[structlog.processors.KeyValueRenderer()], wrapper_class=None)
    limits = SplitLimits.of(adapter.limits)

    def run() -> int:
        records = file_records([file], columns=template.columns_needed)
        stage = write_stage(
            Folder(folder / "out", private=True),
            template.rows(records),
            limits=limits,
            check=getattr(adapter, "line_check", None),
            log=log,
        )
        for part in stage.parts:
            with stage.requests(part) as stream:
                adapter.create_file(stream, filename=f"{part.number}.jsonl")
        return stage.bytes

    return run


def growing(about: dict[str, Any]) -> Callable[[], int]:
    """From mappings, as a query or a callable gives them; the rows themselves cost about a microsecond each."""
    import structlog

    from airflow_provider_llmbatch.core.run.requests import RequestTemplate
    from airflow_provider_llmbatch.core.run.sources import given_records
    from airflow_provider_llmbatch.core.run.stage import SplitLimits, write_stage
    from airflow_provider_llmbatch.core.storage import Folder

    template = RequestTemplate("Classify: {text}", model="echo", key="id")
    limits = SplitLimits(max_rows=50_000, max_bytes=200_000_000)
    text = "x" * (GROWTH_BYTES - len('{"id":12345678,"text":""}'))

    def rows() -> Iterator[dict[str, object]]:
        for number in range(about["rows"]):
            yield {"id": 10_000_000 + number, "text": text}

    def run() -> int:
        stage = write_stage(
            Folder(Path(about["folder"]) / "out", private=True),
            template.rows(given_records(rows(), name="made up")),
            limits=limits,
            log=structlog.get_logger(),
        )
        assert stage.rows == about["rows"]
        return stage.bytes

    return run


def common_ai(about: dict[str, Any], *, rendered: bool) -> Callable[[], int]:
    """The operator itself, from a file of records to its deferral; or what Airflow does with its list before."""
    from types import SimpleNamespace

    from airflow.providers.common.ai.operators.llm_batch import LLMBatchOperator
    from airflow.sdk.exceptions import TaskDeferred

    connection = {"conn_type": "pydanticai", "host": about["url"], "password": KEY}
    os.environ["AIRFLOW_CONN_PYDANTICAI_DEFAULT"] = json.dumps(connection)
    instance = SimpleNamespace(
        dag_id="benchmark", task_id="classify", run_id=f"run-{os.getpid()}", map_index=-1, xcom_push=lambda **_: None
    )
    folder = Path(about["folder"])

    def run() -> int:
        with (folder / "records.jsonl").open() as lines:
            prompts = [PROMPT.format(text=json.loads(line)["text"]) for line in lines]
        operator = LLMBatchOperator(
            task_id="classify",
            requests=prompts,
            result_path=f"file://{folder}/out",
            llm_conn_id="pydanticai_default",
            model_id="openai:echo",
            deferrable=True,
        )
        if rendered:
            operator.render_template_fields({})
            return sum(map(len, operator.requests))
        try:
            operator.execute({"task_instance": instance, "ti": instance})
        except TaskDeferred:
            return sum(map(len, prompts))
        raise AssertionError("it was not deferred")

    return run


def litellm(about: dict[str, Any], *, made: bool) -> Callable[[], int]:
    import litellm

    server = {"custom_llm_provider": "openai", "api_base": about["url"], "api_key": KEY}
    # Its first call imports most of it, which is not to count.
    litellm.file_list(**server)
    folder = Path(about["folder"])

    def run() -> int:
        source = folder / "ready.jsonl"
        if made:
            (folder / "out").mkdir()
            source = folder / "out" / "lines.jsonl"
            with (folder / "records.jsonl").open() as records, source.open("w") as stream:
                for line in records:
                    record = json.loads(line)
                    messages = [{"role": "user", "content": PROMPT.format(text=record["text"])}]
                    body = {"model": "echo", "messages": messages}
                    request = {"custom_id": record["id"], "method": "POST", "url": ENDPOINT, "body": body}
                    stream.write(json.dumps(request) + "\n")
        with source.open("rb") as stream:
            return litellm.create_file(file=stream, purpose="batch", **server).bytes

    return run


OURS: dict[str, Callable[[dict[str, Any]], Callable[[], int]]] = {
    "stage and upload, records and a prompt": lambda about: ours(about, source="records.jsonl"),
    "stage and upload, ready lines": lambda about: ours(about, source="ready.jsonl", ready=True),
    "stage and upload, Parquet and a prompt": lambda about: ours(about, source="records.parquet"),
}
TARGETED = frozenset(list(OURS)[:2])
COMMON_AI = {
    "common-ai: LLMBatchOperator, a list of prompts": lambda about: common_ai(about, rendered=False),
    "common-ai: Airflow renders that list": lambda about: common_ai(about, rendered=True),
}
LITELLM = {
    "litellm: lines made with json, create_file": lambda about: litellm(about, made=True),
    "litellm: create_file of ready lines": lambda about: litellm(about, made=False),
}
NOTHING_UPLOADED = frozenset(list(COMMON_AI)[1:])
GROWTH = "stage rows made on the fly"
SIDES = {**OURS, **COMMON_AI, **LITELLM, GROWTH: growing}


if __name__ == "__main__":
    sys.exit(main())
