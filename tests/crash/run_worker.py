"""Workers that try a run, and kill themselves with SIGKILL at a given step.

Steps are the boundaries of side effects: just before and just after each call to the ledger's store, to the provider,
and to the folders of stage and output. One process imports everything and forks a worker for each line on its standard
input, which is a JSON object of ``work``'s arguments; it answers with the worker's exit code.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from crash.faces import Address
from crash.tries import FIRST_MAX_TRIES, run_of, to_its_end

from airflow_provider_llmbatch.core.storage import Folder
from airflow_provider_llmbatch.errors import LLMBatchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    from airflow_provider_llmbatch.adapters.base import Adapter

RETRY = 75
"""The exit code of a worker whose try ended with an error that a retry may mend."""

_CALLS = ("create_file", "retrieve_file", "delete_file", "create_batch", "retrieve_batch", "list_batches", "list_files")


class Steps:
    """Counts steps, and dies at the one it is told, after naming it in a file.

    :param kill_at: A step's number from 1, or the name of one, whose first is meant.
    """

    def __init__(self, kill_at: int | str, report: Path) -> None:
        self.taken: list[str] = []
        self._kill_at = kill_at
        self._report = report

    def take(self, name: str) -> None:
        self.taken.append(name)
        if self._kill_at in (len(self.taken), name):
            self._report.write_text(json.dumps({"killed": name}))
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, subject: object, *names: str) -> None:
        """Take a step before and after each call of these methods."""
        for name in names:
            setattr(subject, name, self._stepping(getattr(subject, name), name))

    def _stepping(self, call: Callable[..., object], name: str) -> Callable[..., object]:
        def stepping(*args: object, **kwargs: object) -> object:
            self.take(f"before {name}")
            answer = call(*args, **kwargs)
            self.take(f"after {name}")
            return answer

        return stepping

    def around_writing(self) -> None:
        """The same for each file that a folder writes, and once more while it is being written."""
        write = Folder.write

        @contextmanager
        def stepping(folder: Folder, name: str) -> Iterator[BinaryIO]:
            self.take("before write")
            with write(folder, name) as stream:
                yield stream
                self.take("within write")
            self.take("after write")

        Folder.write = stepping  # type: ignore[method-assign] # in a process that ends with the test


def work(
    scenario: dict[str, Any],
    address: dict[str, Any],
    folder: str,
    report: str,
    *,
    try_number: int = 1,
    max_tries: int = FIRST_MAX_TRIES,
    kill_at: int | str = 0,
) -> int:
    """Try a run to its end; returns the exit code, and leaves the steps that it took in the report."""
    steps = Steps(kill_at, Path(report))
    adapter = adapter_at(Address(**address))
    look = adapter.retrieve_batch
    run = run_of(scenario, adapter, Path(folder), try_number=try_number, max_tries=max_tries)
    if not scenario["folder_store"]:
        steps.around(run.store, "get", "set")
    steps.around(adapter, *_CALLS)
    steps.around_writing()
    steps.around(Folder, "delete", "delete_tree")
    try:
        end = to_its_end(run, look)
    except LLMBatchError as error:
        traceback.print_exc()
        return RETRY if error.retriable else 1
    Path(report).write_text(json.dumps({"steps": steps.taken, "error": end.error and str(end.error)}))
    return 0


@cache
def adapter_at(address: Address) -> Adapter:
    if address.face == "vertex":
        import google.cloud.aiplatform_v1  # noqa: F401 - seconds, which each fork would spend anew
    return address.adapter()


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        adapter_at(Address(**order["address"]))  # before the fork, since it takes a while; it connects later
        pid = os.fork()
        if not pid:
            code = 2
            try:
                code = work(**order)
            except BaseException:  # noqa: BLE001 - the exit code tells, and the child must never read the next line
                traceback.print_exc()
            sys.stderr.flush()
            os._exit(code)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201 - what the campaign reads


if __name__ == "__main__":
    os.fsync = lambda _handle: None  # a process that is killed loses nothing that it wrote; only a machine does
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    main()
