"""The operator that does the whole job: any input, submitted exactly once, one complete result set."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from airflow.sdk import BaseOperator
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowException
from typing_extensions import override

from airflow_provider_llmbatch.core.polling import GiveUp
from airflow_provider_llmbatch.core.run.options import RunOptions
from airflow_provider_llmbatch.errors import BatchInputError
from airflow_provider_llmbatch.hooks.batch import LLMBatchHook
from airflow_provider_llmbatch.hooks.lineage import add_hook_lineage
from airflow_provider_llmbatch.hooks.telemetry import telemetry_of
from airflow_provider_llmbatch.links.batch import LLMBatchConsoleLink
from airflow_provider_llmbatch.operators.asked import Asked, cap_of, check_input, check_place
from airflow_provider_llmbatch.operators.events import callbacks_of, telling
from airflow_provider_llmbatch.operators.lineage import HasLineage
from airflow_provider_llmbatch.operators.task import airflow_verdict
from airflow_provider_llmbatch.operators.wait import (
    Killed,
    KillSwitch,
    all_given_up,
    check_intervals,
    wait_together_on_worker,
)
from airflow_provider_llmbatch.triggers.kill import cancel_all_if_over, named

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from contextlib import AbstractContextManager

    from airflow.sdk import BaseOperatorLink, Context
    from pydantic import BaseModel, JsonValue

    from airflow_provider_llmbatch.core.run.manifest import Manifest
    from airflow_provider_llmbatch.core.run.run import Waiting
    from airflow_provider_llmbatch.operators.events import OnBatchEvent
    from airflow_provider_llmbatch.operators.lineage import Lineage
    from airflow_provider_llmbatch.operators.run_input import Records
    from airflow_provider_llmbatch.triggers.run import RunEvent

_SECONDS_TO_CANCEL = 3.5  # of the five after which a worker that was told to stop is killed


class LLMBatchRunOperator(HasLineage, BaseOperator):
    """Ask an LLM about each row of a table or file of any size, through the provider's batch API, exactly once.

    The source is read once, into a stage under ``output``, and cut into parts that the provider takes. Each is
    submitted once, whatever dies or is retried, waited for, landed and checked. Rows without an answer for a passing
    reason are submitted again, up to ``max_attempts``. Each row then has one outcome in one result set: ``succeeded``,
    ``invalid`` (answered, but not as ``response_format`` asks), ``failed``, ``expired``, ``cancelled`` or ``missing``.

    Returns ``{"rows", "outcomes", "usage", "costs", "manifest"}``. ``outcomes``, ``usage``, ``costs`` and ``manifest``,
    which is the URI of ``manifest.json``, are XCom keys of their own too, as soon as the set is published: also if the
    task then fails.

    An input that cannot be used, spent attempts and ``on_failed_rows`` fail the task without a retry; a retry after an
    outage goes on where the last try ended, and pays nothing again.

    :param source: URI or URIs of JSONL, CSV or Parquet, in order; records, or ready OpenAI batch lines. (templated)
    :param source_format: ``jsonl``, ``csv`` or ``parquet``; by default as the suffix of each URI says.
    :param query: SQL whose rows are the source, instead of ``source``; read with a server-side cursor. (templated)
    :param sql_conn_id: The Airflow connection of the query.
    :param output: URI of the directory that gets ``manifest.json`` and ``data/``. (templated)
    :param prompt: What to ask, with ``{column}`` placeholders. Not templated by Airflow.
    :param system: The system prompt, with placeholders as well. Not templated by Airflow.
    :param model: By default the connection's. (templated)
    :param parameters: More of each request's body, such as ``temperature``.
    :param response_format: A Pydantic model class, or a JSON schema as a dict, that each answer must fit.
    :param key: The column or columns that tell a row in the result set.
    :param columns: The columns to repeat in the result set; by default all.
    :param endpoint: What is asked for.
    :param output_format: ``jsonl`` or ``parquet``.
    :param unique_key: Whether two rows with the same key are an error.
    :param max_rows_per_batch: Fewer rows in one batch than the provider allows.
    :param max_bytes_per_batch: Fewer bytes of one input file than the provider allows.
    :param max_tokens_per_batch: Estimated tokens of one batch; without limit by default.
    :param max_cost_usd: What the run may cost in US dollars. If the estimate is above that, nothing is uploaded; if
        a batch no longer fits, it is not submitted, what was is published, and the task fails. Counts all attempts,
        tries and clears of this task in its DAG run. (templated)
    :param max_parallel_batches: How many batches may be under way at the same time.
    :param max_attempts: How often a row may be submitted, the first time included.
    :param on_failed_rows: ``succeed``, ``fail``, or how many rows (10) or which share (0.01) may lack a good answer.
    :param on_clear: What clearing the task means for the same input: ``resume`` costs nothing, ``restart`` pays again.
    :param on_changed_input: What other rows, another model or other parameters mean: ``restart`` or ``fail``.
    :param completion_window: ``24h`` is the only one at OpenAI.
    :param metadata: Up to 15 pairs of text for each batch at the provider.
    :param cleanup: What is deleted at the provider after success: ``inputs``, ``all`` or ``none``.
    :param keep_stage: Whether the run's own copy of its input stays after success.
    :param file_expires_after: Seconds until the provider deletes an input file; its own default if ``None``.
    :param deadline: How long after its creation each batch may end; by default the provider's worst case and an hour.
    :param run_deadline: How long after the run's start batches may still be created; without limit by default.
    :param queue_deadline: How long to wait for room in the provider's queue while none of the run's batches ends.
    :param cancel_on_deadline: Whether a batch that has not ended by its deadline is cancelled.
    :param cancel_on_kill: Whether the batches are cancelled when a person marks the waiting task, or its run, as failed
        or success, or deletes its DAG. A clear, a restart or a shutdown cancels nothing. In the triggerer from Airflow
        3.3 on.
    :param on_batch_event: A notifier, a function of the context, or a list of them, called once with each end of the
        work (``done``, ``partly_failed``, ``over_budget``, ``deadline``, ``failed``) as ``llmbatch`` in the context.
    :param deferrable: Whether to wait in the triggerer; by default as ``[operators] default_deferrable`` says.
    :param min_poll_interval: Seconds between two looks at young batches.
    :param max_poll_interval: Seconds between two looks at old ones; in between a twentieth of their age.
    :param log_examples: Whether the log quotes what the provider said of one row for each of the most frequent errors;
        masked and shortened, but it may quote a prompt.
    :param llmbatch_conn_id: The connection. (templated)
    :raises ValueError: Parameters that cannot hold, told while the DAG is read.
    """

    template_fields: Sequence[str] = ("source", "query", "output_uri", "model", "max_cost_usd", "llmbatch_conn_id")
    template_fields_renderers = {"query": "sql"}  # noqa: RUF012 - BaseOperator declares it so
    operator_extra_links: Collection[BaseOperatorLink] = (LLMBatchConsoleLink(),)
    ui_color: str = "#d9eae4"

    _kill: KillSwitch | None = None  # made when the task runs, since an operator must be copied until then
    _manifest: Manifest | None = None
    _batch_ids: Sequence[str] = ()

    def __init__(
        self,
        *,
        output: str,
        source: str | Sequence[str] | None = None,
        source_format: Literal["jsonl", "csv", "parquet"] | None = None,
        query: str | None = None,
        sql_conn_id: str | None = None,
        prompt: str | None = None,
        system: str | None = None,
        model: str | None = None,
        parameters: Mapping[str, JsonValue] | None = None,
        response_format: type[BaseModel] | Mapping[str, Any] | None = None,
        key: str | Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
        endpoint: str = "/v1/chat/completions",
        output_format: Literal["jsonl", "parquet"] = "jsonl",
        unique_key: bool = False,
        max_rows_per_batch: int | None = None,
        max_bytes_per_batch: int | None = None,
        max_tokens_per_batch: int | None = None,
        max_cost_usd: float | Decimal | str | None = None,
        max_parallel_batches: int = 10,
        max_attempts: int = 3,
        on_failed_rows: Literal["succeed", "fail"] | float = "succeed",
        on_clear: Literal["resume", "restart"] = "resume",
        on_changed_input: Literal["restart", "fail"] = "restart",
        completion_window: str = "24h",
        metadata: Mapping[str, str] | None = None,
        cleanup: Literal["inputs", "all", "none"] = "inputs",
        keep_stage: bool = False,
        file_expires_after: int | None = None,
        deadline: timedelta | None = None,
        run_deadline: timedelta | None = None,
        queue_deadline: timedelta = timedelta(hours=24),
        cancel_on_deadline: bool = True,
        cancel_on_kill: bool = True,
        on_batch_event: OnBatchEvent = None,
        deferrable: bool | None = None,
        min_poll_interval: float = 10,
        max_poll_interval: float = 300,
        log_examples: bool = False,
        llmbatch_conn_id: str = LLMBatchHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_intervals(min_poll_interval, max_poll_interval)
        check_place(output)
        self.check_input(source, query, sql_conn_id)
        if isinstance(max_cost_usd, int | float | Decimal):  # a template is known when the task runs
            cap_of(max_cost_usd)
        self.max_cost_usd = str(max_cost_usd) if isinstance(max_cost_usd, Decimal) else max_cost_usd  # a DAG is JSON
        self.source = source
        self.source_format = source_format
        self.query = query
        self.sql_conn_id = sql_conn_id
        self.output_uri = output  # every operator has an ``output`` of Airflow's own: what it returns
        self.model = model
        self.asked = Asked(
            prompt=prompt,
            system=system,
            parameters=dict(parameters or {}),
            response_format=response_format,
            key=() if key is None else key if isinstance(key, str) else tuple(key),
            columns=None if columns is None else tuple(columns),
            endpoint=endpoint,
        )
        self.options = RunOptions(
            format=output_format,
            unique_key=unique_key,
            max_rows_per_batch=max_rows_per_batch,
            max_bytes_per_batch=max_bytes_per_batch,
            max_tokens_per_batch=max_tokens_per_batch,
            max_parallel_batches=max_parallel_batches,
            max_attempts=max_attempts,
            on_failed_rows=on_failed_rows,
            on_clear=on_clear,
            on_changed_input=on_changed_input,
            completion_window=completion_window,
            metadata=dict(metadata or {}),
            cleanup=cleanup,
            keep_stage=keep_stage,
            file_expires_after=file_expires_after,
            deadline=_seconds(deadline),
            run_deadline=_seconds(run_deadline),
            queue_deadline=queue_deadline.total_seconds(),
            cancel_on_deadline=cancel_on_deadline,
        )
        self.cancel_on_kill = cancel_on_kill
        self.on_batch_event = callbacks_of(on_batch_event)
        self.deferrable = (
            conf.getboolean("operators", "default_deferrable", fallback=False) if deferrable is None else deferrable
        )
        self.min_poll_interval = min_poll_interval
        self.max_poll_interval = max_poll_interval
        self.log_examples = log_examples
        self.llmbatch_conn_id = llmbatch_conn_id

    @override
    def execute(self, context: Context) -> dict[str, JsonValue]:
        with airflow_verdict(), self._telling(context):
            return self._go_on(context, first=True)

    def execute_complete(self, context: Context, event: RunEvent) -> dict[str, JsonValue]:
        """Go on after the trigger fired; its event is a hint, and the run reads the truth again."""
        with airflow_verdict(), self._telling(context):
            if event["status"] == "given_up":
                raise all_given_up(event["error"])
            return self._go_on(context)

    @override
    def on_kill(self) -> None:
        if self._kill is not None:
            self._kill.put(None)  # and nothing else, in a signal handler: the waiting loop wakes, and decides

    def _is_killed(self) -> bool:
        return self._kill is not None and not self._kill.empty()

    def check_input(self, source: object, query: str | None, sql_conn_id: str | None) -> None:
        """Refuse, while the DAG is read, what cannot be an input."""
        check_input(source, query, sql_conn_id)

    def records_of(self, context: Context) -> Records:
        """Where the rows come from; nothing is read yet."""
        from airflow_provider_llmbatch.operators.run_input import records_of  # noqa: PLC0415 - no DAG file needs it

        del context
        return records_of(self.source, self.source_format, self.query, self.sql_conn_id)

    @override
    def lineage(self) -> Lineage:
        from airflow_provider_llmbatch.operators.openlineage import lineage_of_run  # noqa: PLC0415 - only if switched on

        return lineage_of_run(
            sources=self._sources(),
            query=(self.query, self.sql_conn_id or "") if self.query else None,
            output=self.output_uri,
            output_format=self.options.format,
            endpoint=self.asked.endpoint,
            model=self.model,
            batch_ids=self._batch_ids,
            manifest=self._manifest,
        )

    def _sources(self) -> list[str]:
        return [self.source] if isinstance(self.source, str) else list(self.source or ())

    def _telling(self, context: Context) -> AbstractContextManager[None]:
        from airflow_provider_llmbatch.operators.run_work import event_of, told_ledger  # noqa: PLC0415 - as above

        return telling(
            self.on_batch_event,
            context,
            self.log,
            event=lambda error: event_of(context, self._manifest, error, output=self.output_uri),
            ledger=lambda: told_ledger(context, output=self.output_uri),
        )

    def _go_on(self, context: Context, *, first: bool = False) -> dict[str, JsonValue]:
        """Go as far as it goes, and wait, again and again, until the result set is published.

        :param first: Whether the log says where batches can be seen, which would be much to read if said at each wait.
        """
        from airflow_provider_llmbatch.operators.run_work import Published, advanced, published  # noqa: PLC0415 - as above

        self._kill = kill = SimpleQueue[None]()
        hook = LLMBatchHook(self.llmbatch_conn_id)
        options = replace(self.options, max_cost_usd=_cap(self.max_cost_usd))
        while True:
            state = advanced(
                context,
                hook,
                output=self.output_uri,
                asked=self.asked,
                model=self.model,
                records=self.records_of(context),
                options=options,
                kill=kill,
                cancel_on_kill=self.cancel_on_kill,
                log=self.log,
            )
            if isinstance(state, Published):
                self._manifest = state.manifest
                add_hook_lineage(hook, read=self._sources(), written=[self.output_uri])
                return published(context, state, output=self.output_uri, log_examples=self.log_examples, log=self.log)
            self._wait(context, hook, state, first=first)
            first = False

    def _wait(self, context: Context, hook: LLMBatchHook, waiting: Waiting, *, first: bool) -> None:
        self._batch_ids = waiting.batch_ids
        if waiting.batch_ids and (url := hook.adapter.console_url(waiting.batch_ids[0])):
            LLMBatchConsoleLink().push(context, url)
        from airflow_provider_llmbatch.operators.run_work import tell_links, tell_wait  # noqa: PLC0415 - as above

        if first:
            tell_links(waiting, hook.adapter, self.log)
        tell_wait(waiting, self.min_poll_interval, self.log)
        if self.deferrable and not self._is_killed():
            self._defer(waiting)
        verdict = wait_together_on_worker(
            hook.adapter,
            waiting,
            self._kill or SimpleQueue(),
            min_poll_interval=self.min_poll_interval,
            max_poll_interval=self.max_poll_interval,
            log=self.log,
            telemetry=telemetry_of(context["ti"], provider=hook.adapter.provider),
        )
        if isinstance(verdict, Killed):
            raise AirflowException(f"The task was killed. {self._after_kill(context, hook, waiting)}")
        if isinstance(verdict, GiveUp):
            raise all_given_up(str(verdict.error)) from verdict.error

    def _defer(self, waiting: Waiting) -> NoReturn:
        from airflow_provider_llmbatch.triggers.run import LLMBatchRunTrigger  # noqa: PLC0415 - no DAG file needs it

        self.defer(
            trigger=LLMBatchRunTrigger(
                llmbatch_conn_id=self.llmbatch_conn_id,
                batch_ids=waiting.batch_ids,
                deadline=waiting.deadline,
                resubmit_at=waiting.resubmit_at,
                any_end=waiting.any_end,
                min_poll_interval=self.min_poll_interval,
                max_poll_interval=self.max_poll_interval,
                cancel_on_kill=self.cancel_on_kill,
            ),
            method_name="execute_complete",
        )

    def _after_kill(self, context: Context, hook: LLMBatchHook, waiting: Waiting) -> str:
        if not waiting.batch_ids:
            return "No batch of it was under way. The next try goes on where this one ended."
        if not self.cancel_on_kill:
            return f"{named(waiting.batch_ids)} may go on, since cancel_on_kill is off."
        return cancel_all_if_over(
            context["ti"], waiting.batch_ids, hook.adapter.cancel_batch, seconds=_SECONDS_TO_CANCEL
        )


def _cap(given: object) -> Decimal | None:
    try:
        return cap_of(given)
    except ValueError as error:
        raise BatchInputError(
            f"{error}. Nothing was uploaded or billed now. A retry would find the same: correct the template."
        ) from None


def _seconds(given: timedelta | None) -> float | None:
    return None if given is None else given.total_seconds()
