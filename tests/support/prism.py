"""Stoplight's Prism, which judges calls and answers by an OpenAPI description.

It stands as a proxy before a server, lets everything pass, and says in a header what violates the schema.
"""

from __future__ import annotations

import os
import subprocess
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

Violation = dict[str, Any]


@dataclass(frozen=True)
class Checked:
    """A call as Prism judged it.

    :param path: With ``{id}`` in the place of an id.
    """

    method: str
    path: str
    status: int
    violations: list[Violation]

    def of(self, side: str) -> list[tuple[str, str]]:
        """Where and how the ``request`` or the ``response`` violates the schema."""
        found = [each for each in self.violations if each["location"][0] == side]
        return [(".".join(each["location"][1:]), each["message"]) for each in found]


@contextmanager
def running_prism(schema: Path, upstream: str) -> Iterator[str]:
    """Prism as a proxy before a server; gives its address. Skips the test where Prism or the schema is not there."""
    given = os.environ.get("LLMBATCH_TEST_PRISM", "")
    missing = [what for what, there in (("Prism", Path(given).is_file()), (str(schema), schema.is_file())) if not there]
    if missing:
        assert os.environ.get("CI") != "true", f"{' and '.join(missing)} must be there in CI (make test, with npm)"
        pytest.skip(f"{' and '.join(missing)} not there; make test installs Prism where npm is")
    command = [given, "proxy", "--host", "127.0.0.1", "--port", "0", str(schema), upstream]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    # Read to the end, since it logs each call and would stop at a full pipe.
    rest = threading.Thread(target=process.stdout.read)
    try:
        said = ""
        while "is listening on " not in said.rpartition("\n")[2]:
            line = process.stdout.readline()
            assert line, f"Prism did not start: {said[-2000:]}"
            said += f"\n{line.rstrip()}"
        rest.start()
        yield said.rpartition(" ")[2]
    finally:
        process.kill()
        process.wait()
        if rest.ident is not None:
            rest.join()
        process.stdout.close()
