"""What Airflow's asset events tell of what a task wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import Asset, AssetAlias
from airflow.sdk.definitions.asset import AssetRef

from airflow_provider_llmbatch.core.datasets import asset_uri

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk import Context
    from pydantic import JsonValue
    from structlog.typing import FilteringBoundLogger


def add_to_outlets(context: Context, location: str, extra: Mapping[str, JsonValue], log: FilteringBoundLogger) -> None:
    """Let each event of the task's outlets hold what was written; an alias gets the asset at that place.

    A failure is only warned of, since what was written stays.

    :param location: The file or folder that was written.
    """
    try:
        for outlet in context["task"].outlets:
            if isinstance(outlet, AssetAlias):
                context["outlet_events"][outlet].add(Asset(uri=asset_uri(location)), extra=dict(extra))
            elif isinstance(outlet, Asset | AssetRef):
                context["outlet_events"][outlet].extra.update(extra)
    except Exception as error:  # noqa: BLE001 - such as a place that can be no asset
        log.warning(f"The events of this task's outlets do not tell of {location} ({type(error).__name__}: {error})")
