"""A provider stands in five places: its module, the registry, a connection type, an extra, and a test of the contract.

Each row here names them for one connection type; what is missing, or stands in one place only, fails.
"""

from __future__ import annotations

import ast
import tomllib
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement

from airflow_provider_llmbatch.adapters.base import Adapter
from airflow_provider_llmbatch.hooks.batch import ADAPTERS, LLMBatchHook
from airflow_provider_llmbatch.provider_info import get_provider_info

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTS = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((TESTS.parent / "pyproject.toml").read_text())
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
NO_PROVIDERS = {"all", "local", "parquet"}
# Connection type -> its extra; None if what every install brings is enough.
OWN: dict[str, str | None] = {"llmbatch_openai": None, "llmbatch_azure": "azure"}
# Connection types of other providers of Airflow -> ours, whose adapter serves them.
WELL_KNOWN = {"openai": "llmbatch_openai"}
# Extras that were announced before their provider is there.
AHEAD = {"vertex"}

each_own = pytest.mark.parametrize("conn_type", OWN)


def factory_of(conn_type: str) -> object:
    module, _, name = ADAPTERS[conn_type].partition(":")
    return getattr(import_module(module), name)


def adapter_class_of(conn_type: str) -> type[Adapter]:
    """What the annotation of the registered function says it returns."""
    factory = factory_of(conn_type)
    name = getattr(factory, "__annotations__", {})["return"]
    adapter = getattr(import_module(getattr(factory, "__module__", "")), name)
    assert isinstance(adapter, type)
    assert issubclass(adapter, Adapter)
    return adapter


def test_the_registry_knows_these_connection_types_and_no_others() -> None:
    assert set(ADAPTERS) == set(OWN) | set(WELL_KNOWN)


def test_a_connection_type_of_airflow_is_served_by_the_same_adapter_as_ours() -> None:
    for theirs, ours in WELL_KNOWN.items():
        assert adapter_class_of(theirs) is adapter_class_of(ours)


@each_own
def test_it_has_a_module_of_its_own_named_like_itself(conn_type: str) -> None:
    adapter = adapter_class_of(conn_type)
    assert adapter.__module__ == f"airflow_provider_llmbatch.adapters.{adapter.provider}"
    assert conn_type == f"llmbatch_{adapter.provider}"
    assert adapter.title
    assert adapter.worst_case_hours >= 24
    assert adapter.limits.max_requests > 0


@each_own
def test_it_has_a_form_and_a_hook_of_its_own(conn_type: str) -> None:
    rows = get_provider_info()["connection-types"]
    assert isinstance(rows, list)
    [row] = [row for row in rows if row["connection-type"] == conn_type]
    module, _, name = row["hook-class-name"].rpartition(".")
    hook = getattr(import_module(module), name)
    assert issubclass(hook, LLMBatchHook)
    assert (hook.conn_type, hook.hook_name) == (conn_type, row["hook-name"])


def test_every_extra_belongs_to_a_provider_and_is_part_of_all() -> None:
    assert set(EXTRAS) - NO_PROVIDERS - AHEAD == {extra for extra in OWN.values() if extra}
    [everything] = [Requirement(line) for line in EXTRAS["all"]]
    assert everything.extras == set(EXTRAS) - {"all"}


@pytest.mark.parametrize("extra", [extra for extra in OWN.values() if extra])
def test_what_an_extra_installs_is_what_the_tests_run_with(extra: str) -> None:
    for requirement in map(Requirement, EXTRAS[extra]):
        assert version(requirement.name) in requirement.specifier


def contract_tests() -> Iterator[str]:
    """The adapters that some test class which subclasses the contract makes."""
    for path in (TESTS / "adapters").glob("test_*.py"):
        tree = ast.parse(path.read_text())
        names = {
            node.name: {ast.unparse(base) for base in node.bases}
            for node in tree.body
            if isinstance(node, ast.ClassDef)
        }
        if any("AdapterContract" in bases for bases in names.values()) and any(
            name.startswith("Test") for name in names
        ):
            yield from (node.id for node in ast.walk(tree) if isinstance(node, ast.Name))


@each_own
def test_some_test_class_holds_it_to_the_contract(conn_type: str) -> None:
    assert adapter_class_of(conn_type).__name__ in set(contract_tests())


@each_own
def test_the_documents_have_a_section_for_it(conn_type: str) -> None:
    title = adapter_class_of(conn_type).title
    assert f"\n## {title}\n" in (TESTS.parent / "docs" / "providers.md").read_text()
    assert f"\n## `{conn_type}`: {title}" in (TESTS.parent / "docs" / "connections.md").read_text()
