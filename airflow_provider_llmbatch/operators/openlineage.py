"""Facets for OpenLineage. Only its own provider has this loaded, so everything that it needs is there."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

import attrs
from airflow.providers.openlineage.extractors import OperatorLineage
from openlineage.client.event_v2 import Dataset, InputDataset, OutputDataset
from openlineage.client.facet_v2 import (
    RunFacet,
    dataset_version_dataset,
    input_statistics_input_dataset,
    output_statistics_output_dataset,
    sql_job,
    storage_dataset,
)
from typing_extensions import override

from airflow_provider_llmbatch.core.datasets import DatasetName, dataset_name
from airflow_provider_llmbatch.core.events import batch_ids_of, cost_of
from airflow_provider_llmbatch.core.run.manifest import manifest_uri
from airflow_provider_llmbatch.hooks.batch import path_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_provider_llmbatch.core.jsonl import CheckedInput
    from airflow_provider_llmbatch.core.run.manifest import Manifest
    from airflow_provider_llmbatch.models import Batch, File, Usage
    from airflow_provider_llmbatch.operators.lineage import Landed, Lineage

SCHEMA_URL: Final = "urn:airflow-provider-llmbatch:openlineage:1-0-0:LLMBatchRunFacet.json#/$defs/LLMBatchRunFacet"
_FILES_LOOKED_AT: Final = 100  # for their size
_BATCHES_NAMED: Final = 100
_DatasetT = TypeVar("_DatasetT", InputDataset, OutputDataset)


@attrs.define(kw_only=True)
class LLMBatchRunFacet(RunFacet):
    """Which model was asked, by which batches, and what came of it; ``LLMBatchRunFacet.json`` is its schema.

    :param provider: Such as ``openai``.
    :param requestedModel: As the task was told.
    :param models: That answered, as the provider names them.
    :param batches: How many there were.
    :param batchIds: The first hundred.
    :param outcomes: How many rows have which.
    :param reasons: The most frequent error codes of rows without a good answer, with their counts.
    :param costUsd: What it cost in US dollars, where that is known.
    :param manifest: URI of the result set's manifest.
    """

    provider: str | None = None
    endpoint: str | None = None
    requestedModel: str | None = None  # noqa: N815 - as OpenLineage writes its fields
    models: list[str] = attrs.field(factory=list)
    batches: int | None = None
    batchIds: list[str] = attrs.field(factory=list)  # noqa: N815 - as above
    rows: int | None = None
    outcomes: dict[str, int] = attrs.field(factory=dict)
    reasons: dict[str, int] = attrs.field(factory=dict)
    inputTokens: int | None = None  # noqa: N815 - as above
    outputTokens: int | None = None  # noqa: N815 - as above
    costUsd: float | None = None  # noqa: N815 - as above
    manifest: str | None = None

    _additional_skip_redact: ClassVar[list[str]] = ["inputTokens", "outputTokens"]  # numbers, whatever the names say

    @staticmethod
    @override
    def _get_schema() -> str:
        return SCHEMA_URL


def lineage_of_run(
    *,
    sources: Sequence[str],
    query: tuple[str, str] | None,
    output: str,
    output_format: str,
    endpoint: str,
    model: str | None,
    batch_ids: Sequence[str],
    manifest: Manifest | None,
) -> Lineage:
    """A run: what it reads, its result set, and what it asked for and got.

    :param query: And the connection that it is run on.
    :param batch_ids: That are known before a set is published.
    """
    lineage: Lineage = OperatorLineage(outputs=[_result_set(output, output_format, manifest)])
    if query is not None:
        _read_by_query(lineage, *query)
    rows = manifest.rows if manifest is not None and len(sources) == 1 else None
    lineage.inputs += [
        _input_file(source, rows=rows, size=_size(source) if number < _FILES_LOOKED_AT else None)
        for number, source in enumerate(sources)
    ]
    facet = LLMBatchRunFacet(endpoint=endpoint, requestedModel=model, batchIds=list(batch_ids[:_BATCHES_NAMED]))
    if batch_ids:
        facet.batches = len(batch_ids)
    if manifest is not None:
        _add_manifest(facet, manifest, manifest_uri(output))
    lineage.run_facets["llmbatch"] = facet
    return lineage


def lineage_of_batch(batch: Batch | None, *, endpoint: str | None = None) -> Lineage:
    """A batch: from the provider's file to the provider's files.

    :param batch: As it was seen last, if it was.
    """
    facet = _facet_of(batch)
    facet.endpoint = endpoint or facet.endpoint
    lineage: Lineage = OperatorLineage(run_facets={"llmbatch": facet})
    if batch is not None:
        if batch.input_file_id:
            lineage.inputs.append(_provider_file(InputDataset, batch.provider, batch.input_file_id))
        lineage.outputs += _result_files(OutputDataset, batch)
    return lineage


def lineage_of_upload(source: str, uploaded: File | None, checked: CheckedInput | None) -> Lineage:
    """An upload: from a file to the provider's file.

    :param uploaded: Once it is there.
    :param checked: What is in it, for requests of a batch.
    """
    facet = LLMBatchRunFacet()
    if checked is not None:
        facet.endpoint, facet.requestedModel, facet.rows = checked.endpoint, checked.model, checked.requests
    rows, size = (checked.requests, checked.bytes) if checked is not None else (None, _size(source))
    lineage: Lineage = OperatorLineage(inputs=[_input_file(source, rows=rows, size=size)])
    if uploaded is not None:
        facet.provider = uploaded.provider
        lineage.outputs.append(_provider_file(OutputDataset, uploaded.provider, uploaded.id))
    lineage.run_facets["llmbatch"] = facet
    return lineage


def lineage_of_landing(batch: Batch | None, destination: str, landed: Landed | None) -> Lineage:
    """What came back of a batch: from the provider's files to a file."""
    facet = _facet_of(batch)
    if landed is not None:
        facet.rows, facet.outcomes = landed.rows, dict(landed.outcomes)
    lineage: Lineage = OperatorLineage(outputs=[_output_file(destination, landed)], run_facets={"llmbatch": facet})
    if batch is not None:
        lineage.inputs += _result_files(InputDataset, batch)
    return lineage


