"""What Airflow reads about the package: valid, importable, and at one with the code that reads the fields."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib import import_module, resources
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from airflow.providers_manager import ProvidersManager
from airflow.sdk import BaseNotifier

import airflow_provider_llmbatch
from airflow_provider_llmbatch.adapters.openai import DEFAULT_BASE_URL
from airflow_provider_llmbatch.hooks.azure import AzureExtra
from airflow_provider_llmbatch.hooks.batch import ADAPTERS
from airflow_provider_llmbatch.hooks.connections import OpenAIExtra
from airflow_provider_llmbatch.hooks.vertex import VertexExtra
from airflow_provider_llmbatch.operators.batch import LLMBatchCreateBatchOperator
from airflow_provider_llmbatch.provider_info import get_provider_info
from airflow_provider_llmbatch.sensors.batch import LLMBatchSensor

if TYPE_CHECKING:
    from airflow_provider_llmbatch.hooks.settings import CommonExtra

EXTRAS: dict[str, type[CommonExtra]] = {
    "llmbatch_openai": OpenAIExtra,
    "llmbatch_azure": AzureExtra,
    "llmbatch_vertex": VertexExtra,
}
INFO: dict[str, Any] = get_provider_info()
CONNECTIONS: dict[str, dict[str, Any]] = {row["connection-type"]: row for row in INFO["connection-types"]}

JSON_TYPES = {str: "string", float: "number", dict: "object", bool: "boolean"}
SECRETS = {"proxy", "client_secret", "certificate_password", "keyfile_json"}  # a proxy's URL may carry a password


def python_type(annotation: object) -> type:
    """The one type of a field that may also be ``None``: ``str | None`` and ``dict[str, str]`` alike."""
    if hasattr(annotation, "__metadata__"):
        return python_type(annotation.__origin__)  # type: ignore[attr-defined] # of Annotated
    inner = [arg for arg in getattr(annotation, "__args__", ()) if arg is not type(None)]
    origin = getattr(annotation, "__origin__", None)
    if isinstance(origin, type):
        return origin
    return python_type(inner[0]) if inner else annotation  # type: ignore[return-value]


def test_it_is_valid_against_airflows_schema() -> None:
    schema = json.loads(resources.files("airflow").joinpath("provider_info.schema.json").read_text())
    jsonschema.Draft7Validator(schema).validate(INFO)


@pytest.mark.parametrize("kind", ["operators", "sensors", "triggers", "hooks"])
def test_every_module_that_it_names_imports(kind: str) -> None:
    for row in INFO[kind]:
        assert row["integration-name"] in {each["integration-name"] for each in INFO["integrations"]}
        for module in row["python-modules"]:
            import_module(module)


def test_it_names_every_module_of_the_operators_that_has_some_for_users() -> None:
    named = {module for row in (*INFO["operators"], *INFO["sensors"]) for module in row["python-modules"]}
    folders = [Path(airflow_provider_llmbatch.__file__).parent / kind for kind in ("operators", "sensors")]
    modules = [path for folder in folders for path in folder.glob("*.py")]
    classes = {
        path: [n.bases for n in ast.parse(path.read_text()).body if isinstance(n, ast.ClassDef)] for path in modules
    }
    for_users = {
        f"airflow_provider_llmbatch.{path.parent.name}.{path.stem}"
        for path, bases in classes.items()
        if any("Operator" in ast.unparse(base) for each in bases for base in each)
    }
    assert named == for_users


def test_every_link_that_it_names_is_one_that_an_operator_offers() -> None:
    for path in INFO["extra-links"]:
        module, _, name = path.rpartition(".")
        link = getattr(import_module(module), name)
        for operator in (LLMBatchCreateBatchOperator, LLMBatchSensor):
            assert link in {type(each) for each in operator.operator_extra_links}


def test_every_notifier_that_it_names_is_one() -> None:
    for path in INFO["notifications"]:
        module, _, name = path.rpartition(".")
        assert issubclass(getattr(import_module(module), name), BaseNotifier)


@pytest.mark.parametrize("row", CONNECTIONS.values(), ids=CONNECTIONS)
def test_every_hook_that_it_names_imports_and_is_of_that_connection_type(row: dict[str, Any]) -> None:
    module, _, name = row["hook-class-name"].rpartition(".")
    hook = getattr(import_module(module), name)
    assert (hook.conn_type, hook.hook_name) == (row["connection-type"], row["hook-name"])


def test_every_adapter_has_a_connection_type_and_a_form_unless_airflow_has_one_already() -> None:
    well_known = {"openai", "google_cloud_platform"}
    assert set(CONNECTIONS) == set(ADAPTERS) - well_known == set(EXTRAS)


@pytest.mark.parametrize(("conn_type", "extra"), EXTRAS.items(), ids=EXTRAS)
def test_the_form_asks_for_what_the_hook_reads_with_the_same_defaults(conn_type: str, extra: type[CommonExtra]) -> None:
    form = CONNECTIONS[conn_type]["conn-fields"]
    asked = {name: (field["schema"]["type"], field["schema"].get("default")) for name, field in form.items()}
    read = {
        name: (
            [JSON_TYPES[python_type(field.annotation)], "null"],
            field.get_default(call_default_factory=True) or None,
        )
        for name, field in extra.model_fields.items()
    }
    assert asked == read


@pytest.mark.parametrize("row", CONNECTIONS.values(), ids=CONNECTIONS)
def test_every_field_explains_itself(row: dict[str, Any]) -> None:
    for name, field in row["conn-fields"].items():
        assert field["label"], name
        assert field["description"].endswith("."), name


@pytest.mark.parametrize("row", CONNECTIONS.values(), ids=CONNECTIONS)
def test_what_may_be_or_carry_a_password_is_masked(row: dict[str, Any]) -> None:
    masked = {name for name, field in row["conn-fields"].items() if field["schema"].get("format") == "password"}
    assert masked == SECRETS & set(row["conn-fields"])


def test_the_base_url_that_the_form_shows_is_the_one_that_an_empty_field_means() -> None:
    assert CONNECTIONS["llmbatch_openai"]["ui-field-behaviour"]["placeholders"]["host"] == DEFAULT_BASE_URL


def test_reading_it_imports_nothing_but_itself() -> None:
    script = (
        "import sys; from airflow_provider_llmbatch.provider_info import get_provider_info; get_provider_info();"
        "print(*sorted(m for m in sys.modules if m.partition('.')[0] in ('airflow', 'httpx', 'pydantic')"
        " or m.startswith('airflow_provider_llmbatch')))"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    assert loaded.stdout.split() == ["airflow_provider_llmbatch", "airflow_provider_llmbatch.provider_info"]


# Tasks have a successor of this property; the connection form itself still reads this one.
@pytest.mark.filterwarnings("ignore:ProvidersManager.hooks is deprecated")
def test_airflow_shows_the_connection_types_and_their_forms() -> None:
    try:
        distribution(INFO["package-name"])
    except PackageNotFoundError:
        pytest.skip("the wheel is not installed; make test installs it")
    manager = ProvidersManager()
    for conn_type, row in CONNECTIONS.items():
        hook = manager.hooks[conn_type]
        assert hook is not None
        assert (hook.hook_name, hook.hook_class_name, hook.connection_testable) == (
            row["hook-name"],
            row["hook-class-name"],
            True,
        )
        prefix = f"extra__{conn_type}__"
        shown = {name: widget for name, widget in manager.connection_form_widgets.items() if name.startswith(prefix)}
        assert {name.removeprefix(prefix) for name in shown} == set(row["conn-fields"])
        sensitive = {name.removeprefix(prefix) for name, widget in shown.items() if widget.is_sensitive}
        assert sensitive == SECRETS & set(row["conn-fields"])
        assert manager.field_behaviours[conn_type] == {
            "hidden_fields": row["ui-field-behaviour"]["hidden-fields"],
            "relabeling": row["ui-field-behaviour"]["relabeling"],
            "placeholders": row["ui-field-behaviour"]["placeholders"],
        }
