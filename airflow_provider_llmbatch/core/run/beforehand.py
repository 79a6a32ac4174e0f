"""The estimate of a run, made once its input is staged, and kept beside it: for the log, the cap and the manifest."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from airflow_provider_llmbatch.core.costs.estimate import Calibration, Estimate, estimate
from airflow_provider_llmbatch.core.costs.volume import Texts, Volume, VolumeMeter
from airflow_provider_llmbatch.core.run.manifest import read_manifest
from airflow_provider_llmbatch.core.run.staging import no_rows
from airflow_provider_llmbatch.errors import LLMBatchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from structlog.typing import FilteringBoundLogger

    from airflow_provider_llmbatch.core.costs.estimate import Group
    from airflow_provider_llmbatch.core.run.job import Job, RunInput
    from airflow_provider_llmbatch.core.run.manifest import Manifest
    from airflow_provider_llmbatch.core.run.requests import Row
    from airflow_provider_llmbatch.core.run.stage import Stage, StagePart
    from airflow_provider_llmbatch.core.storage import Folder

_NAME: Final = "estimate.json"


def estimate_of(job: Job, stage: Stage) -> Estimate:
    """What was estimated when the stage was new, or is now.

    :raises StorageError: It cannot be read, or not be kept.
    """
    content = stage.folder.get(_NAME)
    if content is not None:
        try:
            return Estimate.model_validate_json(content)
        except ValidationError:
            job.log.info(f"{stage.folder.uri(_NAME)} is of another release: estimating anew")
    earlier = calibrations_from([lambda: job.output, job.earlier_output], job.source, log=job.log)
    made = estimate(volumes_of(stage.parts), job.prices, now=job.timing.clock(), calibrations=earlier)
    stage.folder.put(_NAME, made.model_dump_json(indent=1).encode())
    return made


def volumes_of(parts: Iterable[StagePart]) -> dict[Group, Volume]:
    """What is asked, by model and endpoint."""
    volumes: dict[Group, Volume] = defaultdict(Volume)
    for part in parts:
        volumes[part.model, part.endpoint] += volume_of(part)
    return dict(volumes)


def volume_of(part: StagePart) -> Volume:
    """What a part asks; of one that an earlier release staged, as if all of it were letters."""
    if part.volume is not None:
        return part.volume
    texts = Texts(messages=part.rows, letters=part.bytes)
    return Volume(rows=part.rows, bytes=part.bytes, texts=texts, answers=part.rows, unbounded=part.rows)


def measured(rows: Iterable[Row]) -> dict[Group, Volume]:
    """What rows ask, by model and endpoint, without keeping any of them.

    :raises BatchInputError: A row cannot be sent, or there is none.
    """
    meters: dict[Group, VolumeMeter] = defaultdict(VolumeMeter)
    for row in rows:
        meters[row.model, row.url].add(row.body, row.max_tokens, row.answers, is_text=row.is_text)
    if not meters:
        raise no_rows()
    return {group: meter.volume() for group, meter in meters.items()}


def calibrations_from(
    folders: Iterable[Callable[[], Folder | None]], source: RunInput, *, log: FilteringBoundLogger
) -> dict[Group, Calibration]:
    """What the first result set that asked the same has used, among those that were published in some folders.

    A set that cannot be read is passed over: an estimate is no reason to fail.
    """
    for find in folders:
        try:
            folder = find()
            manifest = read_manifest(folder) if folder is not None else None
        except LLMBatchError as error:
            log.info(f"An earlier result set cannot tell what its answers used: {error}")
            continue
        told = manifest and manifest.fingerprints
        if manifest and told and (told.parameters, told.model) == (source.parameters_sha256, source.model):
            return calibrations(manifest)
    return {}


def calibrations(manifest: Manifest) -> dict[Group, Calibration]:
    """What the answers of a published set used, by model and endpoint.

    Without the estimate of its input, which says how large that was, a set tells nothing.
    """
    found = {}
    for each in manifest.estimate.models if manifest.estimate is not None else ():
        parts = [part for part in manifest.parts if (part.model, part.endpoint) == (each.model, each.endpoint)]
        usages = [attempt.usage for part in parts for attempt in part.attempts]
        answered = sum(part.outcomes.get("succeeded", 0) + part.outcomes.get("invalid", 0) for part in parts)
        calibration = Calibration.of(
            rows=answered,
            bytes_asked=each.bytes * answered / each.rows if each.rows else 0,
            input_tokens=sum(usage.input_tokens for usage in usages),
            output_tokens=sum(usage.output_tokens for usage in usages),
        )
        if calibration is not None:
            found[each.model, each.endpoint] = calibration
    return found