def lineage_of_download(file_id: str, provider: str | None, destination: str, landed: Landed | None) -> Lineage:
    """A file of the provider, and the file that it is landed in.

    :param provider: Once it was asked.
    """
    lineage: Lineage = OperatorLineage(outputs=[_output_file(destination, landed)])
    if provider is not None:
        lineage.inputs.append(_provider_file(InputDataset, provider, file_id))
    return lineage


def _facet_of(batch: Batch | None) -> LLMBatchRunFacet:
    if batch is None:
        return LLMBatchRunFacet()
    counts = batch.request_counts
    facet = LLMBatchRunFacet(
        provider=batch.provider,
        endpoint=batch.endpoint,
        models=[batch.model] if batch.model else [],
        batches=1,
        batchIds=[batch.id],
        rows=counts.total,
        outcomes={name: count for name, count in (("succeeded", counts.completed), ("failed", counts.failed)) if count},
    )
    _add_usage(facet, batch.usage)
    return facet


def _result_files(kind: type[_DatasetT], batch: Batch) -> list[_DatasetT]:
    file_ids = dict.fromkeys(each for each in (batch.output_file_id, batch.error_file_id) if each)
    return [_provider_file(kind, batch.provider, each) for each in file_ids]


def _input_file(location: str, *, rows: int | None, size: int | None) -> InputDataset:
    name = dataset_name(location)
    dataset = InputDataset(namespace=name.namespace, name=name.name)
    if rows is not None or size is not None:
        dataset.inputFacets = {
            "inputStatistics": input_statistics_input_dataset.InputStatisticsInputDatasetFacet(
                rowCount=rows, size=size, fileCount=1
            )
        }
    return dataset


