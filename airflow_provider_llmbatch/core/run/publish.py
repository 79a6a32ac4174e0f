"""A run's one result set: every row of the stage once, in its order, with its best answer.

Data files are written first, under an id of their own, and the manifest last, in one step: a reader that follows the
manifest sees the old set or the new one, whole. The set that was replaced stays until the next publish, for readers
that are at it. Rows and answers are joined as bytes, so keys and columns come out as they went in.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import msgspec

from airflow_provider_llmbatch.adapters.lines import split_lines
from airflow_provider_llmbatch.core.costs.bill import total_costs
from airflow_provider_llmbatch.core.jsonl import read_blocks
from airflow_provider_llmbatch.core.run.costs_file import COSTS_FILE, bill_of, write_costs
from airflow_provider_llmbatch.core.run.join import best_answers
from airflow_provider_llmbatch.core.run.manifest import (
    MANIFEST,
    Manifest,
    PartEntry,
    read_manifest,
    total_outcomes,
    total_usage,
)
from airflow_provider_llmbatch.core.run.tables import table
from airflow_provider_llmbatch.errors import ResultSetError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from structlog.typing import FilteringBoundLogger

    from airflow_provider_llmbatch.core.costs.bill import Costs
    from airflow_provider_llmbatch.core.run.join import BestAnswers
    from airflow_provider_llmbatch.core.run.manifest import AttemptEntry, Format, RunFacts
    from airflow_provider_llmbatch.core.run.stage import Ordinals, Stage, StagePart
    from airflow_provider_llmbatch.core.run.tables import Table
    from airflow_provider_llmbatch.core.storage import Folder
    from airflow_provider_llmbatch.models import Outcome

_ORDINAL_AT: Final = len(b'{"ordinal":')
_WORD_AT: Final = len(b'"outcome":"')
_ANSWERED: Final = (b"succeeded", b"invalid")
_NOT_SUBMITTED: Final = (
    b'"outcome":"missing","text":null,"parsed":null,"error":{"code":"not_submitted","message":"The run ended before '
    b'this request was submitted."},"finish_reason":null,"usage":null,"cost_usd":0,"provider":%b,"model":%b,'
    b'"batch_id":null,"attempt":null}'
)
_encode = msgspec.json.Encoder().encode


def publish(
    stage: Stage,
    output: Folder,
    *,
    answers: Folder,
    attempts: Mapping[int, Sequence[AttemptEntry]],
    bills: Mapping[str, Costs] | None = None,
    facts: RunFacts,
    publish_id: str,
    published_at: int,
    kind: Format = "jsonl",
    log: FilteringBoundLogger | None = None,
) -> Manifest:
    """Write the result set of a run, and make it the one that the output has.

    Repeated under the same id, it does what is not done yet, and nothing once that is published.

    :param answers: Where ``land`` wrote them.
    :param attempts: That were landed, per part in ascending order. Rows of a part without any are ``missing``, with
        the code ``not_submitted``.
    :param bills: What each batch cost, by its id.
    :param publish_id: A name for the set's folder that no other set of this output has had.
    :param published_at: Seconds since 1970.
    :raises ResultSetError: The outcomes do not add up to the input, or a manifest that is there cannot be read.
    :raises LLMBatchError: The output cannot be written, or the stage cannot be read.
    """
    before = read_manifest(output)
    if before is not None and before.publish_id == publish_id:
        return before
    data = output.child("data")
    if before is not None and before.previous not in (None, publish_id):
        _forget(data.child(before.previous), log)
    bills = bills or {}
    models: set[bytes] = set()
    parts = []
    for part in stage.parts:
        tried = tuple(attempts.get(part.number, ()))
        counts, size, name = _publish_part(
            stage, part, tried, data.child(publish_id), answers=answers, facts=facts, kind=kind, models=models
        )
        parts.append(
            PartEntry(
                number=part.number,
                uri=f"data/{publish_id}/{name}",
                rows=part.rows,
                bytes=size,
                outcomes=counts,
                model=part.model,
                endpoint=part.endpoint,
                costs=total_costs(bill_of(attempt, bills) for attempt in tried).totals(),
                attempts=tuple(_with_costs(attempt, bills) for attempt in tried),
            )
        )
    outcomes = total_outcomes(part.outcomes for part in parts)
    _check_sum(sum(outcomes.values()), stage.rows, "The result set")
    costs = write_costs(data.child(publish_id), parts, bills, facts=facts, publish_id=publish_id)
    manifest = Manifest(
        **dict(facts),
        publish_id=publish_id,
        previous=before.publish_id if before is not None else None,
        published_at=published_at,
        format=kind,
        rows=stage.rows,
        outcomes=outcomes,
        usage=total_usage(attempt.usage for part in parts for attempt in part.attempts),
        costs=costs,
        costs_uri=f"data/{publish_id}/{COSTS_FILE}",
        models=tuple(sorted(msgspec.json.decode(model) for model in models)),
        parts=tuple(parts),
    )
    output.put(MANIFEST, manifest.model_dump_json(indent=1).encode() + b"\n")
    return manifest


def _with_costs(attempt: AttemptEntry, bills: Mapping[str, Costs]) -> AttemptEntry:
    bill = bills.get(attempt.batch_id or "")
    return attempt.model_copy(update={"costs": bill.totals()}) if bill is not None else attempt


def _forget(folder: Folder, log: FilteringBoundLogger | None) -> None:
    try:
        folder.delete_tree()
    except StorageError as error:  # some may write to a bucket, and not delete: no reason to withhold a set
        if log is not None:
            log.warning(f"{folder.uri()}, which no manifest names any more, stays: {error}")


def _publish_part(
    stage: Stage,
    part: StagePart,
    tried: Sequence[AttemptEntry],
    folder: Folder,
    *,
    answers: Folder,
    facts: RunFacts,
    kind: Format,
    models: set[bytes],
) -> tuple[dict[Outcome, int], int, str]:
    name = f"part-{part.number:05}.{kind}"
    ordinals = stage.ordinals(part)
    default = None if tried else _NOT_SUBMITTED % (_encode(facts.provider), _encode(part.model))
    numbers = [attempt.attempt for attempt in tried]
    with best_answers(answers, part.number, numbers, ordinals) as best, folder.write(name) as stream:
        rows = table(kind, stream)
        counts = _join(_heads(stage, part, ordinals), best, default, rows, models)
        _check_sum(counts.total(), part.rows, name)
        size = rows.finish()
    return total_outcomes([counts]), size, name


def _join(
    heads: Iterator[bytes], best: BestAnswers, default: bytes | None, rows: Table, models: set[bytes]
) -> Counter[Outcome]:
    counts: Counter[bytes] = Counter()
    tail_of, add = best.tail, rows.add
    end = b"no row ends so"
    for place, head in enumerate(heads):
        tail = tail_of(place) or default
        if tail is None:
            continue  # the sum will tell
        word = tail[_WORD_AT : tail.index(b'"', _WORD_AT)]
        counts[word] += 1
        if word in _ANSWERED and not tail.endswith(end):
            end = tail[tail.rindex(b'"model":', 0, tail.rindex(b',"batch_id":')) :]
            model = end[len(b'"model":') : end.rindex(b',"batch_id":')]
            if model != b"null":
                models.add(model)
        add(head, tail)
    return Counter({word.decode(): count for word, count in counts.items()})  # type: ignore[misc] # as landed


def _heads(stage: Stage, part: StagePart, ordinals: Ordinals) -> Iterator[bytes]:
    """What the stage has of each row, without its ordinal, which must be the one that is due."""
    due = iter(ordinals)
    with stage.rows_of(part) as stream:
        for line in split_lines(read_blocks(stream)):
            end = line.find(b",", _ORDINAL_AT)
            if line[_ORDINAL_AT : end if end >= 0 else -1] != b"%d" % next(due, -1):
                raise ResultSetError(
                    f"The rows of part {part.number} in the stage are not those that were submitted, so nothing was "
                    "published. What was billed can be had as long as the provider keeps it. Restore the stage's "
                    'files, or clear the task with on_clear="restart", which pays for all rows again.'
                )
            yield line[end + 1 : -1] if end >= 0 else b""


def _check_sum(outcomes: int, rows: int, name: str) -> None:
    if outcomes != rows:
        raise ResultSetError(
            f"{name} would have {outcomes:,} rows with an outcome, but the input has {rows:,}: nothing was published. "
            "What was billed can be landed again as long as the provider keeps it: delete the files of answers in the "
            "stage, and clear the task."
        )
