"""The end of a run: publish, say what that means, and only then clean up, each step harmless to repeat."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow_provider_llmbatch.core.run.beforehand import estimate_of
from airflow_provider_llmbatch.core.run.claim import check_claim, leave_output
from airflow_provider_llmbatch.core.run.manifest import AttemptEntry, Fingerprints, RunFacts, RunIdentity
from airflow_provider_llmbatch.core.run.publish import publish
from airflow_provider_llmbatch.core.run.telemetry import tell_set
from airflow_provider_llmbatch.core.run.verdict import Shortfall
from airflow_provider_llmbatch.errors import LLMBatchError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from airflow_provider_llmbatch.core.costs.bill import ModelCosts
    from airflow_provider_llmbatch.core.costs.estimate import Estimate
    from airflow_provider_llmbatch.core.ledger import BatchRecord
    from airflow_provider_llmbatch.core.run.frequent_errors import FrequentErrors
    from airflow_provider_llmbatch.core.run.job import Job
    from airflow_provider_llmbatch.core.run.manifest import Manifest
    from airflow_provider_llmbatch.core.run.parts import PartState
    from airflow_provider_llmbatch.core.run.records import IndexRecord, LandedRecord
    from airflow_provider_llmbatch.core.run.stage import Stage


def publish_set(
    job: Job,
    index: IndexRecord,
    stage: Stage,
    states: Sequence[PartState],
    errors: FrequentErrors,
    *,
    running: Collection[str] = (),
) -> Manifest:
    """Publish what was landed, and let the index say so.

    :param errors: Learns of each row without a good answer.
    :param running: As ``shortfall_of``.
    """
    check_claim(job)
    now = job.timing.clock()
    if index.publish_id is None:
        # Into the index before anything is written: whoever follows a process that dies then writes to the same place.
        moment = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%S")
        index = index.model_copy(update={"publish_id": f"{moment}-{secrets.token_hex(4)}"})
        job.index.write(index)
    manifest = publish(
        stage,
        job.output,
        answers=stage.folder,
        attempts={
            state.part.number: [_entry(number, landed) for number, landed in enumerate(state.landings, 1)]
            for state in states
        },
        bills={landed.batch_id: landed.costs for state in states for landed in state.landings if landed.costs},
        unended={
            state.part.number: _unended(state.attempt, state.record)
            for state in states
            if state.record is not None and state.record.batch_id in running
        },
        facts=_facts(job, index, estimate_of(job, stage)),
        publish_id=index.publish_id or "",
        published_at=int(now),
        kind=job.options.format,
        errors=errors,
        log=job.log,
    )
    job.index.write(index.model_copy(update={"state": "published"}))
    tell_set(job, manifest)
    _warn_of_unpriced(job, manifest)
    return manifest


def _warn_of_unpriced(job: Job, manifest: Manifest) -> None:
    for each in manifest.costs.models if manifest.costs else ():
        if each.unpriced_rows:
            job.log.warning(
                f"What {each.unpriced_rows:,} answers of {each.model or 'a model without a name'} cost is not known: "
                f"{_why_unpriced(each)}"
            )


def _why_unpriced(costs: ModelCosts) -> str:
    if costs.priced_as is None:
        return "no price of that model is. Put one into the connection's prices, or name there whose prices hold."
    if costs.source is None:
        return "only its price without a batch is. Put that of batches into the connection's prices."
    return "their tokens were not counted, or are of a kind that has no price."


def shortfall_of(states: Iterable[PartState], *, running: tuple[str, ...], over_budget: str | None = None) -> Shortfall:
    """What was left undone, as the ledger tells.

    :param running: Batches that had not ended when their deadline was long past.
    :param over_budget: Why ``max_cost_usd`` kept rows from being submitted, if it did.
    """
    refused: list[tuple[str, str]] = []
    late: list[str] = list(running)
    unsent = 0
    for state in states:
        last = state.landings[-1] if state.landings else None
        if last is not None and last.stopped == "refused":
            refused.append((last.batch_id, last.reason or ""))
        elif last is not None and last.stopped == "deadline":
            late.append(last.batch_id)
        if state.lines is not None and (state.record is None or state.record.batch_id not in running):
            unsent += state.lines.rows
    return Shortfall(tuple(refused), tuple(late), running, unsent, over_budget)


def clean_up(job: Job, index: IndexRecord, manifest: Manifest, states: Iterable[PartState]) -> None:
    """After success: what nobody needs any more, at the provider and in the stage. What fails is only warned of.

    The stage goes last: where it is gone, everything else is.
    """
    kind = job.options.cleanup
    file_ids: dict[str, None] = {}
    if kind != "none":
        attempts = (attempt for part in manifest.parts for attempt in part.attempts)
        file_ids |= dict.fromkeys(attempt.file_id for attempt in attempts if attempt.file_id)
    if kind == "all":
        landings = (landed for state in states for landed in state.landings)
        file_ids |= dict.fromkeys(file_id for landed in landings for file_id in landed.result_file_ids)
    for file_id in file_ids:
        try:
            job.adapter.delete_file(file_id)
        except NotFoundError:
            continue  # by an earlier try, or it expired
        except LLMBatchError as error:
            job.log.warning(f"{file_id} could not be deleted at the provider: {error}", file_id=file_id)
    if job.options.keep_stage:
        return
    of_tries = {str(number) for number in range(1, job.attempt.try_number + 1)}
    for stage_id in sorted({*of_tries, *job.stage_ids(index.generation), index.stage_id}):
        job.forget_stage(stage_id)
    try:
        leave_output(job)
    except LLMBatchError as error:
        job.log.warning(f"A file that is not needed any more could not be deleted: {error}")


def _facts(job: Job, index: IndexRecord, estimate: Estimate) -> RunFacts:
    slot = job.slot
    return RunFacts(
        run=RunIdentity(
            key=job.key,
            namespace=slot.namespace,
            dag_id=slot.dag_id,
            run_id=slot.run_id,
            task_id=slot.task_id,
            map_index=slot.map_index,
        ),
        provider=job.adapter.provider,
        source=job.source.description,
        fingerprints=Fingerprints(rows=index.rows_sha256 or "", parameters=index.parameters_sha256, model=index.model),
        started_at=int(index.started_at),
        estimate=estimate,
    )


def _unended(number: int, record: BatchRecord) -> AttemptEntry:
    return AttemptEntry(attempt=number, file_id=record.input_file_id, batch_id=record.batch_id, key=record.key)


def _entry(number: int, landed: LandedRecord) -> AttemptEntry:
    return AttemptEntry(
        attempt=number,
        file_id=landed.file_id,
        batch_id=landed.batch_id,
        key=landed.key,
        status=landed.status,
        outcomes=landed.outcomes,
        usage=landed.usage,
        created_at=landed.created_at,
        ended_at=landed.ended_at,
    )
