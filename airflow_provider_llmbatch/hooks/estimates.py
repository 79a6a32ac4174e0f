"""The estimate of a run's costs, as the hook offers it to callers who have no task."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from airflow_provider_llmbatch.core.costs.estimate import Estimate, estimate
from airflow_provider_llmbatch.core.run.answer_schema import answer_schema
from airflow_provider_llmbatch.core.run.beforehand import measured
from airflow_provider_llmbatch.core.run.requests import RequestTemplate
from airflow_provider_llmbatch.core.run.sources import FileSource, file_records, given_records
from airflow_provider_llmbatch.hooks.batch import path_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pydantic import BaseModel, JsonValue

    from airflow_provider_llmbatch.core.costs.prices import Prices
    from airflow_provider_llmbatch.core.run.sources import Format


def estimate_of(
    source: str | Iterable[object],
    *,
    source_format: Format | None,
    prompt: str | None,
    system: str | None,
    model: str | None,
    parameters: Mapping[str, JsonValue],
    response_format: type[BaseModel] | Mapping[str, JsonValue] | None,
    endpoint: str,
    prices: Prices,
) -> Estimate:
    """As ``LLMBatchHook.estimate_cost``."""
    schema, name = (None, "answer") if response_format is None else answer_schema(response_format)
    template = RequestTemplate(
        prompt=prompt,
        system=system,
        model=model,
        parameters=parameters,
        response_schema=schema,
        schema_name=name,
        endpoint=endpoint,
    )
    if isinstance(source, str):
        records = file_records([FileSource(path_of(source), source, source_format)])
    else:
        records = given_records(source, name="what was given")
    return estimate(measured(template.rows(records)), prices, now=time.time())
