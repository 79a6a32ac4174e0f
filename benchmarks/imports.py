"""What importing costs a DAG file: time and memory on top of ``airflow.sdk``, in fresh processes, beside the peers.

The base is what every DAG file has loaded already: ``airflow.sdk`` with its ``DAG`` and ``BaseOperator`` (the module
alone loads nothing by itself). Sides alternate, so that a busy moment of the machine hits all of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from report import Row, add_json_option, publish, version_in, versions

MAX_MILLISECONDS = 60
MAX_MEGABYTES = 6
SDKS = ("openai", "anthropic", "google.cloud", "google.genai", "azure", "boto3", "litellm", "pydantic_ai")
PACKAGE = "airflow_provider_llmbatch"
OPERATORS = [f"{PACKAGE}.operators.file", f"{PACKAGE}.operators.batch"]
OURS = {
    "operators": OPERATORS,
    "LLMBatchRunOperator": [f"{PACKAGE}.operators.run"],
    "triggers": [f"{PACKAGE}.triggers.batch"],
    "hooks": [f"{PACKAGE}.hooks.batch"],
    "hooks and adapter, as when a task runs": [f"{PACKAGE}.hooks.connections"],
    "all of these": [*OPERATORS, f"{PACKAGE}.triggers.batch", f"{PACKAGE}.hooks.connections"],
}
PEERS = {
    "apache-airflow-providers-openai": ["airflow.providers.openai.operators.openai"],
    "apache-airflow-providers-common-ai": ["airflow.providers.common.ai.operators.llm_batch"],
}

CHILD = """
import importlib, json, sys, time

def resident():  # bytes
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096

from airflow.sdk import DAG, BaseOperator
names = json.loads(sys.argv[1])
known, memory = set(sys.modules), resident()
start, cpu = time.perf_counter(), time.process_time()
for name in names:
    importlib.import_module(name)
seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
new = sorted(set(sys.modules) - known)
print(json.dumps({"ms": seconds * 1e3, "cpu": cpu * 1e3, "MB": (resident() - memory) / 1e6, "modules": new}))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15, help="fresh processes for each row (default: %(default)s)")
    peers = parser.add_mutually_exclusive_group(required=True)
    peers.add_argument("--peer-python", type=Path, help="a Python that has the same Airflow and the peers installed")
    peers.add_argument("--without-peers", action="store_true", help="only our own modules")
    add_json_option(parser)
    options = parser.parse_args()

    about = versions("apache-airflow", "airflow-provider-llmbatch")
    sides = {name: (sys.executable, modules) for name, modules in OURS.items()}
    if options.without_peers:
        print("Without the peers, as asked.")
    else:
        about["apache-airflow of the peers"] = version_in(options.peer_python, "apache-airflow") or "not installed"
        for package, modules in PEERS.items():
            found = version_in(options.peer_python, package)
            if found is None:
                print(f"{package} is not installed in {options.peer_python}. Nothing was measured.", file=sys.stderr)
                return 1
            about[package] = found
            sides[package] = (str(options.peer_python), modules)

    for python, modules in sides.values():
        measure(python, modules)  # writes bytecode and warms the disk's cache
    measured: dict[str, list[dict]] = {name: [] for name in sides}
    for _ in range(options.runs):
        for name, (python, modules) in sides.items():
            measured[name].append(measure(python, modules))
    rows = [row_of(name, runs, ours=name in OURS) for name, runs in measured.items()]
    return publish(
        f"Imports on top of airflow.sdk, median of {options.runs} fresh processes", about, rows, options.json
    )


def measure(python: str, modules: list[str]) -> dict:
    child = subprocess.run([python, "-c", CHILD, json.dumps(modules)], check=True, capture_output=True, text=True)
    return json.loads(child.stdout.splitlines()[-1])


def row_of(name: str, runs: list[dict], *, ours: bool) -> Row:
    milliseconds = statistics.median(run["ms"] for run in runs)
    megabytes = statistics.median(run["MB"] for run in runs)
    loaded = [sdk for sdk in SDKS if any(m == sdk or m.startswith(f"{sdk}.") for m in runs[0]["modules"])]
    figures = {
        "ms": milliseconds,
        "of CPU ms": statistics.median(run["cpu"] for run in runs),
        "fastest ms": min(run["ms"] for run in runs),
        "MB": megabytes,
        "modules": str(len(runs[0]["modules"])),
        "provider SDKs": ", ".join(loaded) or "none",
    }
    if not ours:
        return Row(name, figures)
    reached = milliseconds < MAX_MILLISECONDS and megabytes < MAX_MEGABYTES and not loaded
    return Row(name, figures, f"{MAX_MILLISECONDS} ms, {MAX_MEGABYTES} MB, no SDK", reached)


if __name__ == "__main__":
    sys.exit(main())
