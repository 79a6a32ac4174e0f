"""What the task of a run does once it runs. No DAG file that is only read imports it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from airflow_provider_llmbatch.core.ledger import MemoryStore
from airflow_provider_llmbatch.core.run.manifest import MANIFEST
from airflow_provider_llmbatch.core.run.records import FolderStore
from airflow_provider_llmbatch.core.run.run import Published, Run, Waiting
from airflow_provider_llmbatch.core.storage import Folder
from airflow_provider_llmbatch.hooks.batch import path_of
from airflow_provider_llmbatch.operators.run_input import check_beforehand, input_of
from airflow_provider_llmbatch.operators.run_log import folding, tell_end, tell_links, tell_wait
from airflow_provider_llmbatch.operators.task import attempt_of, run_store_of, slot_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.sdk import Context
    from pydantic import JsonValue
    from structlog.typing import FilteringBoundLogger

    from airflow_provider_llmbatch.core.run.options import RunOptions
    from airflow_provider_llmbatch.hooks.batch import LLMBatchHook
    from airflow_provider_llmbatch.operators.asked import Asked
    from airflow_provider_llmbatch.operators.run_input import Records

__all__ = ["Published", "Waiting", "advanced", "published", "tell_links", "tell_wait"]


def advanced(
    context: Context,
    hook: LLMBatchHook,
    *,
    output: str,
    asked: Asked,
    model: str | None,
    records: Records,
    options: RunOptions,
    is_stopping: Callable[[], bool],
    log: FilteringBoundLogger,
) -> Waiting | Published:
    """Take the run of this task as far as it goes without waiting.

    :param model: If ``None``, the connection's.
    """
    folder = Folder(path_of(output))
    with folding("More files, batches and results", log) as folded:
        run = Run(
            adapter=hook.adapter,
            output=folder,
            store=MemoryStore(),
            slot=slot_of(context),
            attempt=attempt_of(context),
            source=input_of(
                asked,
                records,
                model=model or hook.default_model,
                check=hook.adapter.line_check,
                before=partial(check_beforehand, hook.adapter, folder, options, folded),
            ),
            options=options,
            timing=hook.timing,
            log=folded,
            is_stopping=is_stopping,
            prices=hook.prices,
            earlier_output=partial(earlier_output, context),
        )
        return replace(run, store=run_store_of(context, lambda: FolderStore(run.folder))).advance()


def earlier_output(context: Context) -> Folder | None:
    """Where this task has published in an earlier DAG run, as it told Airflow then."""
    instance = context["ti"]
    told = instance.xcom_pull(
        task_ids=instance.task_id, key="manifest", include_prior_dates=True, map_indexes=instance.map_index
    )
    return Folder(path_of(told.removesuffix(f"/{MANIFEST}"))) if isinstance(told, str) else None


def published(context: Context, state: Published, *, output: str, log: FilteringBoundLogger) -> dict[str, JsonValue]:
    """Tell the log and Airflow of a published set.

    :raises LLMBatchError: What it means for the task, if that is not well.
    """
    manifest = state.manifest
    told: dict[str, JsonValue] = {
        "rows": manifest.rows,
        "outcomes": {str(outcome): count for outcome, count in manifest.outcomes.items()},
        "usage": manifest.usage.model_dump(mode="json"),
        "costs": manifest.costs.model_dump(mode="json") if manifest.costs else None,
        "manifest": f"{output.rstrip('/')}/{MANIFEST}",
    }
    for name in ("outcomes", "usage", "costs", "manifest"):
        context["ti"].xcom_push(key=name, value=told[name])
    tell_end(manifest, str(told["manifest"]), log)
    if state.error is not None:
        raise state.error
    return told
