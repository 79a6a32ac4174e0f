"""Lines mapped to Gemini's and back, a second, beside LiteLLM's own mapping of Vertex AI's batches.

Every side maps the same lines in a fresh process that does nothing else, the sides in turn; what counts is the fastest
round, since what disturbs it only ever takes time away. The lines are typical: a prompt of 500 characters, without and
with a short schema; answers of 300 characters beside the echo of their request. LiteLLM's side is what its upload and
its download do for each line, without the transfer. It cannot stand beside Airflow, so it runs in a Python of its own.
A missing peer is a failure.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from report import Row, add_json_option, end_well_when_told_to, publish, version_in, versions

if TYPE_CHECKING:
    from collections.abc import Callable

LITELLM_PYTHON = Path(__file__).parents[1] / ".venv" / "litellm" / "bin" / "python"
AT_LEAST = 40_000
TIMES_LITELLM = 10
WAYS = ("to Gemini, plain", "to Gemini, with a schema", "from Gemini")
PROMPT = "How does the writer of this review feel? " + "The kettle is fine, but it took 3 weeks to come. " * 9
SCHEMA = {
    "type": "object",
    "properties": {"sentiment": {"type": "string", "enum": ["good", "bad"]}, "why": {"type": "string"}},
    "required": ["sentiment", "why"],
    "additionalProperties": False,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="fresh processes for each side (default: %(default)s)")
    parser.add_argument(
        "--litellm-python", type=Path, default=LITELLM_PYTHON, help="has LiteLLM installed (default: %(default)s)"
    )
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)  # how this script starts itself
    add_json_option(parser)
    options = parser.parse_args()
    if options.side:
        json.dump({way: rows_a_second(map_line, way) for way, map_line in SIDES[options.side]().items()}, sys.stdout)
        return 0
    about = versions("airflow-provider-llmbatch", "msgspec")
    found = version_in(options.litellm_python, "litellm")
    if found is None:
        print(f"The peer litellm is not installed in {options.litellm_python}. Nothing was measured.", file=sys.stderr)
        return 1
    about["litellm"] = found
    end_well_when_told_to()
    pythons = {"ours": sys.executable, "litellm": str(options.litellm_python)}
    runs: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for _ in range(options.rounds):
        for side, python in pythons.items():
            runs[side].append(in_fresh_process(side, python))
    rows = []
    for way in WAYS:
        ours, theirs = (max(run[way] for run in runs[side]) for side in ("ours", "litellm"))
        target = max(AT_LEAST, TIMES_LITELLM * theirs)
        figures = {"rows/s": f"{ours:,.0f}", "LiteLLM rows/s": f"{theirs:,.0f}", "times LiteLLM": ours / theirs}
        rows.append(Row(way, figures, f"{target:,.0f} rows/s", ours >= target))
    title = f"Mapping of lines to Vertex AI and back on one core, the fastest of {options.rounds} fresh processes"
    return publish(title, about, rows, options.json)


def in_fresh_process(side: str, python: str) -> dict[str, float]:
    environment = os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # or importing it waits for the internet
    child = subprocess.run(
        [python, __file__, "--side", side], check=True, stdout=subprocess.PIPE, text=True, env=environment
    )
    return json.loads(child.stdout.splitlines()[-1])


def rows_a_second(map_line: Callable[[bytes], object], way: str) -> float:
    """Of CPU time, so that a neighbour on the machine does not count; every line is another one."""
    count = 200
    lines = lines_of(way, count)
    map_line(lines[0])  # whatever is imported or made at the first line
    best = 0.0
    for _ in range(10):
        begun = time.process_time()
        for line in lines:
            map_line(line)
        best = max(best, count / (time.process_time() - begun))
    return best


def lines_of(way: str, count: int) -> list[bytes]:
    return [json.dumps(line_of(way, number)).encode() for number in range(count)]


def line_of(way: str, number: int) -> dict[str, Any]:
    if way == "from Gemini":
        return output_of(number)
    body: dict[str, Any] = {
        "model": "gemini-2.5-flash",
        "messages": [
            {"role": "system", "content": "Answer in one word."},
            {"role": "user", "content": f"{number}. {PROMPT}"},
        ],
        "temperature": 0,
        "max_tokens": 100,
    }
    if "schema" in way:
        schema = {"name": "verdict", "strict": True, "schema": SCHEMA}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return {"custom_id": f"row-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}


def output_of(number: int) -> dict[str, Any]:
    """As Vertex AI writes it; the labels are both sides' own, so that each finds its id."""
    custom_id = f"row-{number}"
    labels = {"llmbatch_id": custom_id, "litellm_custom_id": custom_id}
    contents = [{"role": "user", "parts": [{"text": PROMPT, "file_data": None, "inline_data": None}]}]
    details = [{"modality": "TEXT", "tokenCount": 120}]
    return {
        "status": "",
        "processed_time": "2026-11-13T14:04:28.376+00:00",
        "request": {"contents": contents, "generationConfig": {"temperature": 0, "topP": 0.95}, "labels": labels},
        "response": {
            "candidates": [
                {
                    "content": {"role": "model", "parts": [{"text": f"{number}. " + PROMPT[:300]}]},
                    "finishReason": "STOP",
                    "avgLogprobs": -0.21,
                }
            ],
            "usageMetadata": {
                "promptTokenCount": 120,
                "candidatesTokenCount": 70,
                "thoughtsTokenCount": 25,
                "totalTokenCount": 215,
                "promptTokensDetails": details,
                "candidatesTokensDetails": [{"modality": "TEXT", "tokenCount": 70}],
                "trafficType": "ON_DEMAND",
            },
            "modelVersion": "gemini-2.5-flash",
            "createTime": "2026-11-13T14:04:26.103871Z",
            "responseId": f"xTEVacL6Hf-{number}",
        },
    }


