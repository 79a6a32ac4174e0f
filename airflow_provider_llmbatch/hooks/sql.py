"""The rows of a query, through whatever hook an Airflow connection to a database has, and never all of them at once.

Two drivers fetch the whole result when a query is run, unless they are asked for a cursor on the server; the rest send
rows as they are fetched, or in blocks of their own.
"""

from __future__ import annotations

import secrets
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from airflow.sdk import BaseHook

from airflow_provider_llmbatch.errors import BatchInputError, LLMBatchError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_ROWS_AT_ONCE: Final = 1_000
# What a person must mend; the other errors of DB-API (PEP 249) may pass by themselves. Each driver has its own classes.
_OURS_TO_MEND: Final = frozenset({"ProgrammingError", "DataError", "NotSupportedError", "IntegrityError"})


def query_rows(conn_id: str, query: str) -> Iterator[dict[str, Any]]:
    """The rows of a query as mappings of column to value, in its order, a thousand in memory.

    :param conn_id: A connection whose hook is one of a database (``DbApiHook``).
    :raises BatchInputError: It is none, the database refuses the query, or two of its columns have one name.
    :raises StorageError: The database is out of reach.
    """
    hook = BaseHook.get_hook(conn_id)
    if not hasattr(hook, "get_conn") or not hasattr(hook, "run"):
        raise BatchInputError(
            f"The connection {conn_id!r} is none to a database: its {type(hook).__name__} runs no queries. Nothing was "
            "uploaded or billed."
        )
    number = 0
    try:
        with _closed(hook.get_conn()) as connection, _closed(_cursor(connection)) as cursor:
            cursor.execute(query)
            rows = cursor.fetchmany(_ROWS_AT_ONCE)
            # Not before: psycopg2 knows the columns of a cursor on the server only when it has fetched from it.
            columns = _columns(cursor, conn_id)
            while rows:
                for row in rows:
                    number += 1
                    # A connection may ask for cursors whose rows are mappings already.
                    yield row if isinstance(row, dict) else dict(zip(columns, row, strict=True))
                rows = cursor.fetchmany(_ROWS_AT_ONCE)
    except (LLMBatchError, GeneratorExit):
        raise
    except Exception as error:
        raise _failed(error, conn_id, number) from error


@contextmanager
def _closed(opened: Any) -> Iterator[Any]:
    """Close a cursor or a connection at the end; that one which broke cannot be closed must not hide why it broke."""
    try:
        yield opened
    finally:
        with suppress(Exception):
            opened.close()


def _cursor(connection: Any) -> Any:
    driver = type(connection).__module__.partition(".")[0]
    return _CURSORS.get(driver, _plain)(connection)


def _plain(connection: Any) -> Any:
    cursor = connection.cursor()
    with suppress(AttributeError, TypeError):
        cursor.arraysize = _ROWS_AT_ONCE
    return cursor


def _on_the_server(connection: Any) -> Any:
    """A cursor with a name, which needs a transaction: a hook may have switched to autocommit."""
    if getattr(connection, "autocommit", False):
        connection.autocommit = False
    cursor = connection.cursor(name=f"llmbatch_{secrets.token_hex(4)}")
    cursor.itersize = _ROWS_AT_ONCE
    return cursor


def _unbuffered(module: str) -> Callable[[Any], Any]:
    return lambda connection: connection.cursor(import_module(module).SSCursor)


_CURSORS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "psycopg2": _on_the_server,
    "psycopg": _on_the_server,
    "MySQLdb": _unbuffered("MySQLdb.cursors"),
    "pymysql": _unbuffered("pymysql.cursors"),
}


def _columns(cursor: Any, conn_id: str) -> list[str]:
    if cursor.description is None:
        raise BatchInputError(
            f"The query on {conn_id} returns no rows: it is none that selects. Nothing was uploaded or billed, but it "
            "was run. Give a SELECT."
        )
    columns = [str(column[0]) for column in cursor.description]
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        raise BatchInputError(
            f'The query on {conn_id} gives two columns the name "{twice}". Nothing was uploaded or billed. Name one '
            "of them otherwise, with AS."
        )
    return columns


def _failed(error: Exception, conn_id: str, number: int) -> LLMBatchError:
    """What a driver says, but for the query, which may hold secrets."""
    # PostgreSQL's drivers show a line of the query in the text, and have what went wrong beside it.
    problem = getattr(getattr(error, "diag", None), "message_primary", None) or str(error)
    told = f"{type(error).__name__}: {' '.join(problem.split())}"
    where = f"The query on {conn_id} failed after {number:,} rows ({told})"
    if _OURS_TO_MEND & {kind.__name__ for kind in type(error).__mro__}:
        return BatchInputError(f"{where}. Nothing was uploaded or billed. A retry would find the same: mend the query.")
    return StorageError(f"{where}. Nothing was uploaded or billed. A retry runs it again from its start.")
