"""What a single batch cost, from its result files alone, whoever made it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from airflow_provider_llmbatch.core.costs.meter import Meter
from airflow_provider_llmbatch.core.costs.tokens import tokens_of_usage
from airflow_provider_llmbatch.core.results import merge_results
from airflow_provider_llmbatch.core.run.content import content_of
from airflow_provider_llmbatch.core.run.quick_answer import Answered, quick_answer
from airflow_provider_llmbatch.errors import BatchInputError, NotFoundError

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from airflow_provider_llmbatch.adapters.base import Adapter
    from airflow_provider_llmbatch.core.costs.bill import Costs
    from airflow_provider_llmbatch.core.costs.prices import Prices
    from airflow_provider_llmbatch.models import Batch


def costs_of_batch(adapter: Adapter, batch: Batch, prices: Prices, *, log: FilteringBoundLogger) -> Costs:
    """Bill every answer of an ended batch; nothing is bought by that.

    Where the answers tell no tokens, or the result files are gone, the batch's own sum counts, if it has one.

    :raises BatchInputError: It has not ended.
    :raises LLMBatchError: The result files cannot be had, and it has no sum either.
    """
    if not batch.is_terminal:
        raise BatchInputError(
            f"{batch.id} is {batch.status}: what it costs is known when it has ended. Nothing was billed by asking. "
            "Wait for it first, with LLMBatchCreateBatchOperator(wait=True) or LLMBatchSensor."
        )
    meter = _meter(batch, prices)
    try:
        for result in merge_results(adapter, batch, ids=(), quick=quick_answer, log=log):
            if isinstance(result, Answered):
                meter.answered(result.content.model, result.content.tokens)
            elif result.response is not None:
                content = content_of(result.response.body)
                bill = meter.answered if result.outcome == "succeeded" else meter.unanswered
                bill(content.model, content.tokens)
    except NotFoundError:
        if batch.usage is None:
            raise
        log.warning(f"The result files of {batch.id} are gone: what it cost is told by its own sum of tokens")
        meter = _meter(batch, prices)
        meter.whole(tokens_of_usage(batch.usage), rows=batch.request_counts.completed)
        return meter.costs()
    if batch.usage is not None and not meter.tokens.total:
        meter.whole(tokens_of_usage(batch.usage))
    return meter.costs()


def _meter(batch: Batch, prices: Prices) -> Meter:
    when = batch.created_at if batch.created_at is not None else time.time()
    return Meter(prices, when, batch.model)
