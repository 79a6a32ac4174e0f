"""A button in the task's details that opens the batch in the provider's console."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import BaseOperatorLink
from typing_extensions import override

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, Context
    from airflow.sdk.types import TaskInstanceKey


class LLMBatchConsoleLink(BaseOperatorLink):
    """Opens the batch where the provider shows it to people; greyed out for a provider without such a page."""

    name = "LLM batch console"

    def push(self, context: Context, url: str | None) -> None:
        """Keep the address where Airflow looks for it while the task runs or is deferred: it asks ``get_link`` only
        when the task has ended.
        """
        if url:
            context["ti"].xcom_push(key=self.xcom_key, value=url)

    @override
    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """The address that was pushed. Empty if there is none, since Airflow would make a button of a null."""
        from airflow.sdk.execution_time.xcom import XCom  # noqa: PLC0415 - a DAG that is only read needs none of it

        url = XCom.get_value(ti_key=ti_key, key=self.xcom_key)
        return url if isinstance(url, str) else ""
