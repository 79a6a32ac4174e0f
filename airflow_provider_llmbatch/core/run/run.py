"""The steps of a run: stage, submit, land, resubmit, publish.

Every call of ``advance`` reads the truth anew (ledger, stage, provider) and goes on from there, so a process may die
anywhere between two side effects. Nothing here waits, but for a list at the provider that has to catch up.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from airflow_provider_llmbatch.core.run.budget import Budget
from airflow_provider_llmbatch.core.run.ending import clean_up, publish_set, shortfall_of
from airflow_provider_llmbatch.core.run.frequent_errors import FrequentErrors
from airflow_provider_llmbatch.core.run.generation import input_of
from airflow_provider_llmbatch.core.run.job import Job, RunInput
from airflow_provider_llmbatch.core.run.manifest import read_manifest
from airflow_provider_llmbatch.core.run.parts import state_of
from airflow_provider_llmbatch.core.run.round import Round, Waiting
from airflow_provider_llmbatch.core.run.verdict import error_of_set
from airflow_provider_llmbatch.errors import ResultSetError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_llmbatch.core.run.manifest import Manifest
    from airflow_provider_llmbatch.core.run.parts import PartState
    from airflow_provider_llmbatch.core.run.records import IndexRecord
    from airflow_provider_llmbatch.core.run.stage import Stage
    from airflow_provider_llmbatch.core.run.verdict import Shortfall
    from airflow_provider_llmbatch.errors import LLMBatchError
    from airflow_provider_llmbatch.models import Outcome

__all__ = ["Published", "Run", "RunInput", "Waiting"]


@dataclass(frozen=True)
class Published:
    """The result set is whole.

    :param error: What it means for the task, ``None`` if that is well.
    :param examples: What the provider said of one row for each outcome and code of the manifest's errors. It may quote
        a prompt. Known only where the set was written.
    """

    manifest: Manifest
    error: LLMBatchError | None = None
    examples: Mapping[tuple[Outcome, str], str] = field(default_factory=dict)


class Run(Job):
    """One result set out of one input, on every try of a task."""

    def advance(self) -> Waiting | Published:
        """Go as far as it goes without waiting for the provider.

        :raises BudgetExceededError: It would cost more than ``max_cost_usd``; nothing was submitted.
        :raises LLMBatchError: A retriable one leaves everything as it is for the next try; any other needs a person.
        """
        index, stage = input_of(self)
        if index.state == "published":
            return self._published(index, stage)
        assert stage is not None  # noqa: S101 - only a published run may be without
        round_ = Round(self, index, stage)
        waiting = round_.advance()
        if waiting is not None:
            return waiting
        states = round_.all_states()
        errors = FrequentErrors()
        shortfall = shortfall_of(states, running=round_.given_up, over_budget=round_.over_budget)
        with self.telemetry.span("publish", rows=stage.rows):
            manifest = publish_set(self, index, stage, states, errors, running=round_.given_up)
        concluded = self._concluded(index, stage, manifest, shortfall, states)
        return replace(concluded, examples=errors.messages())

    def _published(self, index: IndexRecord, stage: Stage | None) -> Published:
        manifest = read_manifest(self.output)
        if manifest is None:
            raise ResultSetError(
                f"{self.output.uri('manifest.json')} was deleted while this task was about to return it. Nothing was "
                "billed. Clear the task: it publishes again what can still be had."
            )
        states = [state_of(self, index, part) for part in stage.parts] if stage is not None else []
        submitted = [state.record.batch_id for state in states if state.lines is not None and state.record is not None]
        shortfall = shortfall_of(
            states, running=tuple(filter(None, submitted)), over_budget=self._over_budget(index, stage, states)
        )
        return self._concluded(index, stage, manifest, shortfall, states)

    def _over_budget(self, index: IndexRecord, stage: Stage | None, states: list[PartState]) -> str | None:
        cap = self.options.max_cost_usd
        if cap is None or stage is None or not any(state.lines is not None for state in states):
            return None
        budget = Budget(self, index.model_copy(update={"settled": 0}), stage, cap)
        for state in states:
            budget.note(state)
        return budget.refusal(states)

    def _concluded(
        self,
        index: IndexRecord,
        stage: Stage | None,
        manifest: Manifest,
        shortfall: Shortfall,
        states: list[PartState],
    ) -> Published:
        error = error_of_set(manifest, shortfall, on_failed_rows=self.options.on_failed_rows, output=self.output.uri())
        if error is None and stage is not None:
            clean_up(self, index, manifest, states)
        return Published(manifest, error)
