"""The operator that says what a run would cost, without doing anything of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from airflow.sdk import BaseOperator
from typing_extensions import override

from airflow_provider_llmbatch.hooks.batch import LLMBatchHook
from airflow_provider_llmbatch.operators.asked import Asked, check_input
from airflow_provider_llmbatch.operators.task import airflow_verdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.sdk import Context
    from pydantic import BaseModel, JsonValue


class LLMBatchEstimateCostOperator(BaseOperator):
    """Estimate what ``LLMBatchRunOperator`` would cost with the same input. Reads it once; uploads and bills nothing.

    Returns ``{"low", "likely", "high", "without_batch", "rows", "bounded", "text", "models"}``: US dollars as numbers,
    ``None`` if the price of a model is not known; ``text`` is the line that the log has. ``low``, ``likely``, ``high``
    and ``text`` are XCom keys of their own too, as far as they are known.

    :param source: URI or URIs of JSONL, CSV or Parquet, in order; records, or ready OpenAI batch lines. (templated)
    :param source_format: ``jsonl``, ``csv`` or ``parquet``; by default as the suffix of each URI says.
    :param query: SQL whose rows are the source, instead of ``source``; read with a server-side cursor. (templated)
    :param sql_conn_id: The Airflow connection of the query.
    :param output: The run's output: what it published there before tells how long its answers are. (templated)
    :param prompt: What to ask, with ``{column}`` placeholders. Not templated by Airflow.
    :param system: The system prompt, with placeholders as well. Not templated by Airflow.
    :param model: By default the connection's. (templated)
    :param parameters: More of each request's body, such as ``max_completion_tokens``.
    :param response_format: A Pydantic model class, or a JSON schema as a dict, that each answer must fit.
    :param key: The run's, which tells whether it asked the same before.
    :param columns: The run's, likewise.
    :param endpoint: What is asked for.
    :param llmbatch_conn_id: The connection, whose prices count. (templated)
    :raises ValueError: Parameters that cannot hold, told while the DAG is read.
    """

    template_fields: Sequence[str] = ("source", "query", "output_uri", "model", "llmbatch_conn_id")
    template_fields_renderers = {"query": "sql"}  # noqa: RUF012 - BaseOperator declares it so
    ui_color: str = "#d9eae4"

    def __init__(
        self,
        *,
        source: str | Sequence[str] | None = None,
        source_format: Literal["jsonl", "csv", "parquet"] | None = None,
        query: str | None = None,
        sql_conn_id: str | None = None,
        output: str | None = None,
        prompt: str | None = None,
        system: str | None = None,
        model: str | None = None,
        parameters: Mapping[str, JsonValue] | None = None,
        response_format: type[BaseModel] | Mapping[str, Any] | None = None,
        key: str | Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
        endpoint: str = "/v1/chat/completions",
        llmbatch_conn_id: str = LLMBatchHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_input(source, query, sql_conn_id)
        self.source = source
        self.source_format = source_format
        self.query = query
        self.sql_conn_id = sql_conn_id
        self.output_uri = output
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
        self.llmbatch_conn_id = llmbatch_conn_id

    @override
    def execute(self, context: Context) -> dict[str, JsonValue]:
        from airflow_provider_llmbatch.operators.estimate_work import estimated  # noqa: PLC0415 - no DAG file needs it

        with airflow_verdict():
            told = estimated(
                LLMBatchHook(self.llmbatch_conn_id),
                asked=self.asked,
                source=self.source,
                source_format=self.source_format,
                query=self.query,
                sql_conn_id=self.sql_conn_id,
                output=self.output_uri,
                model=self.model,
                log=self.log,
            )
        for name in ("low", "likely", "high", "text"):
            if told[name] is not None:  # Airflow takes such an XCom for one that is not there
                context["ti"].xcom_push(key=name, value=told[name])
        return told