def our_side() -> dict[str, Callable[[bytes], bytes]]:
    from airflow_provider_llmbatch.adapters.vertex.requests import MappingSettings, RequestMapping
    from airflow_provider_llmbatch.adapters.vertex.responses import result_line

    map_line = RequestMapping(MappingSettings()).line
    mapped = json.loads(map_line(lines_of(WAYS[1], 1)[0]))["request"]
    assert mapped["generationConfig"]["responseJsonSchema"] == SCHEMA
    assert json.loads(result_line(lines_of(WAYS[2], 1)[0]))["response"]["body"]["usage"]["total_tokens"] == 215
    return dict(zip(WAYS, (map_line, map_line, result_line), strict=True))


def litellm_side() -> dict[str, Callable[[bytes], bytes]]:
    """The steps that its upload and its streaming download take for each line."""
    from litellm.llms.vertex_ai.files import transformation

    config = transformation.VertexAIFilesConfig()
    context = transformation._new_vertex_batch_output_row_transform_context()  # noqa: SLF001 - no public way to one line

    def to_gemini(line: bytes) -> bytes:
        stream = transformation._OpenAIToVertexBatchUploadStream(line, config._map_openai_to_vertex_params)  # noqa: SLF001
        return b"".join(stream.iter_bytes())

    def from_gemini(line: bytes) -> bytes:
        return config._transform_vertex_batch_output_line(line, context=context)  # noqa: SLF001

    # It passes on what it fails to map, which would be fast.
    assert json.loads(to_gemini(lines_of(WAYS[1], 1)[0]))["request"]["generationConfig"]
    assert json.loads(from_gemini(lines_of(WAYS[2], 1)[0]))["response"]["body"]["usage"]["prompt_tokens"] == 120
    return dict(zip(WAYS, (to_gemini, to_gemini, from_gemini), strict=True))


SIDES = {"ours": our_side, "litellm": litellm_side}


if __name__ == "__main__":
    sys.exit(main())
