"""A worker that submits one file and one batch, and kills itself with SIGKILL at a given step.

Steps are the boundaries of side effects: just before and just after each call to the ledger's store and to the
provider.

    python worker.py URL KEY LEDGER INPUT TRY KILL_AT

With ``WORKER_BUCKET`` and ``WORKER_STORAGE`` in its environment it calls Vertex AI, and KEY is the path of a key.
Prints the batch id if it lives to the end, and the number of steps that it took.

Without arguments it imports everything once and forks a worker for each line on its standard input, a JSON list of
arguments; it answers with the worker's exit code, and what that one said is in ``stdout`` and ``stderr`` beside LEDGER.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from support.stores import FileStore

from airflow_provider_llmbatch.adapters.http import ssl_context
from airflow_provider_llmbatch.adapters.openai import OpenAIAdapter, OpenAISettings
from airflow_provider_llmbatch.adapters.vertex.adapter import VertexAdapter
from airflow_provider_llmbatch.adapters.vertex.credentials import Identity
from airflow_provider_llmbatch.adapters.vertex.settings import VertexSettings
from airflow_provider_llmbatch.core.jsonl import check_requests
from airflow_provider_llmbatch.core.ledger import BatchRecord, FileRecord, Ledger
from airflow_provider_llmbatch.core.submit import Attempt, BatchJob, Slot, Timing, submit_batch
from airflow_provider_llmbatch.core.upload import submit_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_llmbatch.adapters.base import Adapter


class Steps:
    def __init__(self, kill_at: int) -> None:
        self.taken = 0
        self._kill_at = kill_at

    def take(self) -> None:
        self.taken += 1
        if self.taken == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, subject: object, *names: str) -> None:
        """Take a step before and after each call of these methods."""
        for name in names:
            setattr(subject, name, self._stepping(getattr(subject, name)))

    def _stepping(self, call: Callable[..., object]) -> Callable[..., object]:
        def stepping(*args: object, **kwargs: object) -> object:
            self.take()
            answer = call(*args, **kwargs)
            self.take()
            return answer

        return stepping


def adapter_of(url: str, key: str) -> Adapter:
    bucket, storage = os.environ.get("WORKER_BUCKET"), os.environ.get("WORKER_STORAGE")
    if bucket is None:
        return OpenAIAdapter(OpenAISettings(api_key=key, base_url=url))
    identity = Identity(key_path=key)
    return VertexAdapter(
        VertexSettings("us-central1", bucket, "analytics", identity, endpoint=url, storage_url=storage)
    )


def main(url: str, key: str, ledger: str, source: str, try_number: str, kill_at: str) -> None:
    steps = Steps(int(kill_at))
    store = FileStore(Path(ledger))
    adapter = adapter_of(url, key)
    steps.around(store, "get", "set")
    steps.around(adapter, "create_file", "retrieve_file", "create_batch", "retrieve_batch", "cancel_batch")
    slot = Slot("https://airflow.test", "dag", "run", "task")
    attempt = Attempt(int(try_number), max_tries=50)
    log = structlog.get_logger()
    with Path(source).open("rb") as stream:
        checked = check_requests(stream, name=source, limits=adapter.limits, line_check=adapter.line_check())
        stream.seek(0)
        records = Ledger(store, "file", FileRecord, durable=True)
        file = submit_file(adapter, records, slot, stream, checked, attempt=attempt, log=log)
    batches = Ledger(store, "batch", BatchRecord, durable=True)
    job = BatchJob(file.id, checked.endpoint)
    batch = submit_batch(adapter, batches, slot, job, attempt=attempt, timing=Timing(listing_lag=0.0), log=log)
    print(batch.id, steps.taken)  # noqa: T201 - what the test reads


def forked(arguments: list[str]) -> int:
    """The exit code of a worker in a process of its own."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            for stream in (sys.stdout, sys.stderr):
                with Path(arguments[2]).with_name(stream.name.strip("<>")).open("wb") as said:
                    os.dup2(said.fileno(), stream.fileno())
            main(*arguments)
            code = 0
        except BaseException:  # noqa: BLE001 - the exit code tells, and the child must never read the next line
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    if sys.argv[1:]:
        main(*sys.argv[1:])
    ssl_context(None)  # once, since it takes a while
    for line in () if sys.argv[1:] else sys.stdin:
        print(forked(json.loads(line)), flush=True)  # noqa: T201 - what the test reads
