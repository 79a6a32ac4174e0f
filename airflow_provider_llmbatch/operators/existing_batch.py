"""Operators that look at batches which are there, or cancel one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from typing_extensions import override

from airflow_provider_llmbatch.hooks.batch import LLMBatchHook
from airflow_provider_llmbatch.operators.task import airflow_verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context
    from pydantic import JsonValue


class OneBatchOperator(BaseOperator):
    """Does one thing with one batch.

    :param batch_id: The batch. (templated)
    :param llmbatch_conn_id: The connection. (templated)
    """

    template_fields: Sequence[str] = ("batch_id", "llmbatch_conn_id")
    ui_color: str = "#d9eae4"

    def __init__(self, *, batch_id: str, llmbatch_conn_id: str = LLMBatchHook.default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.batch_id = batch_id
        self.llmbatch_conn_id = llmbatch_conn_id


class LLMBatchRetrieveBatchOperator(OneBatchOperator):
    """Look a batch up. Returns it as a dict in OpenAI's shape, with null for what the provider does not say.

    :param batch_id: The batch. (templated)
    :param llmbatch_conn_id: The connection. (templated)
    """

    @override
    def execute(self, context: Context) -> dict[str, JsonValue]:
        with airflow_verdict():
            batch = LLMBatchHook(self.llmbatch_conn_id).retrieve_batch(self.batch_id)
        self.log.info(f"{batch.id} is {batch.provider_status or batch.status}", batch_id=batch.id)
        return batch.model_dump(mode="json")


class LLMBatchListBatchesOperator(BaseOperator):
    """List batches, the newest first where the provider sorts. Returns a list of dicts in OpenAI's shape.

    :param limit: How many at most.
    :param after: The id of a batch: the list begins behind it. (templated)
    :param llmbatch_conn_id: The connection. (templated)
    """

    template_fields: Sequence[str] = ("after", "llmbatch_conn_id")
    ui_color: str = "#d9eae4"

    def __init__(
        self,
        *,
        limit: int = 20,
        after: str | None = None,
        llmbatch_conn_id: str = LLMBatchHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        self.limit = limit
        self.after = after
        self.llmbatch_conn_id = llmbatch_conn_id

    @override
    def execute(self, context: Context) -> list[dict[str, JsonValue]]:
        with airflow_verdict():
            found = list(LLMBatchHook(self.llmbatch_conn_id).list_batches(after=self.after or None, limit=self.limit))
        self.log.info(f"Found {len(found):,} batches")
        return [batch.model_dump(mode="json") for batch in found]


class LLMBatchCancelBatchOperator(OneBatchOperator):
    """Ask for a batch to be cancelled; one that has ended already is left as it is. Returns it as a dict.

    The provider ends it later: its status is ``cancelling`` until then. What was answered before is billed, and can be
    downloaded.

    :param batch_id: The batch. (templated)
    :param llmbatch_conn_id: The connection. (templated)
    """

    @override
    def execute(self, context: Context) -> dict[str, JsonValue]:
        with airflow_verdict():
            batch = LLMBatchHook(self.llmbatch_conn_id).cancel_batch(self.batch_id)
        self.log.info(f"{batch.id} is {batch.provider_status or batch.status}", batch_id=batch.id)
        return batch.model_dump(mode="json")
