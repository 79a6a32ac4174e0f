"""``docs/operators.md`` names what users write into a DAG: each class, its parameters and defaults, each verb."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from airflow.sdk import BaseOperator
from airflow.triggers.base import BaseTrigger

from airflow_provider_llmbatch.hooks.async_verbs import AsyncVerbs
from airflow_provider_llmbatch.hooks.batch import LLMBatchHook
from airflow_provider_llmbatch.provider_info import get_provider_info

if TYPE_CHECKING:
    from collections.abc import Iterator

TEXT = (Path(__file__).parents[2] / "docs" / "operators.md").read_text()
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))
OF_EVERY_OPERATOR = "llmbatch_conn_id"  # named once, above all sections
NOT_FOR_DAGS = {"OneBatchOperator"}  # what others are made of
NOT_FOR_USERS = {"get_conn", "adapter_of", "open_source"}


def classes_for_users() -> Iterator[type[BaseOperator | BaseTrigger]]:
    info = get_provider_info()
    rows = [row for kind in ("operators", "sensors", "triggers") for row in info[kind]]  # type: ignore[attr-defined]
    for module in {module for row in rows for module in row["python-modules"]}:
        for value in vars(import_module(module)).values():
            is_here = inspect.isclass(value) and value.__module__ == module
            if is_here and issubclass(value, (BaseOperator, BaseTrigger)) and value.__name__ not in NOT_FOR_DAGS:
                yield value


CLASSES = sorted(classes_for_users(), key=lambda each: each.__name__)
OPERATORS = [each for each in CLASSES if issubclass(each, BaseOperator)]
each_operator = pytest.mark.parametrize("documented", OPERATORS, ids=lambda each: each.__name__)
each_class = pytest.mark.parametrize("documented", CLASSES, ids=lambda each: each.__name__)


def section_of(documented: type) -> str:
    [text] = [text for title, text in SECTIONS.items() if documented.__name__ in title.split(", ")]
    return text


def rows_of(text: str) -> dict[str, str]:
    """The rows of parameters: the name -> the whole line."""
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return {name: line for line in lines for name in re.findall(r"`(\w+)`", line.split("|")[1])}


def parameters_of(documented: type) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(documented.__init__).parameters.items()  # type: ignore[misc]
    return {name: each for name, each in parameters if name != "self" and each.kind is not each.VAR_KEYWORD}


def test_there_are_operators_a_sensor_and_a_trigger() -> None:
    names = {each.__name__ for each in CLASSES}
    assert {
        "LLMBatchCreateFileOperator",
        "LLMBatchDownloadResultsOperator",
        "LLMBatchSensor",
        "LLMBatchTrigger",
    } < names


@each_class
def test_every_parameter_has_a_row(documented: type) -> None:
    wanted = set(parameters_of(documented))
    if issubclass(documented, BaseOperator):
        wanted.remove(OF_EVERY_OPERATOR)
    table = section_of(documented).partition("| Parameter |")[2]
    assert set(rows_of(table.partition("\n\n")[0])) == wanted


@each_class
def test_every_default_is_said(documented: type) -> None:
    rows = rows_of(section_of(documented))
    plain = {
        name: f'"{each.default}"' if isinstance(each.default, str) else f"{each.default:g}"
        for name, each in parameters_of(documented).items()
        if name in rows and isinstance(each.default, (str, int, float)) and not isinstance(each.default, bool)
    }
    switches = {
        name: str(each.default) for name, each in parameters_of(documented).items() if each.default in (True, False)
    }
    said = {name: rows[name].split("|")[3] for name in (*plain, *switches)}
    assert {name: text for name, text in (plain | switches).items() if f"`{text}`" not in said[name]} == {}


@each_operator
def test_what_is_templated_is_said(documented: type[BaseOperator]) -> None:
    rows = rows_of(section_of(documented))
    templated = {name for name, line in rows.items() if "templated" in line}
    # The attribute cannot be called as its parameter, since every operator has an ``output`` of Airflow's own.
    fields = {{"output_uri": "output"}.get(name, name) for name in documented.template_fields}
    assert templated == fields - {OF_EVERY_OPERATOR}


@pytest.mark.parametrize("hook", [LLMBatchHook, AsyncVerbs], ids=lambda each: each.__name__)
def test_every_verb_of_the_hook_is_named(hook: type) -> None:
    verbs = {name for name, value in vars(hook).items() if callable(value) and not name.startswith("_")}
    named = set(re.findall(r"`(\w+)[(`]", SECTIONS["LLMBatchHook"]))
    assert verbs - NOT_FOR_USERS - named == set()


def test_the_button_is_called_as_its_link_calls_itself() -> None:
    from airflow_provider_llmbatch.links.batch import LLMBatchConsoleLink

    assert f"the button *{LLMBatchConsoleLink.name}*" in TEXT
