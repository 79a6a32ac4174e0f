"""What an operator is told to ask, and about what, held until its task runs.

It is checked as far as reading a DAG file may take, and imports none of what a run needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_llmbatch.core.run.prompts import Prompt

if TYPE_CHECKING:
    from pydantic import BaseModel

_INLINE: Final = (
    "source= takes the URI of a file, or several, and not the data itself: what stands in a DAG would go through "
    "Airflow's database, with every run. Yield prompts, records or requests from a function decorated with "
    "@task.llmbatch instead."
)


@dataclass(frozen=True)
class Asked:
    """As ``RequestTemplate``, but for the model.

    :raises BatchInputError: A placeholder in one of the texts cannot work.
    """

    prompt: str | None
    system: str | None
    parameters: Mapping[str, Any]
    response_format: type[BaseModel] | Mapping[str, Any] | None
    key: str | tuple[str, ...]
    columns: tuple[str, ...] | None
    endpoint: str

    def __post_init__(self) -> None:
        for name, text in (("prompt", self.prompt), ("system text", self.system)):
            if text is not None:
                Prompt(text, name=name)


def check_place(output: object) -> None:
    """Refuse an output that is no URI; what Airflow has yet to render may be one.

    :raises ValueError: It is none.
    """
    if not output or isinstance(output, Mapping | bytes | int) or hasattr(type(output), "joinpath"):
        raise ValueError(
            f"output= takes the URI of a folder as a text, such as s3://conn_id@bucket/reviews, and not {output!r}."
        )


def cap_of(given: object) -> Decimal | None:
    """A cap as an amount of US dollars, from a number, a text, or what a template made of one; an empty text is no cap.

    :raises ValueError: It is no amount.
    """
    if given is None or given == "":
        return None
    try:
        amount = Decimal(str(given))
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite() or amount < 0 or isinstance(given, bool):
        raise ValueError(f"max_cost_usd must be an amount of US dollars, such as 20 or 0.5, not {given!r}")
    return amount


def check_source(source: object) -> None:
    """Refuse data where a URI belongs.

    :raises ValueError: The source, or one of several, cannot be a URI.
    """
    listed = [source] if isinstance(source, str | Mapping) or not isinstance(source, Sequence) else source
    for each in listed:
        if isinstance(each, Mapping | bytes | Sequence) and not _may_be_uri(each):
            raise ValueError(_INLINE)
    if not listed:
        raise ValueError("source= is an empty list")


def check_input(source: object, query: str | None, sql_conn_id: str | None) -> None:
    """Refuse, while the DAG is read, what cannot be an input.

    :raises ValueError: There is none, or more than one, or it is no URI.
    """
    if (source is None) == (query is None):
        raise ValueError(
            "An input is needed, and one only: source=, the URI of a file, or query= with sql_conn_id=. Requests "
            "that are made in Python come from a function decorated with @task.llmbatch."
        )
    if query is not None and not sql_conn_id:
        raise ValueError("query= needs sql_conn_id=, the Airflow connection of its database")
    if source is not None:
        check_source(source)


def _may_be_uri(source: object) -> bool:
    """Whether a text is, or a template may render to, one word that names a file: ``Summarize this`` is none."""
    return isinstance(source, str) and "\n" not in source and any(mark in source for mark in ("/", ".", "\\", "{{"))
