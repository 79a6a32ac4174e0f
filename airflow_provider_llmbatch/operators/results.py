"""The operator that lands what came back of a batch."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec
from airflow.sdk import BaseOperator
from typing_extensions import override

from airflow_provider_llmbatch.core.results import merge_results
from airflow_provider_llmbatch.core.storage import landing
from airflow_provider_llmbatch.core.verdict import error_of_end
from airflow_provider_llmbatch.errors import BatchInputError
from airflow_provider_llmbatch.hooks.batch import LLMBatchHook, path_of
from airflow_provider_llmbatch.hooks.telemetry import telemetry_of
from airflow_provider_llmbatch.operators.task import airflow_verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

    from airflow_provider_llmbatch.models import Outcome


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
                    "with LLMBatchCreateBatchOperator(wait=True) or LLMBatchSensor."
                )
            if (
                batch.status == "failed"
                and not batch.has_results
                and (error := error_of_end(batch, title=hook.adapter.title))
            ):
                raise error
            outcomes: Counter[Outcome] = Counter()
            encode = msgspec.json.Encoder().encode
            telemetry = telemetry_of(context["ti"], provider=hook.adapter.provider)
            asked = {"batch_id": batch.id, "model": batch.model, "endpoint": batch.endpoint}
            with telemetry.span("landing", **asked) as span, landing(path_of(self.destination)) as stream:
                for result in merge_results(hook.adapter, batch, log=self.log):
                    outcomes[result.outcome] += 1
                    stream.write(encode(result) + b"\n")
                span.set(**{f"rows.{outcome}": count for outcome, count in outcomes.items()})
        told = ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.most_common()) or "none"
        self.log.info(f"Landed {outcomes.total():,} results ({told}) in {self.destination}", batch_id=batch.id)
        return self.destination
