"""Operators for batches: create one and wait for it, and land what came back."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec
from airflow.sdk import BaseOperator
from airflow.sdk.configuration import conf
from typing_extensions import override

from airflow_provider_llmbatch.core.ledger import BatchRecord
from airflow_provider_llmbatch.core.polling import Done, GiveUp, PollPolicy, Verdict, watch
from airflow_provider_llmbatch.core.progress import Progress
from airflow_provider_llmbatch.core.results import merge_results
from airflow_provider_llmbatch.core.storage import landing
from airflow_provider_llmbatch.core.submit import BatchJob, submit_batch
from airflow_provider_llmbatch.core.verdict import error_of_deadline, error_of_end, moment
from airflow_provider_llmbatch.errors import BatchInputError, LLMBatchError
from airflow_provider_llmbatch.hooks.batch import LLMBatchHook, path_of
from airflow_provider_llmbatch.operators.task import airflow_verdict, attempt_of, ledger_of, slot_of
from airflow_provider_llmbatch.triggers.batch import BatchEvent, LLMBatchTrigger

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import timedelta

    from airflow.sdk import Context

    from airflow_provider_llmbatch.core.polling import Look
    from airflow_provider_llmbatch.models import Batch, Outcome

_HOUR = 3600.0


class LLMBatchCreateBatchOperator(BaseOperator):
    """Create a batch exactly once, and wait until it ends.

    A retry, or a clear while the batch is of use, finds the batch that an earlier try created and waits for that.
    Returns the batch id, and pushes the XCom keys ``batch_id`` (as soon as there is a batch), ``output_file_id`` and
    ``error_file_id`` (null when absent), also when the task fails. Outages are borne up to the deadline. A batch that
    failed, expired or was cancelled fails the task, without a retry, with the provider's reasons.

    :param input_file_id: The uploaded input. (templated)
    :param endpoint: What all its lines ask for. (templated)
    :param completion_window: ``24h`` is the only one at OpenAI.
    :param metadata: Up to 15 pairs of text for the batch at the provider; the package needs a sixteenth. (templated)
    :param output_expires_after: Seconds until the provider deletes the result files, from their creation.
    :param wait: Whether to wait for the end; if not, the task ends as soon as the batch is created.
    :param deferrable: Whether to wait in the triggerer; by default as ``[operators] default_deferrable`` says.
    :param deadline: How long after its creation the batch may end; by default the provider's worst case and an hour
        (OpenAI: 25 h).
    :param cancel_on_deadline: Whether a batch that has not ended by then is cancelled.
    :param min_poll_interval: Seconds between two looks at a young batch.
    :param max_poll_interval: Seconds between two looks at an old one; in between a twentieth of its age.
    :param llmbatch_conn_id: The connection. (templated)
    """

    template_fields: Sequence[str] = ("input_file_id", "endpoint", "metadata", "llmbatch_conn_id")
    template_fields_renderers = {"metadata": "json"}  # noqa: RUF012 - BaseOperator declares it so
    ui_color: str = "#d9eae4"

    def __init__(
        self,
        *,
        input_file_id: str,
        endpoint: str = "/v1/chat/completions",
        completion_window: str = "24h",
        metadata: Mapping[str, str] | None = None,
        output_expires_after: int | None = None,
        wait: bool = True,
        deferrable: bool | None = None,
        deadline: timedelta | None = None,
        cancel_on_deadline: bool = True,
        min_poll_interval: float = 10,
        max_poll_interval: float = 300,
        llmbatch_conn_id: str = LLMBatchHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 0 < min_poll_interval <= max_poll_interval:
            raise ValueError(
                f"0 < min_poll_interval <= max_poll_interval must hold, not {min_poll_interval} and {max_poll_interval}"
            )
        self.input_file_id = input_file_id
        self.endpoint = endpoint
        self.completion_window = completion_window
        self.metadata = metadata
        self.output_expires_after = output_expires_after
        self.wait = wait
        self.deferrable = (
            conf.getboolean("operators", "default_deferrable", fallback=False) if deferrable is None else deferrable
        )
        self.deadline = deadline
        self.cancel_on_deadline = cancel_on_deadline
        self.min_poll_interval = min_poll_interval
        self.max_poll_interval = max_poll_interval
        self.llmbatch_conn_id = llmbatch_conn_id

    @override
    def execute(self, context: Context) -> str:
        hook = LLMBatchHook(self.llmbatch_conn_id)
        with airflow_verdict():
            if not self.input_file_id:
                raise BatchInputError("The input_file_id is empty. Nothing was created or billed.")
            batch = submit_batch(
                hook.adapter,
                ledger_of(context, "llmbatch_batch", BatchRecord),
                slot_of(context),
                BatchJob(
                    self.input_file_id,
                    self.endpoint,
                    self.completion_window,
                    self.metadata or {},
                    self.output_expires_after,
                ),
                attempt=attempt_of(context),
                timing=hook.timing,
                log=self.log,
            )
            context["ti"].xcom_push(key="batch_id", value=batch.id)
            if url := hook.adapter.console_url(batch.id):
                self.log.info(f"Console: {url}")
            if batch.is_terminal:
                return self._ended(context, hook, batch)
            if not self.wait:
                return batch.id
            policy = self._policy(hook, batch)
            self.log.info(
                f"Waiting at most until {moment(policy.deadline)}; polling every {self.min_poll_interval:g} s at first"
            )
            if self.deferrable:
                self._defer(batch, policy)
            verdict = self._wait(hook, batch, policy)
            return self._conclude(context, hook, batch.id, verdict, policy.deadline)

    def _policy(self, hook: LLMBatchHook, batch: Batch) -> PollPolicy:
        """Counted from the batch's creation, so that a retry that finds it does not begin to wait anew."""
        hours = hook.adapter.worst_case_hours + 1
        allowed = self.deadline.total_seconds() if self.deadline is not None else hours * _HOUR
        begin = batch.created_at if batch.created_at is not None else time.time()
        return PollPolicy(begin + allowed, self.min_poll_interval, self.max_poll_interval)

    def _defer(self, batch: Batch, policy: PollPolicy) -> NoReturn:
        self.defer(
            trigger=LLMBatchTrigger(
                llmbatch_conn_id=self.llmbatch_conn_id,
                batch_id=batch.id,
                deadline=policy.deadline,
                min_poll_interval=policy.min_interval,
                max_poll_interval=policy.max_interval,
            ),
            method_name="execute_complete",
        )

    def execute_complete(self, context: Context, event: BatchEvent) -> str:
        """Go on after the trigger fired; its event is a hint, and the batch itself is read again."""
        hook = LLMBatchHook(self.llmbatch_conn_id)
        with airflow_verdict():
            batch_id = event["batch_id"]
            if event["status"] == "given_up":
                raise LLMBatchError(self._given_up(batch_id, event["error"]))
            batch = hook.retrieve_batch(batch_id)
            if batch.is_terminal:
                return self._ended(context, hook, batch)
            if event["status"] == "out_of_time":
                return self._out_of_time(context, hook, batch_id, event["deadline"])
            self.log.info(f"The trigger saw {batch_id} end, but it is {batch.status}: waiting on")
            return self._defer(batch, PollPolicy(event["deadline"], self.min_poll_interval, self.max_poll_interval))

    def _wait(self, hook: LLMBatchHook, batch: Batch, policy: PollPolicy) -> Verdict:
        """The same wait without a triggerer."""
        waiting = watch(policy)
        progress = Progress()
        try:
            wait = next(waiting)
            while True:
                time.sleep(wait.seconds)
                look = self._look(hook, batch.id)
                progress.report(look, time.time(), self.log)
                wait = waiting.send(look)
        except StopIteration as end:
            verdict: Verdict = end.value
            return verdict

    @staticmethod
    def _look(hook: LLMBatchHook, batch_id: str) -> Look:
        try:
            return hook.retrieve_batch(batch_id)
        except LLMBatchError as error:
            return error

    def _conclude(self, context: Context, hook: LLMBatchHook, batch_id: str, verdict: Verdict, deadline: float) -> str:
        if isinstance(verdict, Done):
            return self._ended(context, hook, verdict.batch)
        if isinstance(verdict, GiveUp):
            raise LLMBatchError(self._given_up(batch_id, str(verdict.error))) from verdict.error
        return self._out_of_time(context, hook, batch_id, deadline)

    @staticmethod
    def _given_up(batch_id: str, reason: str | None) -> str:
        return (
            f"{reason} {batch_id} was not cancelled, and goes on if it had not ended. Clear this task when that is "
            "mended: it then waits for the same batch, and nothing is paid again."
        )

    def _ended(self, context: Context, hook: LLMBatchHook, batch: Batch) -> str:
        context["ti"].xcom_push(key="output_file_id", value=batch.output_file_id)
        context["ti"].xcom_push(key="error_file_id", value=batch.error_file_id)
        if error := error_of_end(batch, title=hook.adapter.title):
            raise error
        counts = batch.request_counts
        if counts.failed:
            self.log.warning(
                f"{counts.failed:,} of {counts.total:,} requests failed: their reasons are in {batch.error_file_id}, "
                "and in what LLMBatchDownloadResultsOperator lands"
            )
        return batch.id

    def _out_of_time(self, context: Context, hook: LLMBatchHook, batch_id: str, deadline: float) -> str:
        batch = hook.cancel_batch(batch_id) if self.cancel_on_deadline else hook.retrieve_batch(batch_id)
        if batch.is_terminal and batch.status != "cancelled":
            return self._ended(context, hook, batch)  # it ended in the last moment
        raise error_of_deadline(batch, deadline, cancelled=self.cancel_on_deadline)


