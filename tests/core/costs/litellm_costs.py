"""Runs where LiteLLM is installed, without the internet: what LiteLLM says that each line of a result file cost.

``litellm_costs.py RESULTS``; a line's ``custom_id`` begins with LiteLLM's name of its provider and a space. Writes its
version and, in the order of the lines, dollars as texts.
"""

from __future__ import annotations

import asyncio
import json
import sys
from importlib.metadata import version
from pathlib import Path

from litellm.batches.batch_utils import calculate_batch_cost_and_usage


async def main(lines: list[str]) -> None:
    costs = []
    for line in lines:
        entry = json.loads(line)
        found = await calculate_batch_cost_and_usage([entry], entry["custom_id"].split()[0])
        costs.append(repr(found.cost))
    json.dump({"version": version("litellm"), "costs": costs}, sys.stdout)


asyncio.run(main(Path(sys.argv[1]).read_text().splitlines()))