def _output_file(location: str, landed: Landed | None) -> OutputDataset:
    name = dataset_name(location)
    if landed is None:
        return OutputDataset(namespace=name.namespace, name=name.name)
    return _output(name, rows=landed.rows, size=landed.bytes, files=1)


def _provider_file(kind: type[_DatasetT], provider: str | None, file_id: str) -> _DatasetT:
    """In the provider's bucket, or by the id that it gave."""
    name = dataset_name(file_id) if "://" in file_id else DatasetName(provider or "llmbatch", file_id)
    return kind(namespace=name.namespace, name=name.name)


def _output(name: DatasetName, *, rows: int | None, size: int, files: int) -> OutputDataset:
    statistics = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
        rowCount=rows, size=size, fileCount=files
    )
    return OutputDataset(namespace=name.namespace, name=name.name, outputFacets={"outputStatistics": statistics})


def _result_set(location: str, output_format: str, manifest: Manifest | None) -> OutputDataset:
    name = dataset_name(location)
    if manifest is None:
        return OutputDataset(namespace=name.namespace, name=name.name)
    size = sum(part.bytes for part in manifest.parts)
    dataset = _output(name, rows=manifest.rows, size=size, files=len(manifest.parts))
    dataset.facets = {
        "storage": storage_dataset.StorageDatasetFacet(
            storageLayer=name.namespace.partition("://")[0],
            fileFormat={"jsonl": "json"}.get(output_format, output_format),
        ),
        "version": dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=manifest.publish_id),
    }
    return dataset


def _read_by_query(lineage: Lineage, query: str, conn_id: str) -> None:
    """The tables that a query reads, as far as its database's hook lets them be told, and the query itself."""
    from airflow.providers.openlineage.sqlparser import (  # noqa: PLC0415 - only a query needs it
        SQLParser,
        get_openlineage_facets_with_sql,
    )
    from airflow.sdk import BaseHook  # noqa: PLC0415 - a run without a query needs neither

    lineage.job_facets["sql"] = sql_job.SQLJobFacet(query=SQLParser.normalize_sql(query))
    with suppress(Exception):  # a database out of reach fails the run itself, and is told there
        told = get_openlineage_facets_with_sql(BaseHook.get_hook(conn_id), query, conn_id, None)
        if told is not None:
            lineage.inputs += [_as_input(dataset) for dataset in told.inputs]


def _as_input(dataset: Dataset) -> InputDataset:
    return InputDataset(namespace=dataset.namespace, name=dataset.name, facets=dataset.facets)


def _size(location: str) -> int | None:
    with suppress(Exception):  # of which the run itself will tell
        path: Any = path_of(location)
        size: int = path.stat().st_size
        return size
    return None


def _add_manifest(facet: LLMBatchRunFacet, manifest: Manifest, uri: str) -> None:
    batch_ids = batch_ids_of(manifest)
    cost = cost_of(manifest)
    facet.provider = manifest.provider
    facet.models = list(manifest.models)
    facet.batches, facet.batchIds = len(batch_ids), list(batch_ids[:_BATCHES_NAMED])
    facet.rows = manifest.rows
    facet.outcomes = _words(manifest.outcomes)
    facet.reasons = dict(manifest.reasons)
    facet.costUsd = None if cost is None else float(cost)
    facet.manifest = uri
    _add_usage(facet, manifest.usage)


def _add_usage(facet: LLMBatchRunFacet, usage: Usage | None) -> None:
    if usage is not None:
        facet.inputTokens, facet.outputTokens = usage.input_tokens, usage.output_tokens


def _words(outcomes: Mapping[Any, int]) -> dict[str, int]:
    return {str(outcome): count for outcome, count in outcomes.items()}
