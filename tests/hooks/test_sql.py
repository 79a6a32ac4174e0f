"""A query's rows stream out of whatever database an Airflow connection leads to."""

from __future__ import annotations

import sqlite3
import sys
from itertools import islice
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.sql.hooks.sql import DbApiHook
from airflow.sdk import BaseHook

from airflow_provider_llmbatch.errors import BatchInputError, LLMBatchError, StorageError
from airflow_provider_llmbatch.hooks.sql import query_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


class SqliteHook(DbApiHook):
    """As the SQLite provider has it, which is not installed with Airflow itself."""

    conn_name_attr = "sqlite_conn_id"

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self.connections: list[sqlite3.Connection] = []

    def get_conn(self) -> sqlite3.Connection:
        self.connections.append(sqlite3.connect(self._path))
        return self.connections[-1]


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SqliteHook:
    path = tmp_path / "reviews.db"
    with sqlite3.connect(path) as connection:
        connection.execute("create table reviews (id integer, text text)")
        connection.executemany("insert into reviews values (?, ?)", ((n, f"text {n}") for n in range(2_500)))
    connection.close()
    hook = SqliteHook(path)
    monkeypatch.setattr(BaseHook, "get_hook", lambda conn_id: {"warehouse": hook}[conn_id])
    return hook


def is_closed(connection: sqlite3.Connection) -> bool:
    try:
        connection.execute("select 1")
    except sqlite3.ProgrammingError:
        return True
    return False


def test_rows_come_in_the_order_of_the_query_and_the_connection_is_closed(database: SqliteHook) -> None:
    rows = list(query_rows("warehouse", "select id as key, text from reviews order by id desc"))
    assert rows == [{"key": n, "text": f"text {n}"} for n in reversed(range(2_500))]
    assert [is_closed(connection) for connection in database.connections] == [True]


def test_a_query_that_is_left_early_closes_the_connection(database: SqliteHook) -> None:
    rows = query_rows("warehouse", "select * from reviews")
    assert (next(rows), database.connections[0].in_transaction) == ({"id": 0, "text": "text 0"}, False)
    rows.close()  # type: ignore[attr-defined] # a generator
    assert is_closed(database.connections[0])


@pytest.mark.usefixtures("database")
def test_a_query_without_rows_gives_none() -> None:
    assert list(query_rows("warehouse", "select * from reviews where id < 0")) == []


@pytest.mark.parametrize(
    ("query", "kind", "message"),
    [
        (
            "select id, text as id from reviews",
            BatchInputError,
            (
                'The query on warehouse gives two columns the name "id". Nothing was uploaded or billed. Name one of '
                "them otherwise, with AS."
            ),
        ),
        (
            "delete from reviews",
            BatchInputError,
            (
                "The query on warehouse returns no rows: it is none that selects. Nothing was uploaded or billed, but "
                "it was run. Give a SELECT."
            ),
        ),
        (
            "select secret from nowhere",  # which SQLite calls an operational error, as it does a locked database
            StorageError,
            (
                "The query on warehouse failed after 0 rows (OperationalError: no such table: nowhere). Nothing was "
                "uploaded or billed. A retry runs it again from its start."
            ),
        ),
        (
            "select 1; select 2",
            BatchInputError,
            (
                "The query on warehouse failed after 0 rows (ProgrammingError: You can only execute one statement at a "
                "time.). Nothing was uploaded or billed. A retry would find the same: mend the query."
            ),
        ),
    ],
)
@pytest.mark.usefixtures("database")
def test_what_a_database_refuses_is_told_without_the_query(query: str, kind: type[LLMBatchError], message: str) -> None:
    with pytest.raises(LLMBatchError) as refused:
        list(query_rows("warehouse", query))
    assert (type(refused.value), str(refused.value)) == (kind, message)


def test_a_connection_to_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BaseHook, "get_hook", lambda _conn_id: object())
    with pytest.raises(BatchInputError, match="'mail' is none to a database: its object runs no queries"):
        next(query_rows("mail", "select 1"))


class Driver:
    """A driver's connection and cursor, as far as they are used: which cursor was asked for, and what it fetched."""

    def __init__(self, rows: Sequence[tuple[int]], *, autocommit: bool = False) -> None:
        self._rows: Iterator[tuple[int]] = iter(rows)
        self.autocommit = autocommit
        self.asked: list[object] = []
        self.description: list[tuple[str]] | None = None

    def cursor(self, *args: object, **named: object) -> Driver:
        self.asked.append((args, sorted(named), self.autocommit))
        return self

    def execute(self, query: str) -> None:
        self.asked.append(query)

    def fetchmany(self, count: int) -> list[tuple[int]]:
        self.description = [("id",)]  # as psycopg2 does it: not before rows were fetched
        rows = list(islice(self._rows, count))
        self.asked.append(len(rows))
        return rows

    def close(self) -> None:
        self.asked.append("close")


@pytest.mark.parametrize(
    ("module", "autocommit", "cursor"),
    [
        ("psycopg2.extensions", True, ((), ["name"], False)),
        ("psycopg", False, ((), ["name"], False)),
        ("MySQLdb.connections", False, (("MySQLdb's own",), [], False)),
        ("pymysql.connections", False, (("pymysql's own",), [], False)),
        ("oracledb.connection", True, ((), [], True)),
    ],
)
def test_drivers_that_would_fetch_everything_are_asked_for_a_cursor_on_the_server(
    module: str, autocommit: bool, cursor: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MySQLdb", "pymysql"):
        cursors: Any = ModuleType(f"{name}.cursors")
        cursors.SSCursor = f"{name}'s own"
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
        monkeypatch.setitem(sys.modules, f"{name}.cursors", cursors)
    driver = type("Connection", (Driver,), {"__module__": module})([(n,) for n in range(1_500)], autocommit=autocommit)
    hook = SqliteHook.__new__(SqliteHook)
    monkeypatch.setattr(hook, "get_conn", lambda: driver, raising=False)
    monkeypatch.setattr(BaseHook, "get_hook", lambda _conn_id: hook)
    assert sum(1 for _ in query_rows("warehouse", "select id from t")) == 1_500
    assert driver.asked == [cursor, "select id from t", 1_000, 500, 0, "close", "close"]


def test_what_goes_wrong_at_closing_does_not_hide_what_broke_before(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Driver):
        def fetchmany(self, count: int) -> list[tuple[int]]:
            raise ConnectionResetError(f"no {count:,} rows")

        def close(self) -> None:  # as PyMySQL 1.2 does it
            raise AttributeError("'NoneType' object has no attribute 'read'")

    hook = SqliteHook.__new__(SqliteHook)
    monkeypatch.setattr(hook, "get_conn", lambda: Broken([]), raising=False)
    monkeypatch.setattr(BaseHook, "get_hook", lambda _conn_id: hook)
    with pytest.raises(StorageError, match=r"failed after 0 rows \(ConnectionResetError: no 1,000 rows\)"):
        next(query_rows("warehouse", "select id from t"))
