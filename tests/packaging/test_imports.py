"""What importing costs and needs: the core no Airflow, a DAG file no provider's SDK and no server."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

import airflow_provider_llmbatch

AIRFLOW_FACING = {"provider_info", "operators", "triggers", "hooks", "decorators", "sensors", "links", "plugins"}

WITHOUT_AIRFLOW = """
import importlib, sys

class NoAirflow:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "airflow":
            raise ModuleNotFoundError(f"blocked: {name}", name=name)

sys.meta_path.insert(0, NoAirflow())
for module in sys.argv[1:]:
    importlib.import_module(module)
"""

NEW_MODULES = """
import sys
import airflow.sdk
before = set(sys.modules)
importlib = __import__("importlib")
for module in sys.argv[1:]:
    importlib.import_module(module)
print(*sorted(set(sys.modules) - before), sep="\\n")
"""


def modules_below(package: str) -> list[str]:
    found = importlib.import_module(package)
    return [package, *(m.name for m in pkgutil.walk_packages(found.__path__, f"{package}."))]


def core_band() -> list[str]:
    """Every module of the package that does not face Airflow, a new one included."""
    top = pkgutil.iter_modules(airflow_provider_llmbatch.__path__, "airflow_provider_llmbatch.")
    names: list[str] = []
    for module in top:
        if module.name.rpartition(".")[2] not in AIRFLOW_FACING:
            names += modules_below(module.name) if module.ispkg else [module.name]
    return names


def run(script: str, modules: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *modules], check=False, capture_output=True, text=True, timeout=60
    )


def test_the_core_band_is_found() -> None:
    tops = {name.split(".")[1] for name in core_band()}
    assert tops == {"adapters", "core", "errors", "models", "server"}


def test_the_core_band_imports_where_airflow_is_not_installed() -> None:
    imported = run(WITHOUT_AIRFLOW, core_band())
    assert (imported.returncode, imported.stderr) == (0, "")


def test_the_hook_would_not_so_the_blocker_works() -> None:
    imported = run(WITHOUT_AIRFLOW, ["airflow_provider_llmbatch.hooks.batch"])
    assert "ModuleNotFoundError: blocked: airflow" in imported.stderr


@pytest.mark.parametrize("package", ["operators", "sensors", "triggers", "hooks", "links"])
def test_importing_what_dags_use_brings_no_sdk_and_no_server(package: str) -> None:
    imported = run(NEW_MODULES, modules_below(f"airflow_provider_llmbatch.{package}"))
    assert imported.returncode == 0, imported.stderr
    loaded = imported.stdout.split()
    assert f"airflow_provider_llmbatch.{package}" in loaded
    heavy = (
        "openai",
        "google.cloud",
        "google.genai",
        "azure",
        "fastapi",
        "starlette",
        "uvicorn",
        "xllamacpp",
        "genai_prices",
    )
    assert [name for name in loaded if name.startswith(heavy)] == []
