"""The cap of a run: what it has spent, what is under way, and whether the next batch still fits.

It covers one run of the task: all its batches, attempts and tries, and what was paid before a clear. What is under way
counts as estimated until its bill is known.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Final

from airflow_provider_llmbatch.core.costs.estimate import estimate_model
from airflow_provider_llmbatch.core.costs.telling import (
    named,
    prices_told,
    told_estimate,
    unknown_price,
)
from airflow_provider_llmbatch.core.costs.tokens import tokens_of_usage
from airflow_provider_llmbatch.core.costs.wording import dollars
from airflow_provider_llmbatch.core.run.beforehand import estimate_of, volume_of
from airflow_provider_llmbatch.core.run.parts import state_of
from airflow_provider_llmbatch.core.run.stage import Stage
from airflow_provider_llmbatch.errors import BudgetExceededError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_provider_llmbatch.core.costs.estimate import Estimate
    from airflow_provider_llmbatch.core.run.job import Job
    from airflow_provider_llmbatch.core.run.manifest import AttemptEntry, Manifest
    from airflow_provider_llmbatch.core.run.parts import PartState
    from airflow_provider_llmbatch.core.run.records import IndexRecord, LandedRecord
    from airflow_provider_llmbatch.core.run.stage import StagePart

_NOTHING: Final = Decimal(0)


class Bill:
    """What the batches of a run cost: by their answers where they were landed, else as estimated."""

    def __init__(self, job: Job, estimate: Estimate) -> None:
        self._job = job
        self._estimate = estimate

    def spent(self, state: PartState) -> Decimal | None:
        """On the attempts that were landed; ``None`` if a price is not known."""
        return _total(self._landed(state.part, landed) for landed in state.landings)

    def next(self, state: PartState) -> Decimal | None:
        """On the attempt that is to be submitted, or is under way."""
        return self._asked(state.part, state.lines.rows if state.lines is not None else 0)

    def _landed(self, part: StagePart, landed: LandedRecord) -> Decimal | None:
        answered = _answered(landed)
        if answered and not landed.usage.total_tokens:  # some servers do not say
            return self._asked(part, answered)
        return cost_of(self._job, part.model, landed, default_time=landed.landed_at)

    def _asked(self, part: StagePart, rows: int) -> Decimal | None:
        if not rows:
            return _NOTHING
        group = (part.model, part.endpoint)
        known = self._estimate.of(group)
        volume = volume_of(part)
        return estimate_model(
            group,
            volume if rows == part.rows else volume.share(rows),
            self._job.prices,
            now=self._job.timing.clock(),
            calibration=known.calibration if known is not None else None,
        ).counted_usd


class Budget:
    """The cap, on one look at all parts."""

    def __init__(self, job: Job, index: IndexRecord, stage: Stage, cap: Decimal) -> None:
        self._cap = cap
        self._estimate = estimate_of(job, stage)
        self._bill = Bill(job, self._estimate)
        self._before = index.earlier_usd or _NOTHING
        self._spent: dict[int, Decimal | None] = {}
        self._under_way: dict[int, Decimal | None] = {}
        self._sum = self._before
        self._unknown = 0  # amounts that are in no sum
        if index.settled and index.settled_usd is not None:
            self._add(index.settled_usd)
            self._settled = index.settled_usd
        else:
            self._settled = _NOTHING
            for part in stage.parts[: index.settled]:
                self.note(state_of(job, index, part))

    def check_all(self) -> None:
        """Before anything is submitted: refuse what will cost too much.

        :raises BudgetExceededError: It will, or the price is not known.
        """
        counted = self._estimate.counted_usd
        if counted is None:
            raise BudgetExceededError(
                f"{unknown_price(self._estimate)} So max_cost_usd, which is {dollars(self._cap)}, cannot be kept. "
                "Nothing was uploaded or billed. A retry would find the same: give a price in the prices of the "
                "connection, or drop max_cost_usd, and clear the task."
            )
        if self._before + counted <= self._cap:
            return
        earlier = f" {dollars(self._before)} was spent on this run before." if self._before else ""
        raise BudgetExceededError(
            f"{told_estimate(self._estimate)} {self._counts(counted)}. max_cost_usd is {dollars(self._cap)}.{earlier} "
            "Nothing was uploaded or billed now. A retry would find the same: raise max_cost_usd, ask for shorter "
            "answers, for fewer rows or for a cheaper model, and clear the task."
        )

    def note(self, state: PartState) -> None:
        """Take in where a part stands."""
        number = state.part.number
        for amounts in (self._spent, self._under_way):
            if number in amounts:
                self._add(amounts[number], sign=-1)
        self._spent[number] = self._bill.spent(state)
        self._under_way[number] = self._bill.next(state) if _is_under_way(state) else _NOTHING
        self._add(self._spent[number])
        self._add(self._under_way[number])

    def has_room(self, state: PartState) -> bool:
        """Whether the next attempt of a part fits; what is recorded of it already does not count twice."""
        costs = self._bill.next(state)
        recorded = self._under_way.get(state.part.number, _NOTHING)
        if costs is None or recorded is None or self._unknown:
            return False
        return self._sum - recorded + costs <= self._cap

    def spent_below(self, number: int, *, settled: int) -> Decimal | None:
        """On the parts below a number, of which the first ones were settled before."""
        return _total((self._settled, *(self._spent.get(each, _NOTHING) for each in range(settled, number))))

    def refusal(self, states: Iterable[PartState]) -> str | None:
        """Why rows were not submitted, if that is for the cap."""
        left = [state for state in states if state.lines is not None and not _is_under_way(state)]
        refused = [state for state in left if not self.has_room(state)]
        if not refused:
            return None
        costs = self._bill.next(refused[0])
        if costs is None or self._unknown:
            models = named([state.part.model or "(no model)" for state in refused])
            return f"The price of {models} in batches is not known by now, so that max_cost_usd cannot be kept."
        return (
            f"{dollars(self._sum)} is spent of max_cost_usd, which is {dollars(self._cap)}, and the next batch would "
            f"cost up to {dollars(costs)} ({prices_told(self._estimate)})."
        )

    def _counts(self, counted: Decimal) -> str:
        if any(not each.bounded and each.calibration is None for each in self._estimate.models):
            return f"What counts is {dollars(counted)}: the likely figure, where nothing bounds the answers"
        return f"What counts is {dollars(counted)}: the high figure, since the answers may be that long"

    def _add(self, amount: Decimal | None, *, sign: int = 1) -> None:
        if amount is None:
            self._unknown += sign
        else:
            self._sum += sign * amount


def spent_on(job: Job, index: IndexRecord, manifest: Manifest | None) -> Decimal | None:
    """What an input cost that another one takes the place of, batches included that are cancelled for it.

    :param manifest: Of its set, if that was published.
    :returns: ``None`` if nothing tells.
    """
    before = index.earlier_usd or _NOTHING
    stage = Stage.open(job.stage_folder(index.stage_id))
    if stage is not None:
        bill = Bill(job, estimate_of(job, stage))
        states = [state_of(job, index, part) for part in stage.parts]
        under_way = [state for state in states if state.record is not None and state.record.state == "created"]
        return _total((before, *map(bill.spent, states), *map(bill.next, under_way)))
    if manifest is None:
        return index.earlier_usd
    attempts = ((part.model, attempt) for part in manifest.parts for attempt in part.attempts)
    told = (cost_of(job, model, attempt, default_time=manifest.published_at) for model, attempt in attempts)
    return _total((before, *told))


def cost_of(job: Job, model: str | None, ended: LandedRecord | AttemptEntry, *, default_time: float) -> Decimal | None:
    """What a batch was billed: as it was counted, or by its usage; ``None`` if its price is not known."""
    if ended.costs is not None and ended.costs.total_usd is not None:
        return ended.costs.total_usd
    found = job.prices.of(model, ended.created_at or default_time, asked=model)
    if found is None or found.batch is None:
        return None
    return found.batch.at(ended.usage.input_tokens // (_answered(ended) or 1)).cost(tokens_of_usage(ended.usage))


def _is_under_way(state: PartState) -> bool:
    """Whether there is, or may be, a batch of the next attempt."""
    return state.lines is not None and state.record is not None and state.record.state != "refused"


def _answered(ended: LandedRecord | AttemptEntry) -> int:
    return ended.outcomes.get("succeeded", 0) + ended.outcomes.get("invalid", 0)


def _total(amounts: Iterable[Decimal | None]) -> Decimal | None:
    total = _NOTHING
    for amount in amounts:
        if amount is None:
            return None
        total += amount
    return total
