"""What the project's files promise: every dependency pinned, no address, no path of somebody's machine."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONSTRAINTS = sorted((ROOT / "constraints").glob("*.txt"))
AIRFLOW_CONSTRAINTS = [path for path in CONSTRAINTS if path.stem.startswith("airflow-")]
each_constraints_file = pytest.mark.parametrize("constraints", CONSTRAINTS, ids=lambda path: path.stem)
each_airflow = pytest.mark.parametrize("constraints", AIRFLOW_CONSTRAINTS, ids=lambda path: path.stem)

HOME = re.compile(rb"(?<![\w.~-])/(?:home|Users|root)/\w")


def declared() -> list[Requirement]:
    """Every dependency of the package, of its extras, of the tests and of the build, the package itself left out."""
    project = PYPROJECT["project"]
    lines = [*project["dependencies"], *PYPROJECT["build-system"]["requires"], *PYPROJECT["dependency-groups"]["test"]]
    for extra in project["optional-dependencies"].values():
        lines += extra
    requirements = [Requirement(line) for line in lines]
    return [each for each in requirements if each.name != project["name"]]


def pins(constraints: Path) -> list[Requirement]:
    lines = (line.partition("#")[0].strip() for line in constraints.read_text().splitlines())
    return [Requirement(line) for line in lines if line]


def test_the_lowest_and_the_newest_supported_airflow_have_their_constraints() -> None:
    [lowest] = [str(need.specifier).removeprefix(">=") for need in declared() if need.name == "apache-airflow"]
    assert {f"airflow-{lowest}", "airflow-3.3"} == {path.stem for path in AIRFLOW_CONSTRAINTS}
    assert f"LOWEST := {lowest}\n" in (ROOT / "Makefile").read_text()


@each_constraints_file
def test_constraints_hold_names_and_exact_versions_only(constraints: Path) -> None:
    text = constraints.read_text()
    assert not re.search(r"://|^-|\bfile:|/simple", text, re.MULTILINE)
    assert [str(pin) for pin in pins(constraints) if not re.fullmatch(r"==[^*,]+", str(pin.specifier))] == []


@each_airflow
def test_every_declared_dependency_is_pinned_at_a_version_that_it_allows(constraints: Path) -> None:
    versions = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins(constraints)}
    unmet = [str(need) for need in declared() if versions.get(canonicalize_name(need.name), "") not in need.specifier]
    assert unmet == []


@each_airflow
def test_constraints_are_for_the_line_of_airflow_that_their_name_says(constraints: Path) -> None:
    airflow = [str(pin.specifier) for pin in pins(constraints) if pin.name == "apache-airflow"]
    assert [version.rpartition(".")[0] for version in airflow] == [f"=={constraints.stem.removeprefix('airflow-')}"]


def test_no_file_of_the_project_names_a_home_folder() -> None:
    listed = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], check=False, capture_output=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    assert [str(path) for path in files if path.is_file() and HOME.search(path.read_bytes())] == []


@pytest.mark.parametrize("folder", [b"home", b"Users", b"root"])
def test_a_home_folder_is_recognised(folder: bytes) -> None:
    assert HOME.search(b"see /" + folder + b"/ann")
