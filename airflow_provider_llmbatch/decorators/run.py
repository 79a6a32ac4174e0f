"""``@task.llmbatch``: a function that yields prompts, records or ready requests, fed to ``LLMBatchRunOperator``."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, ClassVar, Final

from airflow.sdk.bases.decorator import DecoratedOperator, task_decorator_factory
from typing_extensions import override

from airflow_provider_llmbatch.errors import BatchInputError
from airflow_provider_llmbatch.operators.run import LLMBatchRunOperator

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from airflow.sdk import Context
    from airflow.sdk.bases.decorator import TaskDecorator

    from airflow_provider_llmbatch.operators.run_input import Records


_UNFIT: Final = {
    "DataFrame": 'which gives the names of its columns, and not its rows: return df.to_dict("records")',
    "set": "which has another order in every process, so that a clear would pay anew: return a list",
    "frozenset": "which has another order in every process, so that a clear would pay anew: return a list",
}
"""Things that give something else than their rows, one after the other, by the name of their type."""


class _LLMBatchDecoratedOperator(DecoratedOperator, LLMBatchRunOperator):
    """``LLMBatchRunOperator`` with a function as its source.

    The function is called when the input is staged, and not again on a retry or after a wait: what it yielded then is
    what is asked.
    """

    template_fields: Sequence[str] = (*DecoratedOperator.template_fields, *LLMBatchRunOperator.template_fields)
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **DecoratedOperator.template_fields_renderers,
        **LLMBatchRunOperator.template_fields_renderers,
    }

    custom_operator_name: str = "@task.llmbatch"

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if inspect.iscoroutinefunction(python_callable) or inspect.isasyncgenfunction(python_callable):
            raise TypeError("@task.llmbatch takes a plain function or generator, not an async one")
        super().__init__(python_callable=python_callable, op_args=op_args, op_kwargs=op_kwargs, **kwargs)

    @override
    def check_input(self, source: object, query: str | None, sql_conn_id: str | None) -> None:
        if source is not None or query is not None or sql_conn_id is not None:
            raise TypeError("@task.llmbatch takes no source=, query= or sql_conn_id=: the function is the input")

    @override
    def records_of(self, context: Context) -> Records:
        from airflow_provider_llmbatch.core.run.sources import given_records  # noqa: PLC0415 - no DAG file needs it
        from airflow_provider_llmbatch.operators.run_input import Records  # noqa: PLC0415 - as above

        name = f"what {self.python_callable.__name__} yields"
        return Records(lambda _: given_records(self._yielded(context), name=name), name, may_be_texts=True)

    def _yielded(self, context: Context) -> Iterable[object]:
        given = self.determine_kwargs({**context, **self.op_kwargs})
        items = self.python_callable(*self.op_args, **given)
        if isinstance(items, str | bytes | dict) or not hasattr(items, "__iter__"):
            raise BatchInputError(
                f"{self.python_callable.__name__} returned {type(items).__name__}, and not something that yields "
                "prompts, records or requests one after the other. Nothing was uploaded or billed."
            )
        if (problem := _UNFIT.get(type(items).__name__)) is not None:
            raise BatchInputError(
                f"{self.python_callable.__name__} returned a {type(items).__name__}, {problem}. Nothing was uploaded "
                "or billed."
            )
        yielded: Iterable[object] = items
        return yielded


def llmbatch_task(python_callable: Callable[..., Any] | None = None, **kwargs: Any) -> TaskDecorator:
    """Turn a function into a task that asks an LLM about everything that it yields.

    It yields texts, each a prompt; dicts for the placeholders of ``prompt``; or ready requests, dicts with a ``body``.

    :param python_callable: The function.
    :param kwargs: As for ``LLMBatchRunOperator``, without ``source``, ``query`` and ``sql_conn_id``.
    """
    return task_decorator_factory(
        python_callable=python_callable, decorated_operator_class=_LLMBatchDecoratedOperator, **kwargs
    )
