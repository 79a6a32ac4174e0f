"""What the task of an estimate does once it runs. No DAG file that is only read imports it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from airflow_provider_llmbatch.core.costs.estimate import estimate
from airflow_provider_llmbatch.core.costs.telling import told_estimate
from airflow_provider_llmbatch.core.run.beforehand import calibrations_from, measured
from airflow_provider_llmbatch.core.run.preflight import check_parameters
from airflow_provider_llmbatch.core.storage import Folder
from airflow_provider_llmbatch.hooks.batch import path_of
from airflow_provider_llmbatch.operators.run_input import input_of, records_of

if TYPE_CHECKING:
    from decimal import Decimal

    from pydantic import JsonValue
    from structlog.typing import FilteringBoundLogger

    from airflow_provider_llmbatch.core.run.requests import RequestTemplate
    from airflow_provider_llmbatch.core.run.sources import Format
    from airflow_provider_llmbatch.hooks.batch import LLMBatchHook
    from airflow_provider_llmbatch.operators.asked import Asked
    from airflow_provider_llmbatch.operators.run_input import Records


def estimated(
    hook: LLMBatchHook,
    *,
    asked: Asked,
    source: object,
    source_format: Format | None,
    query: str | None,
    sql_conn_id: str | None,
    output: str | None,
    model: str | None,
    log: FilteringBoundLogger,
) -> dict[str, JsonValue]:
    """What the operator returns.

    :raises BatchInputError: The input cannot be used.
    """

    def check(template: RequestTemplate, records: Records) -> None:
        del records
        check_parameters(hook.adapter, template)

    given = input_of(
        asked,
        records_of(source, source_format, query, sql_conn_id),
        model=model or hook.default_model,
        check=None,
        before=check,
    )
    log.info(f"Reading {given.description}")
    earlier = calibrations_from([lambda: Folder(path_of(output)) if output else None], given, log=log)
    made = estimate(measured(given.rows()), hook.prices, now=time.time(), calibrations=earlier)
    text = told_estimate(made)
    log.info(text)
    total = made.total_usd
    return {
        "low": _number(total.low if total else None),
        "likely": _number(total.likely if total else None),
        "high": _number(total.high if total else None),
        "without_batch": _number(made.without_batch_usd),
        "rows": made.rows,
        "bounded": all(each.bounded for each in made.models),
        "text": text,
        "models": [each.model_dump(mode="json") for each in made.models],
    }


def _number(amount: Decimal | None) -> float | None:
    return None if amount is None else float(amount)
