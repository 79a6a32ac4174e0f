"""A query on a real PostgreSQL, through the hook of Airflow's own provider and each of its two drivers."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from itertools import islice
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.postgres.hooks import postgres as airflow_postgres
from support.postgres import Database, running_postgres

from airflow_provider_llmbatch.errors import BatchInputError, StorageError
from airflow_provider_llmbatch.hooks.sql import query_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

ROWS = 5_000
QUERY = "select id, text from reviews order by id"


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    with running_postgres() as database, database.connect() as connection:
        connection.execute("create table reviews (id integer, text text)")
        connection.execute("insert into reviews select n, 'text ' || n from generate_series(1, %s) n", [ROWS])
        yield database


@pytest.fixture(params=["psycopg", "psycopg2"], autouse=True)
def driver(request: pytest.FixtureRequest, database: Database, monkeypatch: pytest.MonkeyPatch) -> str:
    """The connection ``warehouse``; which driver the provider uses, it decides by the version of SQLAlchemy."""
    monkeypatch.setattr(airflow_postgres, "USE_PSYCOPG3", request.param == "psycopg")
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", database.airflow_connection())
    name: str = request.param
    return name


def at_work(database: Database) -> list[tuple[int, str, str]]:
    """Other connections: the process of each, its state, and what it was asked last."""
    with database.connect() as connection:
        return connection.execute(
            "select pid, state, query from pg_stat_activity where backend_type = 'client backend' "
            "and pid <> pg_backend_pid() and query like '%llmbatch_%'"
        ).fetchall()


def test_the_rows_stay_in_the_database_until_they_are_fetched(database: Database) -> None:
    rows = query_rows("warehouse", QUERY)
    assert next(rows) == {"id": 1, "text": "text 1"}
    [(_, state, query)] = at_work(database)
    assert (state, query.split('"')[0].strip()) == ("idle in transaction", "FETCH FORWARD 1000 FROM")
    assert [row["id"] for row in rows] == list(range(2, ROWS + 1))
    assert at_work(database) == []


def test_a_query_that_is_left_early_leaves_nothing_behind(database: Database) -> None:
    rows = query_rows("warehouse", QUERY)
    next(rows)
    rows.close()  # type: ignore[attr-defined] # a generator
    assert at_work(database) == []


def test_a_connection_that_is_killed_midway_is_told_with_what_a_retry_does(database: Database, driver: str) -> None:
    rows = query_rows("warehouse", QUERY)
    taken = [row["id"] for row in islice(rows, 1_000)]
    [(pid, _, _)] = at_work(database)
    with database.connect() as connection:
        connection.execute("select pg_terminate_backend(%s, 5000)", [pid])
    with pytest.raises(StorageError) as failed:
        next(rows)
    assert taken == list(range(1, 1_001))
    told = {
        "psycopg": "AdminShutdown: terminating connection due to administrator command",
        "psycopg2": (
            "OperationalError: server closed the connection unexpectedly This probably means the server terminated "
            "abnormally before or while processing the request."
        ),
    }
    assert str(failed.value) == (
        f"The query on warehouse failed after 1,000 rows ({told[driver]}). Nothing was uploaded or billed. A retry "
        "runs it again from its start."
    )


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("select nothing from reviews", 'column "nothing" does not exist'),
        ("select 1 / 0 as n", "division by zero"),
        ("delete from reviews", 'syntax error at or near "delete"'),
    ],
)
def test_what_the_database_refuses_is_to_be_mended(query: str, problem: str) -> None:
    with pytest.raises(BatchInputError) as refused:
        next(query_rows("warehouse", query))
    assert str(refused.value).startswith("The query on warehouse failed after 0 rows (")
    assert str(refused.value).endswith(
        f": {problem}). Nothing was uploaded or billed. A retry would find the same: mend the query."
    )


@pytest.mark.parametrize("cursor", ["dictcursor", "namedtuplecursor"])
def test_rows_are_the_same_whatever_cursor_the_connection_asks_for(
    database: Database, monkeypatch: pytest.MonkeyPatch, cursor: str
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", database.airflow_connection(cursor=cursor))
    assert next(query_rows("warehouse", QUERY)) == {"id": 1, "text": "text 1"}


def test_values_arrive_as_python_has_them(driver: str) -> None:
    query = (
        "select 1.50::numeric as price, '2026-11-28 11:00:00+00'::timestamptz as at, null as none, true as yes, "
        "'{\"a\": [1]}'::jsonb as nested, array[1, 2] as list"
    )
    [row] = query_rows("warehouse", query)
    expected: dict[str, Any] = {
        "price": Decimal("1.50"),
        "at": datetime(2026, 11, 28, 11, tzinfo=UTC),
        "none": None,
        "yes": True,
        "nested": {"a": [1]},
        "list": [1, 2],
    }
    assert row == expected, (driver, json.dumps(row, default=str))
