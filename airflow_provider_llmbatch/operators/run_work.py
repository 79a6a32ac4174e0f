"""What the task of a run does once it runs. No DAG file that is only read imports it."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from airflow_provider_llmbatch.core.events import ToldRecord, event_of_run, extra_of_run
from airflow_provider_llmbatch.core.ledger import Ledger, MemoryStore
from airflow_provider_llmbatch.core.run.job import run_folder
from airflow_provider_llmbatch.core.run.manifest import MANIFEST, manifest_uri
from airflow_provider_llmbatch.core.run.records import FolderStore
from airflow_provider_llmbatch.core.run.run import Published, Run, Waiting
from airflow_provider_llmbatch.hooks.telemetry import telemetry_of
from airflow_provider_llmbatch.operators.assets import add_to_outlets
from airflow_provider_llmbatch.operators.run_input import check_beforehand, folder_of, input_of
from airflow_provider_llmbatch.operators.run_kill import cancelling_when_killed
from airflow_provider_llmbatch.operators.run_log import folding, tell_end, tell_errors, tell_links, tell_wait
from airflow_provider_llmbatch.operators.task import attempt_of, run_store_of, slot_of

if TYPE_CHECKING:
    from airflow.sdk import Context
    from pydantic import JsonValue
    from structlog.typing import FilteringBoundLogger

    from airflow_provider_llmbatch.core.events import LLMBatchEvent
    from airflow_provider_llmbatch.core.run.manifest import Manifest
    from airflow_provider_llmbatch.core.run.options import RunOptions
    from airflow_provider_llmbatch.core.storage import Folder
    from airflow_provider_llmbatch.errors import LLMBatchError
    from airflow_provider_llmbatch.hooks.batch import LLMBatchHook
    from airflow_provider_llmbatch.operators.asked import Asked
    from airflow_provider_llmbatch.operators.run_input import Records
    from airflow_provider_llmbatch.operators.wait import KillSwitch

__all__ = [
    "Published",
    "Waiting",
    "advanced",
    "event_of",
    "published",
    "tell_links",
    "tell_wait",
    "told_ledger",
]


def advanced(
    context: Context,
    hook: LLMBatchHook,
    *,
    output: str,
    asked: Asked,
    model: str | None,
    records: Records,
    options: RunOptions,
    kill: KillSwitch,
    cancel_on_kill: bool,
    log: FilteringBoundLogger,
) -> Waiting | Published:
    """Take the run of this task as far as it goes without waiting.

    :param model: If ``None``, the connection's.
    :param cancel_on_kill: Whether a kill in the middle of it cancels what is under way, if a person ended the task.
    """
    folder = folder_of(output)
    telemetry = telemetry_of(context["ti"], provider=hook.adapter.provider)
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
            is_stopping=lambda: not kill.empty(),
            telemetry=telemetry,
            prices=hook.prices,
            earlier_output=partial(earlier_output, context),
        )
        run = replace(run, store=run_store_of(context, lambda: FolderStore(run.folder)))
        with (
            telemetry.span("run", key=run.key, try_number=run.attempt.try_number) as span,
            cancelling_when_killed(run, kill, context) if cancel_on_kill else nullcontext(),
        ):
            state = run.advance()
            if isinstance(state, Waiting):
                span.set(waits_for=len(state.batch_ids))
            return state


def earlier_output(context: Context) -> Folder | None:
    """Where this task has published in an earlier DAG run, as it told Airflow then."""
    instance = context["ti"]
    told = instance.xcom_pull(
        task_ids=instance.task_id, key="manifest", include_prior_dates=True, map_indexes=instance.map_index
    )
    return folder_of(told.removesuffix(f"/{MANIFEST}")) if isinstance(told, str) else None


def published(
    context: Context, state: Published, *, output: str, log_examples: bool, log: FilteringBoundLogger
) -> dict[str, JsonValue]:
    """Tell the log and Airflow of a published set.

    :param log_examples: Whether the log quotes what the provider said of a row for each of the errors.
    :raises LLMBatchError: What it means for the task, if that is not well.
    """
    manifest = state.manifest
    told: dict[str, JsonValue] = {
        "rows": manifest.rows,
        "outcomes": {str(outcome): count for outcome, count in manifest.outcomes.items()},
        "usage": manifest.usage.model_dump(mode="json"),
        "costs": manifest.costs.model_dump(mode="json") if manifest.costs else None,
        "manifest": manifest_uri(output),
    }
    for name in ("outcomes", "usage", "costs", "manifest"):
        context["ti"].xcom_push(key=name, value=told[name])
    tell_errors(manifest, state.examples if log_examples else {}, log)
    tell_end(manifest, str(told["manifest"]), log)
    add_to_outlets(context, output, extra_of_run(manifest, str(told["manifest"])), log)
    if state.error is not None:
        raise state.error
    return told


def event_of(context: Context, manifest: Manifest | None, error: LLMBatchError | None, *, output: str) -> LLMBatchEvent:
    """The end of the run, for ``on_batch_event``."""
    return event_of_run(slot_of(context), manifest, error, uri=manifest_uri(output))


def told_ledger(context: Context, *, output: str) -> Ledger[ToldRecord]:
    """Where the run keeps what ``on_batch_event`` was told: with its other records."""
    store = run_store_of(context, lambda: FolderStore(run_folder(folder_of(output), slot_of(context))))
    return Ledger(store, "told", ToldRecord, durable=True)
