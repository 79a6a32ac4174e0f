"""From a connection to the prices that hold behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, cast

from airflow_provider_llmbatch.core.costs.prices import Prices
from airflow_provider_llmbatch.core.costs.table import price_table
from airflow_provider_llmbatch.errors import ConnectionSettingsError, StorageError
from airflow_provider_llmbatch.hooks.batch import path_of
from airflow_provider_llmbatch.hooks.settings import CommonExtra, extra_of

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from airflow_provider_llmbatch.adapters.base import Adapter


def prices_of(connection: Connection, adapter: Adapter) -> Prices:
    """The connection's own table, and whose published prices hold besides.

    :raises ConnectionSettingsError: The table cannot be used.
    :raises StorageError: Its file cannot be read.
    """
    extra = extra_of(connection, CommonExtra)
    if extra.prices is not None and extra.prices_file:
        raise ConnectionSettingsError(
            f"The connection {connection.conn_id!r} has both prices and prices_file in its extra. Nothing was sent. "
            "Keep one of them, under Admin, Connections."
        )
    if extra.prices is not None:
        table = price_table(extra.prices, name=f"The extra prices of the connection {connection.conn_id!r}")
    elif extra.prices_file:
        table = price_table(_content(extra.prices_file), name=f"{extra.prices_file}")
    else:
        return Prices(adapter.price_list)
    return Prices(adapter.price_list, table)


def _content(location: str) -> bytes:
    try:
        with cast("BinaryIO", path_of(location).open("rb")) as stream:
            return stream.read()
    except FileNotFoundError as error:
        raise ConnectionSettingsError(
            f"The price table {location}, which the connection names as prices_file, is not there. Nothing was "
            "submitted or billed by this task now. Put it there, or mend the connection, and clear the task."
        ) from error
    except (OSError, ValueError) as error:
        raise StorageError(
            f"The price table {location} cannot be read ({type(error).__name__}: {error}). Nothing was submitted or "
            "billed by this task now; a retry reads it again."
        ) from error