class LLMBatchDownloadResultsOperator(BaseOperator):
    """Land what came back of a batch: both result files merged, each request with exactly one outcome.

    Lines are JSON objects ``{"custom_id", "outcome", "response": {"status_code", "request_id", "body"} | null, "error":
    {"code", "message"} | null}``, in no particular order; the outcome is ``succeeded``, ``failed``, ``expired``,
    ``cancelled`` or ``missing``. The file appears only when it is whole. Returns its URI.

    :param batch_id: An ended batch. (templated)
    :param destination: Path or URI (``s3://conn_id@bucket/key``) of the file to write, replaced if it is there.
        (templated)
    :param llmbatch_conn_id: The connection. (templated)
    """

    template_fields: Sequence[str] = ("batch_id", "destination", "llmbatch_conn_id")
    ui_color: str = "#d9eae4"

    def __init__(
        self,
        *,
        batch_id: str,
        destination: str,
        llmbatch_conn_id: str = LLMBatchHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.batch_id = batch_id
        self.destination = destination
        self.llmbatch_conn_id = llmbatch_conn_id

    @override
    def execute(self, context: Context) -> str:
        hook = LLMBatchHook(self.llmbatch_conn_id)
        with airflow_verdict():
            batch = hook.retrieve_batch(self.batch_id)
            if not batch.is_terminal:
                raise BatchInputError(
                    f"{batch.id} is {batch.status}: it has no results yet. Nothing was written. Wait for it first, "
                    "with LLMBatchCreateBatchOperator(wait=True)."
                )
            if (
                batch.status == "failed"
                and not batch.has_results
                and (error := error_of_end(batch, title=hook.adapter.title))
            ):
                raise error
            outcomes: Counter[Outcome] = Counter()
            encode = msgspec.json.Encoder().encode
            with landing(path_of(self.destination)) as stream:
                for result in merge_results(hook.adapter, batch, log=self.log):
                    outcomes[result.outcome] += 1
                    stream.write(encode(result) + b"\n")
        told = ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.most_common()) or "no results"
        self.log.info(f"Landed {outcomes.total():,} results in {self.destination}: {told}", batch_id=batch.id)
        return self.destination
