"""Wait for a batch that exists already: one that another task, another DAG or another program created."""

from __future__ import annotations

import time
from contextlib import closing, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from airflow.sdk import BaseSensorOperator, PokeReturnValue
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from typing_extensions import override

from airflow_provider_llmbatch.core.progress import Progress
from airflow_provider_llmbatch.core.verdict import error_of_deadline, moment
from airflow_provider_llmbatch.errors import BatchInputError, LLMBatchError
from airflow_provider_llmbatch.hooks.batch import LLMBatchHook
from airflow_provider_llmbatch.hooks.telemetry import telemetry_of
from airflow_provider_llmbatch.links.batch import LLMBatchConsoleLink
from airflow_provider_llmbatch.operators.task import airflow_verdict
from airflow_provider_llmbatch.operators.wait import check_intervals, ended, given_up, policy_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from airflow.sdk import BaseOperatorLink, Context

    from airflow_provider_llmbatch.models import Batch
    from airflow_provider_llmbatch.triggers.batch import BatchEvent


class LLMBatchSensor(BaseSensorOperator):
    """Wait until a batch ends. It never cancels a batch, since it made none.

    Returns the batch id, and pushes the XCom keys ``output_file_id`` and ``error_file_id`` (null when absent), also
    when the task fails. Outages are borne up to the deadline. A batch that failed, expired or was cancelled fails the
    task, without a retry, with the provider's reasons.

    :param batch_id: The batch. (templated)
    :param deferrable: Whether to wait in the triggerer; by default as ``[operators] default_deferrable`` says. If not,
        the parameters of every sensor (``poke_interval``, ``mode``, …) say how often to look, and where to wait.
    :param deadline: How long after its creation the batch may end; by default the provider's worst case and an hour
        (OpenAI: 25 h). A sensor's ``timeout``, counted from its own start, ends the wait too.
    :param min_poll_interval: In the triggerer: seconds between two looks at a young batch.
    :param max_poll_interval: In the triggerer: seconds between two looks at an old one.
    :param llmbatch_conn_id: The connection. (templated)
    """

    template_fields: Sequence[str] = ("batch_id", "llmbatch_conn_id")
    operator_extra_links: Collection[BaseOperatorLink] = (LLMBatchConsoleLink(),)
    ui_color: str = "#d9eae4"

    _progress: Progress | None = None

    def __init__(
        self,
        *,
        batch_id: str,
        deferrable: bool | None = None,
        deadline: timedelta | None = None,
        min_poll_interval: float = 10,
        max_poll_interval: float = 300,
        llmbatch_conn_id: str = LLMBatchHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_intervals(min_poll_interval, max_poll_interval)
        self.batch_id = batch_id
        self.deferrable = (
            conf.getboolean("operators", "default_deferrable", fallback=False) if deferrable is None else deferrable
        )
        self.deadline = deadline
        self.min_poll_interval = min_poll_interval
        self.max_poll_interval = max_poll_interval
        self.llmbatch_conn_id = llmbatch_conn_id

    @override
    def execute(self, context: Context) -> str | None:
        if not self.deferrable:
            batch_id: str | None = super().execute(context)
            return batch_id
        with self._soft_failure(), airflow_verdict():
            seen = self._look(context)
            if seen.batch.is_terminal:
                return ended(context, seen.batch, title=seen.title, log=self.log)
            self.log.info(
                f"Waiting at most until {moment(seen.deadline)}; polling every {self.min_poll_interval:g} s at first",
                batch_id=self.batch_id,
            )
            return self._defer(seen.deadline)

    @override
    def poke(self, context: Context) -> PokeReturnValue:
        if self._progress is None:
            self._progress = Progress(telemetry_of(context["ti"]))
        with airflow_verdict():
            try:
                seen = self._look(context)
            except LLMBatchError as error:
                if not error.retriable:
                    raise
                self._progress.report(error, time.time(), self.log)
                return PokeReturnValue(is_done=False)
            self._progress.report(seen.batch, time.time(), self.log)
            if seen.batch.is_terminal:
                batch_id = ended(context, seen.batch, title=seen.title, log=self.log)
                return PokeReturnValue(is_done=True, xcom_value=batch_id)
            if time.time() >= seen.deadline:
                raise error_of_deadline(seen.batch, seen.deadline, cancelled=False)
            return PokeReturnValue(is_done=False)

    def execute_complete(self, context: Context, event: BatchEvent) -> str | None:
        """Go on after the trigger fired; its event is a hint, and the batch itself is read again."""
        with airflow_verdict():
            if event["status"] == "given_up":
                raise given_up(self.batch_id, event["error"])
            seen = self._look(context)
            if seen.batch.is_terminal:
                return ended(context, seen.batch, title=seen.title, log=self.log)
            if event["status"] == "out_of_time":
                raise error_of_deadline(seen.batch, event["deadline"], cancelled=False)
            self.log.info(
                f"The trigger saw {self.batch_id} end, but it is {seen.batch.status}: waiting on",
                batch_id=self.batch_id,
            )
            return self._defer(event["deadline"])

    def _look(self, context: Context) -> _Seen:
        """Look through a connection that is fetched anew each time, since a wait may outlive a key."""
        if not self.batch_id:
            raise BatchInputError("The batch_id is empty: there is nothing to wait for.")
        with closing(LLMBatchHook(self.llmbatch_conn_id).adapter) as adapter:
            LLMBatchConsoleLink().push(context, adapter.console_url(self.batch_id))
            batch = adapter.retrieve_batch(self.batch_id)
            policy = policy_of(
                batch,
                adapter,
                deadline=self.deadline,
                min_poll_interval=self.min_poll_interval,
                max_poll_interval=self.max_poll_interval,
            )
            return _Seen(batch, policy.deadline, adapter.title)

    def _defer(self, deadline: float) -> NoReturn:
        from airflow_provider_llmbatch.triggers.batch import LLMBatchTrigger  # noqa: PLC0415 - no DAG file needs it

        self.defer(
            trigger=LLMBatchTrigger(
                llmbatch_conn_id=self.llmbatch_conn_id,
                batch_id=self.batch_id,
                deadline=deadline,
                min_poll_interval=self.min_poll_interval,
                max_poll_interval=self.max_poll_interval,
            ),
            method_name="execute_complete",
            timeout=timedelta(seconds=self.timeout),
        )

    @contextmanager
    def _soft_failure(self) -> Iterator[None]:
        """What Airflow's own ``execute`` does for a sensor that may be skipped instead of failing."""
        try:
            yield
        except AirflowFailException as error:
            if self.soft_fail or self.never_fail:
                raise AirflowSkipException("Skipped instead of failed, as soft_fail or never_fail says.") from error
            raise


class _Seen(NamedTuple):
    batch: Batch
    deadline: float
    title: str
