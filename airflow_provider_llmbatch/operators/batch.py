"""Operators for batches: create one and wait for it, look at them, cancel one, and land what came back.

Those for a batch that is there are at home in ``operators.existing_batch`` and ``operators.results``.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk import BaseOperator
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowException
from typing_extensions import override

from airflow_provider_llmbatch.core.backoff import Queueing, queue_refusal_of
from airflow_provider_llmbatch.core.ledger import BatchRecord
from airflow_provider_llmbatch.core.polling import Done, GiveUp, PollPolicy
from airflow_provider_llmbatch.core.submit import BatchJob, submit_batch
from airflow_provider_llmbatch.core.verdict import error_of_deadline, moment
from airflow_provider_llmbatch.errors import BatchInputError, EnqueuedTokenLimitError
from airflow_provider_llmbatch.hooks.batch import LLMBatchHook
from airflow_provider_llmbatch.hooks.telemetry import telemetry_of
from airflow_provider_llmbatch.links.batch import LLMBatchConsoleLink
from airflow_provider_llmbatch.operators.events import callbacks_of, telling_of_batch
from airflow_provider_llmbatch.operators.existing_batch import (
    LLMBatchCancelBatchOperator,
    LLMBatchListBatchesOperator,
    LLMBatchRetrieveBatchOperator,
)
from airflow_provider_llmbatch.operators.lineage import HasLineage
from airflow_provider_llmbatch.operators.queue import after_refusal, sleep_until
from airflow_provider_llmbatch.operators.results import LLMBatchDownloadResultsOperator
from airflow_provider_llmbatch.operators.task import airflow_verdict, attempt_of, ledger_of, slot_of
from airflow_provider_llmbatch.operators.wait import (
    Killed,
    KillSwitch,
    check_intervals,
    ended,
    given_up,
    policy_of,
    wait_on_worker,
)
from airflow_provider_llmbatch.triggers.kill import cancel_if_over

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from contextlib import AbstractContextManager

    from airflow.sdk import BaseOperatorLink, Context

    from airflow_provider_llmbatch.core.ledger import Ledger
    from airflow_provider_llmbatch.core.polling import Verdict
    from airflow_provider_llmbatch.models import Batch
    from airflow_provider_llmbatch.operators.events import OnBatchEvent
    from airflow_provider_llmbatch.operators.lineage import Lineage
    from airflow_provider_llmbatch.triggers.batch import BatchEvent
    from airflow_provider_llmbatch.triggers.queue import QueueEvent

__all__ = [
    "LLMBatchCancelBatchOperator",
    "LLMBatchCreateBatchOperator",
    "LLMBatchDownloadResultsOperator",
    "LLMBatchListBatchesOperator",
    "LLMBatchRetrieveBatchOperator",
]


class LLMBatchCreateBatchOperator(HasLineage, BaseOperator):
    """Create a batch exactly once, and wait until it ends.

    A retry, or a clear while the batch is of use, finds the batch that an earlier try created and waits for that.
    Returns the batch id, and pushes the XCom keys ``batch_id`` (as soon as there is a batch), ``output_file_id`` and
    ``error_file_id`` (null when absent), also when the task fails. Outages are borne up to the deadline. A batch that
    failed, expired or was cancelled fails the task, without a retry, with the provider's reasons.

    A full queue (more tokens queued for a model than the account may queue) is waited out, whether the provider refuses
    to create the batch or fails it for that: after a minute, then twice as long each time up to half an hour, the same
    file is submitted again. Nothing is billed by that. ``EnqueuedTokenLimitError`` is raised at ``queue_deadline``.

    :param input_file_id: The uploaded input. (templated)
    :param endpoint: What all its lines ask for. (templated)
    :param completion_window: ``24h`` is the only one at OpenAI.
    :param metadata: Up to 15 pairs of text for the batch at the provider; the package needs a sixteenth. (templated)
    :param output_expires_after: Seconds until the provider deletes the result files, from their creation.
    :param wait: Whether to wait for the end; if not, the task ends as soon as the batch is created.
    :param deferrable: Whether to wait in the triggerer; by default as ``[operators] default_deferrable`` says.
    :param deadline: How long after its creation the batch may end; by default the provider's worst case and an hour
        (OpenAI: 25 h).
    :param queue_deadline: How long after the first refusal to go on submitting while the queue is full; zero does not
        wait.
    :param cancel_on_deadline: Whether a batch that has not ended by then is cancelled.
    :param cancel_on_kill: Whether the batch is cancelled when a person marks the waiting task, or its run, as failed or
        success, or deletes its DAG. A clear, a restart or a shutdown cancels nothing. In the triggerer from Airflow 3.3
        on.
    :param on_batch_event: A notifier, a function of the context, or a list of them, called once with the end of the
        batch (``done``, ``partly_failed``, ``deadline``, ``failed``) as ``llmbatch`` in the context.
    :param min_poll_interval: Seconds between two looks at a young batch.
    :param max_poll_interval: Seconds between two looks at an old one; in between a twentieth of its age.
    :param llmbatch_conn_id: The connection. (templated)
    """

    template_fields: Sequence[str] = ("input_file_id", "endpoint", "metadata", "llmbatch_conn_id")
    template_fields_renderers = {"metadata": "json"}  # noqa: RUF012 - BaseOperator declares it so
    operator_extra_links: Collection[BaseOperatorLink] = (LLMBatchConsoleLink(),)
    ui_color: str = "#d9eae4"

    _kill: KillSwitch | None = None  # made when the task runs, since an operator must be copied until then
    _batch: Batch | None = None

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
        queue_deadline: timedelta = timedelta(hours=24),
        cancel_on_deadline: bool = True,
        cancel_on_kill: bool = True,
        on_batch_event: OnBatchEvent = None,
        min_poll_interval: float = 10,
        max_poll_interval: float = 300,
        llmbatch_conn_id: str = LLMBatchHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_intervals(min_poll_interval, max_poll_interval)
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
        self.queue_deadline = queue_deadline
        self.cancel_on_deadline = cancel_on_deadline
        self.cancel_on_kill = cancel_on_kill
        self.on_batch_event = callbacks_of(on_batch_event)
        self.min_poll_interval = min_poll_interval
        self.max_poll_interval = max_poll_interval
        self.llmbatch_conn_id = llmbatch_conn_id

    @override
    def execute(self, context: Context) -> str:
        hook = LLMBatchHook(self.llmbatch_conn_id)
        self._kill = SimpleQueue()
        with airflow_verdict(), self._telling(context):
            if not self.input_file_id:
                raise BatchInputError("The input_file_id is empty. Nothing was created or billed.")
            return self._run(context, hook)

    @override
    def lineage(self) -> Lineage:
        from airflow_provider_llmbatch.operators.openlineage import lineage_of_batch  # noqa: PLC0415 - if switched on

        return lineage_of_batch(self._batch, endpoint=self.endpoint)

    def _telling(self, context: Context) -> AbstractContextManager[None]:
        return telling_of_batch(self.on_batch_event, context, self.log, batch=lambda: self._batch)

    def _run(self, context: Context, hook: LLMBatchHook, queueing: Queueing | None = None) -> str:
        """Submit and wait, and again while the provider's queue is full.

        :param queueing: How long it has been full.
        """
        ledger = ledger_of(context, "llmbatch_batch", BatchRecord)
        while True:
            try:
                batch = self._submit(context, hook, ledger, resumed=queueing is not None)
                return self._wait(context, hook, batch, queueing)
            except EnqueuedTokenLimitError as error:
                queueing = self._wait_for_room(error, ledger, queueing)

    def _submit(self, context: Context, hook: LLMBatchHook, ledger: Ledger[BatchRecord], *, resumed: bool) -> Batch:
        batch = submit_batch(
            hook.adapter,
            ledger,
            slot_of(context),
            BatchJob(
                self.input_file_id,
                self.endpoint,
                self.completion_window,
                self.metadata or {},
                self.output_expires_after,
            ),
            attempt=replace(attempt_of(context), resumed=resumed),
            timing=hook.timing,
            log=self.log,
            telemetry=telemetry_of(context["ti"], provider=hook.adapter.provider),
        )
        self._batch = batch
        context["ti"].xcom_push(key="batch_id", value=batch.id)
        url = hook.adapter.console_url(batch.id)
        LLMBatchConsoleLink().push(context, url)
        if url:
            self.log.info(f"Console: {url}")
        return batch

    def _wait(self, context: Context, hook: LLMBatchHook, batch: Batch, queueing: Queueing | None) -> str:
        if batch.is_terminal:
            return self._ended(context, hook, batch)
        if not self.wait:
            return batch.id
        policy = policy_of(
            batch,
            hook.adapter,
            deadline=self.deadline,
            min_poll_interval=self.min_poll_interval,
            max_poll_interval=self.max_poll_interval,
        )
        self.log.info(
            f"Waiting at most until {moment(policy.deadline)}; polling every {self.min_poll_interval:g} s at first",
            batch_id=batch.id,
        )
        if self.deferrable:
            self._defer(batch, policy, queueing)
        telemetry = telemetry_of(context["ti"], provider=hook.adapter.provider)
        verdict = wait_on_worker(hook.adapter, batch.id, policy, self._kill or SimpleQueue(), self.log, telemetry)
        return self._conclude(context, hook, batch.id, verdict, policy.deadline)

    def _wait_for_room(
        self, error: EnqueuedTokenLimitError, ledger: Ledger[BatchRecord], queueing: Queueing | None
    ) -> Queueing:
        counted, again = after_refusal(error, ledger, queueing, allowed=self.queue_deadline, log=self.log)
        if self.deferrable:
            from airflow_provider_llmbatch.triggers.queue import LLMBatchQueueTrigger  # noqa: PLC0415 - as below

            self.defer(trigger=LLMBatchQueueTrigger(again, counted.since, counted.refusals), method_name="resubmit")
        sleep_until(again, self._kill or SimpleQueue())
        return counted

    @override
    def on_kill(self) -> None:
        if self._kill is not None:
            self._kill.put(None)  # and nothing else, in a signal handler: the waiting loop wakes, and decides

    def _defer(self, batch: Batch, policy: PollPolicy, queueing: Queueing | None) -> NoReturn:
        from airflow_provider_llmbatch.triggers.batch import LLMBatchTrigger  # noqa: PLC0415 - no DAG file needs it

        self.defer(
            trigger=LLMBatchTrigger(
                llmbatch_conn_id=self.llmbatch_conn_id,
                batch_id=batch.id,
                deadline=policy.deadline,
                min_poll_interval=policy.min_interval,
                max_poll_interval=policy.max_interval,
                cancel_on_kill=self.cancel_on_kill,
            ),
            method_name="execute_complete",
            kwargs={"queued": [queueing.since, queueing.refusals]} if queueing else None,
        )

    def execute_complete(self, context: Context, event: BatchEvent, queued: tuple[float, int] | None = None) -> str:
        """Go on after the trigger fired; its event is a hint, and the batch itself is read again.

        :param queued: Since when the queue was full before this batch was created, and how often it was.
        """
        hook = LLMBatchHook(self.llmbatch_conn_id)
        queueing = Queueing(*queued) if queued else None
        with airflow_verdict(), self._telling(context):
            try:
                return self._woken(context, hook, event, queueing)
            except EnqueuedTokenLimitError as error:
                ledger = ledger_of(context, "llmbatch_batch", BatchRecord)
                queueing = self._wait_for_room(error, ledger, queueing)
            return self._run(context, hook, queueing)

    def resubmit(self, context: Context, event: QueueEvent) -> str:
        """Go on after the pause for a full queue."""
        with airflow_verdict(), self._telling(context):
            queueing = Queueing(event["queued_since"], event["refusals"])
            return self._run(context, LLMBatchHook(self.llmbatch_conn_id), queueing)

    def _woken(self, context: Context, hook: LLMBatchHook, event: BatchEvent, queueing: Queueing | None) -> str:
        batch_id = event["batch_id"]
        if event["status"] == "given_up":
            raise given_up(batch_id, event["error"])
        batch = self._batch = hook.retrieve_batch(batch_id)
        if batch.is_terminal:
            return self._ended(context, hook, batch)
        if event["status"] == "out_of_time":
            return self._out_of_time(context, hook, batch_id, event["deadline"])
        self.log.info(f"The trigger saw {batch_id} end, but it is {batch.status}: waiting on", batch_id=batch_id)
        policy = PollPolicy(event["deadline"], self.min_poll_interval, self.max_poll_interval)
        return self._defer(batch, policy, queueing)

    def _ended(self, context: Context, hook: LLMBatchHook, batch: Batch) -> str:
        self._batch = batch
        if refusal := queue_refusal_of(batch, title=hook.adapter.title):
            raise refusal
        return ended(context, batch, title=hook.adapter.title, log=self.log)

    def _conclude(
        self, context: Context, hook: LLMBatchHook, batch_id: str, verdict: Verdict | Killed, deadline: float
    ) -> str:
        if isinstance(verdict, Done):
            return self._ended(context, hook, verdict.batch)
        if isinstance(verdict, GiveUp):
            raise given_up(batch_id, str(verdict.error)) from verdict.error
        if isinstance(verdict, Killed):
            raise AirflowException(f"The task was killed. {self._after_kill(context, hook, batch_id)}")
        return self._out_of_time(context, hook, batch_id, deadline)

    def _after_kill(self, context: Context, hook: LLMBatchHook, batch_id: str) -> str:
        if not self.cancel_on_kill:
            return f"{batch_id} goes on, since cancel_on_kill is off."
        return cancel_if_over(context["ti"], batch_id, hook.cancel_batch)

    def _out_of_time(self, context: Context, hook: LLMBatchHook, batch_id: str, deadline: float) -> str:
        batch = hook.cancel_batch(batch_id) if self.cancel_on_deadline else hook.retrieve_batch(batch_id)
        if batch.is_terminal and batch.status != "cancelled":
            return self._ended(context, hook, batch)  # in the last moment
        self._batch = batch
        raise error_of_deadline(batch, deadline, cancelled=self.cancel_on_deadline)
