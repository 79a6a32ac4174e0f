"""One look at all parts of a run: what ended is landed, what may be submitted is, and the rest is waited for."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from airflow_provider_llmbatch.core.backoff import queue_refusal_of
from airflow_provider_llmbatch.core.costs.telling import told_estimate
from airflow_provider_llmbatch.core.run.beforehand import estimate_of
from airflow_provider_llmbatch.core.run.budget import Budget
from airflow_provider_llmbatch.core.run.full_queue import Pause, out_of_patience, pause_after, pause_of
from airflow_provider_llmbatch.core.run.parts import found_batch, land_batch, state_of, submit, untouched
from airflow_provider_llmbatch.core.run.telemetry import landing_told, part_span
from airflow_provider_llmbatch.core.verdict import moment
from airflow_provider_llmbatch.errors import EnqueuedTokenLimitError, LLMBatchError, NotFoundError
from airflow_provider_llmbatch.models import Batch

if TYPE_CHECKING:
    from airflow_provider_llmbatch.core.ledger import BatchRecord
    from airflow_provider_llmbatch.core.run.job import Job
    from airflow_provider_llmbatch.core.run.parts import PartState
    from airflow_provider_llmbatch.core.run.records import IndexRecord
    from airflow_provider_llmbatch.core.run.stage import Stage, StagePart

_HOUR: Final = 3600.0
_CANCELLATION: Final = 900.0
"""Seconds that a batch gets to end after it was cancelled; OpenAI says up to 10 minutes."""
_PARTS_TO_REMEMBER: Final = 8
_OUTAGE: Final = 60.0
"""Seconds until a submission that met an outage is tried again, while other batches are under way."""


@dataclass(frozen=True)
class Waiting:
    """Batches are under way, or the provider's queue is full.

    :param batch_ids: Those that have not ended.
    :param resubmit_at: When to submit again, in seconds since 1970; ``None`` if nothing waits for that.
    :param deadline: When to call ``advance`` at the latest, in seconds since 1970.
    :param any_end: Whether to call ``advance`` as soon as one of the batches ended, since a part waits for its place;
        else when all of them have.
    :param parts: Of the whole run; ``parts_done`` of them have nothing left to do.
    """

    batch_ids: tuple[str, ...]
    resubmit_at: float | None
    deadline: float
    any_end: bool
    parts: int
    parts_done: int


@dataclass(frozen=True)
class _Live:
    batch_id: str
    until: float


class Round:
    def __init__(self, job: Job, index: IndexRecord, stage: Stage) -> None:
        self._job = job
        self._index = index
        self._stage = stage
        self._states: dict[int, PartState] = {}
        self._live: dict[int, _Live] = {}
        self._given_up: dict[int, str] = {}
        self._failed_for_queue: list[str] = []
        self._idle: deque[int] = deque()
        self._is_too_dear = False
        cap = job.options.max_cost_usd
        self._budget = Budget(job, index, stage, cap) if cap is not None else None
        self._listed: list[Batch] | None = None
        self._submit_until = (
            index.started_at + job.options.run_deadline if job.options.run_deadline is not None else None
        )

    def all_states(self) -> list[PartState]:
        """Of every part, once there is nothing to wait for."""
        for part in self._stage.parts[: self._index.settled]:
            self._states[part.number] = state_of(self._job, self._index, part)
        return [self._states[part.number] for part in self._stage.parts]

    @property
    def given_up(self) -> tuple[str, ...]:
        """Batches that have not ended though their deadline is long past."""
        return tuple(self._given_up.values())

    @property
    def over_budget(self) -> str | None:
        """Why rows are left that were not submitted, if that is for ``max_cost_usd``."""
        return self._budget.refusal(self._states.values()) if self._budget is not None and self._is_too_dear else None

    def advance(self) -> Waiting | None:
        """``None`` when there is nothing left to wait for.

        :raises BudgetExceededError: Nothing was submitted, and all of it would cost too much.
        """
        if self._index.forgotten_at is not None:
            self._let_lists_catch_up(self._index.forgotten_at)
            self._listed = list(self._job.adapter.list_batches())  # one list serves all parts
        self._settle_begun()
        if self._is_new():
            self._job.log.info(told_estimate(estimate_of(self._job, self._stage)))
            if self._budget is not None:
                self._budget.check_all()
        outcome = self._submit_idle()
        self._remember_settled()
        if self._live or (self._affordable() and not self._is_late()):
            return self._waiting(outcome)
        return None

    def _is_new(self) -> bool:
        """Whether nothing of this input was submitted."""
        return not self._index.settled and not any(state.landings or state.record for state in self._states.values())

    def _affordable(self) -> bool:
        """Whether something waits to be submitted that ``max_cost_usd`` allows, though nothing more is landed."""
        return bool(self._idle) and not self._is_too_dear

    def _let_lists_catch_up(self, since: float) -> None:
        wait = since + self._job.timing.listing_lag - self._job.timing.clock()
        if wait > 0:
            self._job.log.info(f"Looking for batches of earlier tries in {wait:.0f} s, when the list must show them")
            self._job.timing.sleep(wait)

    def _remember_settled(self) -> None:
        """Let the next calls skip what is done: else looking at many parts would cost their number squared."""
        settled = self._index.settled
        while settled < len(self._stage.parts) and self._states[settled].lines is None:
            settled += 1
        if settled - self._index.settled >= _PARTS_TO_REMEMBER:
            spent = self._budget.spent_below(settled, settled=self._index.settled) if self._budget is not None else None
            self._job.index.write(self._index.model_copy(update={"settled": settled, "settled_usd": spent}))

    def _settle_begun(self) -> None:
        """Parts are begun in their order, so behind the first one that was not, nothing needs to be read."""
        parts = iter(self._stage.parts[self._index.settled :])
        for part in parts:
            self._settle(part)
            state = self._states[part.number]
            if not state.landings and state.record is None:
                break
        for part in parts:
            self._states[part.number] = untouched(part)
            self._idle.append(part.number)

    def _settle(self, part: StagePart) -> None:
        """Land what ended of a part, and sort it by what it waits for now."""
        while True:
            state = self._look(part)
            if state.lines is None:
                return
            if state.record is None or state.record.batch_id is None:
                self._idle.append(part.number)
                return
            if not self._placed(state, state.record, self._batch(state.record, state.record.batch_id)):
                return

    def _look(self, part: StagePart) -> PartState:
        state = self._states[part.number] = state_of(self._job, self._index, part)
        if self._budget is not None:
            self._budget.note(state)
        return state

    def _batch(self, record: BatchRecord, batch_id: str) -> Batch | None:
        """The batch; ``None`` if it was created just now, and is not shown yet."""
        try:
            return self._job.adapter.retrieve_batch(batch_id)
        except NotFoundError as error:
            if self._job.timing.clock() < record.intended_at + self._job.timing.listing_lag:
                return None
            if record.max_tries == self._job.attempt.max_tries:
                raise NotFoundError(
                    f"{batch_id} is gone at the provider, with whatever it answered: {error} Nothing was submitted or "
                    "published now. A retry would find the same; clearing this task submits its rows again, which is "
                    "billed again.",
                    status_code=error.status_code,
                    code=error.code,
                    request_id=error.request_id,
                ) from error
            self._job.log.warning(f"{batch_id} is gone at the provider: its rows count as missing", batch_id=batch_id)
            return Batch(id=batch_id, status="cancelled")

    def _placed(self, state: PartState, record: BatchRecord, batch: Batch | None) -> bool:
        """Whether the batch was landed, so that its part is to be looked at again; else it is sorted in."""
        number = state.part.number
        if batch is None:
            self._live[number] = _Live(record.batch_id or "", record.intended_at + self._job.timing.listing_lag)
            return False
        if queue_refusal_of(batch, title=self._job.adapter.title) is not None:
            self._failed_for_queue.append(batch.id)
            self._idle.append(number)
            return False
        deadline = self._deadline_of(batch, record)
        if not batch.is_terminal and self._job.timing.clock() >= deadline:
            record, batch, deadline = self._stopped(state, record, batch, deadline)
        if batch.is_terminal:
            land = partial(land_batch, self._job, self._index, self._stage, state, record, batch)
            landing_told(self._job, state, batch.id, land)
            return True
        if self._job.timing.clock() >= deadline:
            self._given_up[number] = batch.id
            self._job.log.warning(
                f"{batch.id} has not ended at its deadline, {moment(deadline)}: it may go on", batch_id=batch.id
            )
        else:
            self._live[number] = _Live(batch.id, deadline)
        return False

    def _deadline_of(self, batch: Batch, record: BatchRecord) -> float:
        allowed = self._job.options.deadline
        if allowed is None:
            allowed = (self._job.adapter.worst_case_hours + 1) * _HOUR
        return (batch.created_at if batch.created_at is not None else record.intended_at) + allowed

    def _stopped(
        self, state: PartState, record: BatchRecord, batch: Batch, deadline: float
    ) -> tuple[BatchRecord, Batch, float]:
        """Cancel a batch at its deadline, if that is wanted; it then gets some time to end."""
        if not self._job.options.cancel_on_deadline:
            return record, batch, deadline
        if record.stopped is None:
            # Before it is done: whoever lands this batch must not take it for one that somebody else cancelled.
            record = record.model_copy(update={"stopped": "deadline", "max_tries": self._job.attempt.max_tries})
            self._job.batches(state.part.number, state.attempt).write(record)
        if batch.status != "cancelling":
            self._job.log.warning(
                f"{batch.id} has not ended at its deadline, {moment(deadline)}: cancelling it", batch_id=batch.id
            )
            batch = self._job.adapter.cancel_batch(batch.id)
        return record, batch, deadline + _CANCELLATION

    def _submit_idle(self) -> _Submitted:
        job = self._job
        outcome = _Submitted(pause_of(job, landed_at=self._landed_at(), failed=self._failed_for_queue))
        waiting = deque(sorted(self._idle, key=lambda number: (not self._in_doubt(number), number)))
        self._idle.clear()
        while waiting:
            number = waiting.popleft()
            state = self._states[number]
            batch = self._submitted(state, outcome) if self._may_submit(outcome) and self._fits(state) else None
            if batch is None and self._in_doubt(number):
                batch = found_batch(job, self._index, state)
            if batch is None:
                self._idle.append(number)
                continue
            state = self._look(state.part)
            assert state.record is not None  # noqa: S101 - just written
            before = len(self._idle)
            if self._placed(state, state.record, batch):
                self._settle(state.part)
            while len(self._idle) > before:  # what was landed has a next attempt
                waiting.append(self._idle.pop())
        return outcome

    def _may_submit(self, outcome: _Submitted) -> bool:
        if (
            self._job.is_stopping()
            or self._is_late()
            or outcome.stop
            or len(self._live) >= self._job.options.max_parallel_batches
        ):
            return False
        return outcome.pause is None or (outcome.pause.again_at is None and not self._live)

    def _fits(self, state: PartState) -> bool:
        # The first that does not fit holds back all behind it, since parts are begun in their order.
        if self._budget is not None and not self._is_too_dear and not self._budget.has_room(state):
            self._job.log.info(f"Part {state.part.number} is held back: with it, max_cost_usd could be exceeded")
            self._is_too_dear = True
        return not self._is_too_dear

    def _submitted(self, state: PartState, outcome: _Submitted) -> Batch | None:
        job = self._job
        try:
            with part_span(job, state):
                batch = submit(job, self._index, self._stage, state, listed=self._listed)
        except EnqueuedTokenLimitError as error:
            outcome.pause = pause_after(job, error, landed_at=self._landed_at())
            outcome.stop = True
            if outcome.pause.again_at is None and not self._live:
                raise out_of_patience(job, outcome.pause) from error
        except LLMBatchError as error:
            if not self._live:
                raise
            # What is under way was paid for, and is not left alone for this; an error that lasts is met again then.
            outcome.stop = True
            job.log.warning(f"{type(error).__name__}: {error} Batches that are under way are waited for meanwhile")
            if error.retriable:
                outcome.pause = Pause(job.timing.clock() + _OUTAGE)
        else:
            outcome.pause = None
            return batch
        return None

    def _waiting(self, outcome: _Submitted) -> Waiting:
        idle = bool(self._idle) and not self._is_late()  # those that are too dear now may not be when a bill is known
        again_at = outcome.pause.again_at if outcome.pause is not None and idle else None
        moments = [live.until for live in self._live.values()]
        if idle:
            moments += [moment for moment in (again_at, self._submit_until) if moment is not None]
        return Waiting(
            batch_ids=tuple(live.batch_id for live in self._live.values()),
            resubmit_at=again_at,
            deadline=min(moments, default=self._job.timing.clock()),
            any_end=idle,
            parts=len(self._stage.parts),
            parts_done=self._index.settled + sum(state.lines is None for state in self._states.values()),
        )

    def _is_late(self) -> bool:
        return self._submit_until is not None and self._job.timing.clock() >= self._submit_until

    def _in_doubt(self, number: int) -> bool:
        record = self._states[number].record
        return record is not None and record.state == "intended"

    def _landed_at(self) -> float:
        return max((landed.landed_at for state in self._states.values() for landed in state.landings), default=0.0)


@dataclass
class _Submitted:
    """What stands in the way of further submissions.

    :param stop: Nothing more in this round.
    """

    pause: Pause | None
    stop: bool = False
