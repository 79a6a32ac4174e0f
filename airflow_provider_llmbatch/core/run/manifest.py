"""The manifest of a published result set: what was asked, what came of it, and where it lies.

It is written last, and readers follow it, so it is the commit: what it does not name is not published. Within one
schema version fields are only added; a reader of ours refuses a later version rather than misread it.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from airflow_provider_llmbatch.core.costs.bill import Costs, CostTotals  # noqa: TC001 - pydantic reads them
from airflow_provider_llmbatch.core.costs.estimate import Estimate  # noqa: TC001 - pydantic reads it
from airflow_provider_llmbatch.core.costs.tokens import Tokens, tokens_of_usage
from airflow_provider_llmbatch.errors import ResultSetError
from airflow_provider_llmbatch.models import BatchStatus, Outcome, Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from airflow_provider_llmbatch.core.storage import Folder

MANIFEST: Final = "manifest.json"
Format = Literal["jsonl", "parquet"]
OUTCOMES: Final[tuple[Outcome, ...]] = ("succeeded", "invalid", "failed", "expired", "cancelled", "missing")


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)  # as in ``models``


class RunIdentity(_Entry):
    """The task that made the set, in Airflow's names; ``key`` names its stage, and is the same on every try."""

    key: str
    namespace: str = ""
    dag_id: str = ""
    run_id: str = ""
    task_id: str = ""
    map_index: int = -1


class Fingerprints(_Entry):
    """What a later try compares, to tell whether it would ask for the same again.

    :param rows: SHA-256 over the source's rows, whatever their order, in hexadecimal.
    :param parameters: SHA-256 over everything else that shapes a request, in hexadecimal.
    """

    rows: str
    parameters: str
    model: str | None = None


class AttemptEntry(_Entry):
    """One submission of a part, or of those of its rows that had no answer yet.

    :param file_id: The input file at the provider; it may be deleted by now.
    :param key: What the batch carries as ``llmbatch_key``.
    :param outcomes: Of the rows that were submitted in this attempt.
    :param usage: What this attempt was billed for, in tokens.
    :param costs: The same, in dollars; ``None`` if an older release landed it. The published bill has its models.
    :param created_at: Seconds since 1970, as are all times here.
    """

    attempt: int
    file_id: str | None = None
    batch_id: str | None = None
    key: str | None = None
    status: BatchStatus | None = None
    outcomes: dict[Outcome, int] = {}
    usage: Usage = Usage()
    costs: CostTotals | None = None
    created_at: int | None = None
    ended_at: int | None = None


class PartEntry(_Entry):
    """One data file.

    :param uri: Relative to the manifest.
    :param outcomes: Of its rows, each in its best attempt; they add up to ``rows``.
    :param costs: Of all its attempts.
    """

    number: int
    uri: str
    rows: int
    bytes: int
    outcomes: dict[Outcome, int]
    model: str | None = None
    endpoint: str | None = None
    costs: CostTotals | None = None
    attempts: tuple[AttemptEntry, ...] = ()


class ErrorEntry(_Entry):
    """One of the most frequent reasons why rows have no good answer.

    :param code: The provider's, or our own; the outcome where there is none. At most 60 characters.
    :param count: Of the rows that have it.
    :param uri: The data file with an example, relative to the manifest.
    :param line: Of the example in that file, counted from 1.
    """

    outcome: Outcome
    code: str
    count: int
    uri: str
    line: int


class RunFacts(_Entry):
    """What is known of a run before its set is published.

    :param source: Where the rows came from, for people: no query with literals in it, and no secrets.
    :param started_at: When the run was first tried, in seconds since 1970.
    :param estimate: What it was expected to cost.
    """

    run: RunIdentity
    provider: str
    source: str
    fingerprints: Fingerprints
    started_at: int
    estimate: Estimate | None = None


class Manifest(RunFacts):
    """A whole result set.

    :param previous: The publish id of the set that this one replaced, whose files stay until the next publish.
    :param outcomes: Of all rows; they add up to ``rows``.
    :param usage: Tokens of all attempts, those included whose answers a later attempt replaced.
    :param costs: Of all attempts, each billed once; ``None`` in a set of an older release.
    :param costs_uri: The bill with every batch, relative to the manifest.
    :param models: That answered, as the provider names them, sorted.
    :param errors: The ten most frequent ones, the most frequent first.
    """

    schema_version: Literal[1] = 1
    publish_id: str
    previous: str | None = None
    published_at: int
    format: Format
    rows: int
    outcomes: dict[Outcome, int]
    usage: Usage
    costs: Costs | None = None
    costs_uri: str | None = None
    models: tuple[str, ...] = ()
    errors: tuple[ErrorEntry, ...] = ()
    parts: tuple[PartEntry, ...] = ()

    @property
    def reasons(self) -> dict[str, int]:
        """How many rows have each of the most frequent error codes, whatever their outcome."""
        counts: Counter[str] = Counter()
        for error in self.errors:
            counts[error.code] += error.count
        return dict(counts)


def manifest_uri(output: str) -> str:
    """Where the manifest of a set lies.

    :param output: The URI of the set's folder, as the user wrote it.
    """
    return f"{output.rstrip('/')}/{MANIFEST}"


def read_manifest(folder: Folder) -> Manifest | None:
    """The manifest of a folder of results, ``None`` if nothing was published there.

    :raises ResultSetError: There is one, of another release or of something else.
    :raises LLMBatchError: The storage cannot be read.
    """
    content = folder.get(MANIFEST)
    if content is None:
        return None
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        raise ResultSetError(
            f"{folder.uri(MANIFEST)} is no manifest that this release can read ({error.error_count()} fields do not "
            "fit, or it is no JSON): another release wrote it, or something else. Nothing was published and nothing "
            "there was touched; answers that were paid for stay in the stage. Move that file away or choose another "
            "output, and retry."
        ) from error


def total_outcomes(all_counts: Iterable[Mapping[Outcome, int]]) -> dict[Outcome, int]:
    """The sums per outcome, without those that never came."""
    total = dict.fromkeys(OUTCOMES, 0)
    for counts in all_counts:
        for outcome, count in counts.items():
            total[outcome] += count
    return {outcome: count for outcome, count in total.items() if count}


def total_usage(usages: Iterable[Usage]) -> Usage:
    """The sums of all token counts."""
    total = Tokens()
    for usage in usages:
        total.add(tokens_of_usage(usage))
    return total.as_usage()
