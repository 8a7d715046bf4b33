"""What is given away: a wheel with everything that runs and nothing else, and an sdist from which the tests run."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from collections.abc import Iterator
from email import message_from_bytes
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

import pinned
import pytest

import adntn

ROOT = Path(__file__).parents[1]
BACKENDS = ("cupy", "jax", "torch")
PACKAGES = {"adntn": ROOT, **{f"adntn_{backend}": ROOT / "backends" for backend in BACKENDS}}


def files(root: Path, folder: str) -> set[str]:
    """The paths, from the root, of a folder's files, without what Python and tools leave behind."""
    found = (path for path in (root / folder).rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path.relative_to(root).as_posix() for path in found if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a wheel and an sdist, as `pip` and `build` make them."""
    if find_spec("hatchling") is None or not (ROOT / "pyproject.toml").exists():
        pytest.skip("hatchling, or the sources, are not here")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--target", "sdist"]
    subprocess.run([*command, "--directory", str(folder)], cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.fixture
def wheel(built: Path) -> Iterator[ZipFile]:
    (path,) = built.glob("*.whl")
    with ZipFile(path) as archive:
        yield archive


def test_a_wheel_has_all_modules_and_nothing_but_them(wheel: ZipFile) -> None:
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == {name for package, root in PACKAGES.items() for name in files(root, package)}
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    assert not [name for name in names if "test_" in name or "conftest" in name]


def test_a_wheel_says_its_licence_its_version_and_its_backends(wheel: ZipFile) -> None:
    found = {name.partition(".dist-info/")[2]: name for name in wheel.namelist() if ".dist-info/" in name}
    assert wheel.read(found["licenses/LICENSE"]) == (ROOT / "LICENSE").read_bytes()
    about = message_from_bytes(wheel.read(found["METADATA"]))
    assert (about["Name"], about["Version"], about["License-Expression"]) == ("adntn", adntn.__version__, "Apache-2.0")
    assert about["Requires-Python"] == ">=3.11"
    entries = wheel.read(found["entry_points.txt"]).decode()
    assert "adntn = adntn.cli:main" in entries.splitlines()
    assert {f"{backend} = adntn_{backend}.backend:BACKEND" for backend in BACKENDS} <= set(entries.splitlines())


def test_an_sdist_has_what_the_tests_need_and_nothing_that_was_made(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    folders = ("adntn", "backends", "benchmarks", "tests", "docs", "examples", "robustness")
    assert {name for folder in folders for name in files(ROOT, folder)} <= names
    single = {"CONTRIBUTING.md", "LICENSE", "README.md", "SECURITY.md", "conftest.py", "pyproject.toml", "tox.ini"}
    assert single <= names
    assert not [name for name in names if name.endswith(".pyc") or name.startswith((".tox", "results", "dist"))]


def test_what_is_not_pinned_is_named() -> None:
    wanted = {"numpy": "2.4.6", "torch": "2.13.0"}
    installed = [("NumPy", "2.4.6"), ("torch", "2.13.0+cpu"), ("adntn", "0.1.0"), ("nvidia-cublas", "13.0")]
    assert not pinned.problems(installed, wanted)
    assert pinned.problems([*installed, ("left-pad", "1.0")], wanted) == ["left-pad==1.0 is not pinned"]
    assert pinned.problems([("numpy", "2.4.5")], wanted) == ["numpy is 2.4.5, not 2.4.6"]
