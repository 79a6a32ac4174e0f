"""Peak memory and CPU of a process that reads a query's rows out of PostgreSQL, beside the cursor that Airflow's own
hook opens.

The server is the one of the tests. Every side runs in a fresh process of its own, through the hook of Airflow's
PostgreSQL provider. Memory is the highest resident set (VmHWM) less that at the start of the query, when everything is
imported. A missing provider is a failure.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from loopback import cpu_seconds, highest, resident
from report import Row, add_json_option, end_well_when_told_to, publish, version_in, versions

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # for the server, which the tests start too

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MAX_MEGABYTES = 64
PROVIDER = "apache-airflow-providers-postgres"
QUERY = "select id, text from reviews"
TEXT = "The parcel came late but whole, and the colour is not what I saw on the page; would I buy it again? Hardly. "


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of 200 bytes (default: %(default)s)")
    parser.add_argument("--side", help=argparse.SUPPRESS)  # how this script starts itself
    add_json_option(parser)
    options = parser.parse_args()
    if options.side:
        json.dump(measured(options.side), sys.stdout)
        return 0
    if version_in(sys.executable, PROVIDER) is None:
        print(f"{PROVIDER} is not installed in {sys.executable}. Nothing was measured.", file=sys.stderr)
        return 1
    end_well_when_told_to()
    from support.postgres import running_postgres

    found: dict[str, dict[str, float]] = {}
    with running_postgres() as database:
        with database.connect() as connection:
            connection.execute("create table reviews (id integer, text text)")
            text = (TEXT * 2)[:196]
            connection.execute(
                "insert into reviews select n, %s from generate_series(1, %s) n", [text, options.rows], prepare=False
            )
        environment = {**os.environ, "AIRFLOW_CONN_WAREHOUSE": database.airflow_connection()}
        for side in SIDES:
            command = [sys.executable, __file__, "--side", side]
            child = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
            found[side] = json.loads(child.stdout.splitlines()[-1])
            assert found[side].pop("rows") == options.rows, side
    rows = [
        Row(
            side,
            figures,
            f"{MAX_MEGABYTES} MB above the start" if side.startswith("query") else "",
            figures["MB above the start"] < MAX_MEGABYTES if side.startswith("query") else None,
        )
        for side, figures in found.items()
    ]
    about = versions("airflow-provider-llmbatch", "apache-airflow", PROVIDER, "psycopg", "psycopg2-binary")
    return publish(f"A query of {options.rows:,} rows of 200 bytes", about, rows, options.json)


def measured(side: str) -> dict[str, float]:
    from airflow_provider_llmbatch.hooks.sql import query_rows

    assert list(query_rows("warehouse", "select 1 as n")) == [{"n": 1}]  # imports what the query needs
    rows = SIDES[side]()
    base, busy, begin = resident(), cpu_seconds(), time.monotonic()
    count = sum(1 for _ in rows)
    return {
        "rows": count,
        "MB above the start": highest() - base,
        "CPU seconds": cpu_seconds() - busy,
        "seconds": time.monotonic() - begin,
    }


def with_driver(name: str) -> Callable[[], Iterable[object]]:
    def rows() -> Iterable[object]:
        from airflow.providers.postgres.hooks import postgres

        from airflow_provider_llmbatch.hooks.sql import query_rows

        postgres.USE_PSYCOPG3 = name == "psycopg"
        return query_rows("warehouse", QUERY)

    return rows


def of_the_hook() -> Iterable[object]:
    """What ``cursor()`` without a name does: the driver fetches the whole result."""
    from airflow.providers.postgres.hooks.postgres import PostgresHook

    def rows() -> Iterable[object]:
        with closing(PostgresHook("warehouse").get_conn()) as connection, closing(connection.cursor()) as cursor:
            cursor.execute(QUERY)
            yield from cursor

    return rows()


SIDES: dict[str, Callable[[], Iterable[object]]] = {
    "query=, psycopg": with_driver("psycopg"),
    "query=, psycopg2": with_driver("psycopg2"),
    "peer: the hook's own cursor": of_the_hook,
}

if __name__ == "__main__":
    sys.exit(main())
