"""What a row costs as the input grows: stage, land and publish, from 10,000 rows to 10 million, in fresh processes.

Rows of 200 bytes and their answers are made on the fly, so that no server and no file of ours stands in the way: an
adapter without a network answers each part in an order of its own. Parts are as OpenAI takes them. Time is of the
process, less what making rows and answers takes; memory is the highest resident set (VmHWM) less that at the start,
when everything is imported. Linear growth is a flat line of time per row, constant memory a flat line of megabytes.
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
from typing import TYPE_CHECKING, Any

from report import Row, add_json_option, end_well_when_told_to, publish, versions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
STEPS = ("stage", "land", "publish")
ROW_BYTES = 200
MAX_MEGABYTES = 64
MAX_GROWTH = 1.25  # of the time per row, from the smallest input that fills a part to the largest
FULL_PART = 50_000
TEXT = "The parcel came late but whole, and the colour is not what I saw on the page; would I buy it again? Hardly. "
BLOCK_ROWS = 500


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=SIZES, help="sizes of the input (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where to work: 2 kB for each row (default: a temporary folder)")
    parser.add_argument("--plot", type=Path, metavar="PATH", help="draw the curves there, if matplotlib is installed")
    parser.add_argument("--from-json", type=Path, metavar="PATH", help="only draw what was measured before")
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)  # how this script starts itself
    add_json_option(parser)
    options = parser.parse_args()
    if options.count:
        json.dump(measured(options.count, options.folder), sys.stdout)
        return 0
    if options.from_json:
        return draw(json.loads(options.from_json.read_text()), options.plot)

    end_well_when_told_to()
    found = {}
    for count in sorted(options.rows):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            command = [sys.executable, __file__, "--count", str(count), "--folder", folder]
            child = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found[count] = json.loads(child.stdout.splitlines()[-1])
            print(f"{count:,} rows: {found[count]}", file=sys.stderr)
    title = f"Growth: rows of {ROW_BYTES} bytes, staged, landed and published"
    code = publish(title, versions("airflow-provider-llmbatch", "msgspec"), rows_of(found), options.json)
    if options.plot:
        draw(
            {"rows": [{"name": f"{count:,}", "figures": figures_of(run)} for count, run in found.items()]}, options.plot
        )
    return code


def figures_of(run: dict[str, float]) -> dict[str, float]:
    figures = {f"{step}, us a row": run[step] for step in STEPS}
    return {**figures, "all, us a row": sum(run[step] for step in STEPS), "peak MB above the start": run["MB"]}


def rows_of(found: dict[int, dict[str, float]]) -> list[Row]:
    base = next((sum(run[step] for step in STEPS) for count, run in found.items() if count >= FULL_PART), None)
    rows = []
    for count, run in found.items():
        figures = figures_of(run)
        linear = base is None or count < FULL_PART or figures["all, us a row"] < base * MAX_GROWTH
        target = f"{MAX_MEGABYTES} MB, linear"
        rows.append(Row(f"{count:,}", figures, target, linear and run["MB"] < MAX_MEGABYTES))
    return rows


def measured(count: int, folder: Path) -> dict[str, float]:
    """CPU microseconds a row of each step, and megabytes above the start."""
    import structlog
    from loopback import highest, resident  # not above, since what draws need not have httpx

    from airflow_provider_llmbatch.core.run.answers import land
    from airflow_provider_llmbatch.core.run.manifest import AttemptEntry, Fingerprints, RunFacts, RunIdentity
    from airflow_provider_llmbatch.core.run.publish import publish as publish_set
    from airflow_provider_llmbatch.core.run.requests import RequestTemplate
    from airflow_provider_llmbatch.core.run.stage import SplitLimits, write_stage
    from airflow_provider_llmbatch.core.storage import Folder
    from airflow_provider_llmbatch.models import Batch

    log = structlog.get_logger()
    template = RequestTemplate(prompt="Good or bad? {text}", model="gpt-5-mini", key="id")
    limits = SplitLimits(max_rows=FULL_PART, max_bytes=200_000_000)
    facts = RunFacts(
        run=RunIdentity(key="benchmark"),
        provider="generated",
        source="generated",
        fingerprints=Fingerprints(rows="", parameters=""),
        started_at=0,
    )
    adapter, clock = Answering(), Clock()
    memory = resident()

    stage = clock.timed(
        lambda: write_stage(Folder(folder / "stage"), template.rows(records(count, clock)), limits=limits, log=log)
    )
    took = {"stage": clock.taken()}

    def land_all() -> dict[int, list[AttemptEntry]]:
        attempts = {}
        for part in stage.parts:
            ordinals = stage.ordinals(part)
            adapter.asked, adapter.clock = ordinals, clock
            batch = Batch.model_validate(
                {"id": f"batch_{part.number}", "status": "completed", "output_file_id": "file"}
            )
            landed = land(adapter, batch, part=part.number, attempt=1, ordinals=ordinals, folder=stage.folder, log=log)
            assert landed.outcomes == {"succeeded": part.rows}, landed.outcomes
            attempts[part.number] = [AttemptEntry(attempt=1, batch_id=batch.id, usage=landed.usage)]
        return attempts

    attempts = clock.timed(land_all)
    took["land"] = clock.taken()
    manifest = clock.timed(
        lambda: publish_set(
            stage,
            Folder(folder / "out"),
            answers=stage.folder,
            attempts=attempts,
            facts=facts,
            publish_id="p",
            published_at=0,
        )
    )
    took["publish"] = clock.taken()
    assert manifest.outcomes == {"succeeded": count}, manifest.outcomes
    return {**{step: seconds / count * 1e6 for step, seconds in took.items()}, "MB": highest() - memory}


class Clock:
    """CPU seconds of steps, less those of what is made on the fly."""

    def __init__(self) -> None:
        self._taken = self._made = 0.0

    def timed(self, step: Callable[[], Any]) -> Any:
        start = time.process_time()
        found = step()
        self._taken = time.process_time() - start
        return found

    def taken(self) -> float:
        taken, self._made = self._taken - self._made, 0.0
        return taken

    def making(self, make: Callable[[], Any]) -> Any:
        start = time.thread_time()
        made = make()
        self._made += time.thread_time() - start
        return made


def records(count: int, clock: Clock) -> Iterator[Any]:
    from airflow_provider_llmbatch.core.run.sources import Origin, Record

    origin = Origin("generated")

    def some(first: int) -> list[Record]:
        numbers = range(first, min(first + BLOCK_ROWS, count))
        return [Record(record_of(number), origin, number + 1) for number in numbers]

    for first in range(0, count, BLOCK_ROWS):
        yield from clock.making(lambda first=first: some(first))


def record_of(number: int) -> bytes:
    head = b'{"id":%d,"text":"' % number
    return b'%b%b"}' % (head, TEXT.encode().ljust(ROW_BYTES, b".")[: ROW_BYTES - len(head) - 2])


class Answering:
    """As much of an adapter as landing needs: an answer for each row, in no order that anybody would guess."""

    provider = "generated"
    names_unexecuted = True
    verifies_downloads = True

    def __init__(self) -> None:
        self.asked: Any = ()
        self.clock = Clock()

    def file_content(self, _: str) -> Iterator[bytes]:
        count, asked = len(self.asked), self.asked
        stride = next(stride for stride in (7_919, 7_907, 7_901) if count % stride)

        def some(first: int) -> bytes:
            numbers = range(first, min(first + BLOCK_ROWS, count))
            return b"".join(answer_to(asked[number * stride % count]) for number in numbers)

        for first in range(0, count, BLOCK_ROWS):
            yield self.clock.making(lambda first=first: some(first))


ANSWER = {
    "id": "chatcmpl-0123456789",
    "object": "chat.completion",
    "created": 1_700_000_000,
    "model": "gpt-5-mini-2025-08-07",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 60, "completion_tokens": 25, "total_tokens": 85},
}
ANSWER_END = json.dumps({"response": {"status_code": 200, "request_id": "req_1", "body": ANSWER}, "error": None})[1:]


def answer_to(ordinal: int) -> bytes:
    return b'{"id":"batch_req_%d","custom_id":"%d",%b\n' % (ordinal, ordinal, ANSWER_END.encode())


def draw(results: dict[str, Any], path: Path) -> int:
    try:
        import matplotlib as mpl
    except ImportError:
        print("matplotlib is not installed: nothing was drawn.", file=sys.stderr)
        return 1
    mpl.use("agg")
    from matplotlib import pyplot as plt

    counts = [int(row["name"].replace(",", "")) for row in results["rows"]]
    figures = [row["figures"] for row in results["rows"]]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), dpi=150)
    below = [0.0] * len(counts)
    for step, colour in zip(STEPS, ("#9ecae1", "#4292c6", "#08519c"), strict=True):
        above = [low + each[f"{step}, us a row"] for low, each in zip(below, figures, strict=True)]
        left.fill_between(counts, below, above, color=colour, label=step, linewidth=0)
        below = above
    left.plot(counts, below, color="black", marker="o", markersize=3, linewidth=1)
    left.set(xscale="log", ylim=(0, max(below) * 1.4), title="CPU microseconds a row", xlabel="rows")
    left.legend(loc="upper right", ncols=3, frameon=False, fontsize=8)
    right.plot(counts, [each["peak MB above the start"] for each in figures], color="black", marker="o", markersize=3)
    right.axhline(MAX_MEGABYTES, color="#cb181d", linewidth=1, linestyle="--")
    right.annotate(f"target: {MAX_MEGABYTES} MB", (counts[0], MAX_MEGABYTES + 1.5), color="#cb181d", fontsize=8)
    right.set(xscale="log", ylim=(0, MAX_MEGABYTES * 1.25), title="Peak memory above the start, MB", xlabel="rows")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", linewidth=0.4)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    print(f"Drawn: {os.path.relpath(path)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
