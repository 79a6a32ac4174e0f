"""The wheel that users install: what it holds, and that it is what the tests import."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

import airflow_provider_llmbatch

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DIST_INFO = f"airflow_provider_llmbatch-{airflow_provider_llmbatch.__version__}.dist-info"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.Path:
    """The wheel under test: the one that ``make test`` installed, or else one built now."""
    if given := os.environ.get("LLMBATCH_TEST_WHEEL"):
        return zipfile.Path(ROOT / given)
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, ROOT], check=True, timeout=120)
    return zipfile.Path(next(folder.glob("*.whl")))


def tracked(folder: str) -> set[str]:
    """The files that git tracks, or in a copy without git all files, below a folder of the checkout."""
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-co", "--exclude-standard", folder], check=False, capture_output=True
    )
    if listed.returncode == 0:
        return {name for name in listed.stdout.decode().splitlines() if (ROOT / name).exists()}
    files = (path for path in (ROOT / folder).rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path.relative_to(ROOT).as_posix() for path in files}


def test_the_tests_import_the_installed_wheel_and_not_the_checkout() -> None:
    if "LLMBATCH_TEST_WHEEL" not in os.environ:
        pytest.skip("only make test installs the wheel")
    assert "site-packages" in Path(airflow_provider_llmbatch.__file__).parts


def test_the_wheel_holds_the_package_and_its_metadata_and_nothing_else(wheel: zipfile.Path) -> None:
    metadata = {
        f"{DIST_INFO}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")
    }
    held = {name for name in wheel.root.namelist() if not name.endswith("/")}
    assert held == tracked("airflow_provider_llmbatch") | metadata


def test_the_wheel_says_that_the_package_is_typed(wheel: zipfile.Path) -> None:
    assert (wheel / "airflow_provider_llmbatch" / "py.typed").is_file()


def test_the_wheel_carries_the_licence(wheel: zipfile.Path) -> None:
    assert (wheel / DIST_INFO / "licenses" / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_the_wheel_declares_the_provider_and_the_server(wheel: zipfile.Path) -> None:
    entry_points = configparser.ConfigParser(delimiters="=")
    entry_points.read_string((wheel / DIST_INFO / "entry_points.txt").read_text())
    assert {section: dict(entry_points[section]) for section in entry_points.sections()} == {
        "console_scripts": {"llmbatch-server": "airflow_provider_llmbatch.server.__main__:main"},
        "apache_airflow_provider": {"provider_info": "airflow_provider_llmbatch.provider_info:get_provider_info"},
    }


def test_the_wheel_offers_an_extra_for_each_provider_and_format(wheel: zipfile.Path) -> None:
    metadata = message_from_string((wheel / DIST_INFO / "METADATA").read_text())
    assert set(metadata.get_all("Provides-Extra", [])) == {"all", "azure", "local", "parquet", "vertex"}
    assert metadata["Version"] == airflow_provider_llmbatch.__version__ == PROJECT["version"]


def test_the_extra_all_is_every_other_extra() -> None:
    extras = PROJECT["optional-dependencies"]
    others = ",".join(sorted(set(extras) - {"all"}))
    assert extras["all"] == [f"airflow-provider-llmbatch[{others}]"]
