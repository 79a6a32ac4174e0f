"""What Airflow's lineage of hooks tells of files that were read and written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_llmbatch.core.datasets import asset_uri

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow.sdk import BaseHook


def add_hook_lineage(hook: BaseHook, *, read: Iterable[str] = (), written: Iterable[str] = ()) -> None:
    """Tell whoever reads the lineage of hooks, if anybody does; a failure is only warned of."""
    from airflow.sdk.lineage import get_hook_lineage_collector  # noqa: PLC0415 - loads plugins: no DAG file needs it

    try:
        collector = get_hook_lineage_collector()
        for location in read:
            collector.add_input_asset(hook, uri=asset_uri(location))
        for location in written:
            collector.add_output_asset(hook, uri=asset_uri(location))
    except Exception as error:  # noqa: BLE001 - such as a place that can be no asset
        hook.log.warning(f"What was read and written is missing in the lineage ({type(error).__name__}: {error})")
