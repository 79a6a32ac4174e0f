"""What a run tells of its parts, landings and result sets, beside its log."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from airflow_provider_llmbatch.core.telemetry import tell_batch, tokens_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from airflow_provider_llmbatch.core.run.job import Job
    from airflow_provider_llmbatch.core.run.manifest import Manifest
    from airflow_provider_llmbatch.core.run.parts import PartState
    from airflow_provider_llmbatch.core.run.records import LandedRecord
    from airflow_provider_llmbatch.core.telemetry import Span
    from airflow_provider_llmbatch.models import Outcome


def part_span(job: Job, state: PartState) -> AbstractContextManager[Span]:
    """A span for what is done at one attempt at a part."""
    rows = state.lines.rows if state.lines is not None else None
    part = state.part
    return job.telemetry.span(
        "part", part=part.number, attempt=state.attempt, rows=rows, model=part.model, endpoint=part.endpoint
    )


def landing_told(job: Job, state: PartState, batch_id: str, land: Callable[[], LandedRecord]) -> None:
    """Land a batch, and tell of the landing and of the batch, whose end is now known."""
    part, provider = state.part, job.adapter.provider
    begin = time.monotonic()
    with part_span(job, state):
        with job.telemetry.span("landing", batch_id=batch_id, model=part.model, endpoint=part.endpoint) as span:
            landed = land()
            rows = {f"rows.{outcome}": count for outcome, count in landed.outcomes.items()}
            span.set(**rows, **tokens_of(landed.usage))
        tell_batch(
            job.telemetry,
            landed.status,
            began_at=landed.created_at,
            ended_at=landed.ended_at,
            usage=landed.usage,
            provider=provider,
            model=part.model,
            endpoint=part.endpoint,
            batch_id=batch_id,
            key=landed.key,
            part=part.number,
            attempt=state.attempt,
            **rows,
        )
    job.telemetry.timing("landing.duration", time.monotonic() - begin, provider=provider, model=part.model)


def tell_set(job: Job, manifest: Manifest) -> None:
    """What came of every row of a set that was just published, and how long it took since the run began."""
    rows: Counter[tuple[str | None, Outcome]] = Counter()
    for part in manifest.parts:
        for outcome, count in part.outcomes.items():
            rows[part.model, outcome] += count
    for (model, outcome), count in rows.items():
        job.telemetry.count(f"rows.{outcome}", count, provider=manifest.provider, model=model)
    seconds = float(manifest.published_at - manifest.started_at)
    job.telemetry.timing("run.duration", seconds, provider=manifest.provider)
