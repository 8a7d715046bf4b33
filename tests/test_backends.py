"""Backends are found by name and by entry point; what cannot be used is said, and harms nobody else."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from importlib.metadata import entry_points, metadata
from importlib.util import find_spec
from pathlib import Path

import autoray
import numpy as np
import pytest

import adntn
from adntn.arrays import EXTRAS
from adntn.backends import DIFFERENTIATIONS, GROUP

#: An array library with arrays of its own, which NumPy's functions do not return by themselves.
LIBRARY = """
import numpy
__version__ = "4.2"
class Array(numpy.lib.mixins.NDArrayOperatorsMixin):
    def __init__(self, own): self.own = numpy.asarray(own)
    def __array__(self, dtype=None, copy=None): return self.own
    def __dlpack__(self, **options): return self.own.__dlpack__(**options)
    def __dlpack_device__(self): return self.own.__dlpack_device__()
    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        return Array(getattr(ufunc, method)(*(numpy.asarray(one) for one in inputs), **options))
    def __getitem__(self, key): return Array(self.own[key])
    def astype(self, dtype): return Array(self.own.astype(dtype))
    shape = property(lambda self: self.own.shape)
    dtype = property(lambda self: self.own.dtype)
def asarray(array, dtype=None):
    return Array(numpy.asarray(array, dtype=dtype))
def _own(function):
    return lambda *arguments, **options: Array(function(*arguments, **options))
names = "matmul reshape transpose concatenate zeros_like where conj sum exp expm1 logaddexp tanh sin cos".split()
globals().update({name: _own(getattr(numpy, name)) for name in names})
float32, float64, complex64, complex128 = numpy.float32, numpy.float64, numpy.complex64, numpy.complex128
"""
PLUGIN = """
from adntn.backends import Backend
BACKEND = Backend("toyarrays", device=lambda name: None)
"""
PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "toyarrays-for-adntn"
version = "1.0"
[project.optional-dependencies]
absentarrays = []
[project.entry-points."adntn.backends"]
toyarrays = "toyplugin:BACKEND"
json = "toyplugin_broken:BACKEND"
decimal = "toyplugin:PLUGINS"
fractions = "toyplugin:BACKEND"
absentarrays = "toyplugin:BACKEND"
[tool.hatch.build.targets.wheel]
include = ["*.py"]
"""
TESTS = """
from adntn.testing import BackendConformance
class TestToy(BackendConformance):
    backend = "toyarrays"
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package from elsewhere with an array library, its plug-in and some broken ones, built and installed by pip."""
    for tool in ("pip", "hatchling"):
        if find_spec(tool) is None:
            pytest.skip(f"{tool} is not installed: no package can be built")
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
    files = {
        "pyproject.toml": PYPROJECT,
        "toyarrays.py": LIBRARY,
        "toyplugin.py": PLUGIN,
        "toyplugin_broken.py": "raise RuntimeError('no driver\\nfound')",
    }
    for name, text in files.items():
        (source / name).write_text(text)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--target", str(target), str(source)]
    subprocess.run([*pip, *options], check=True, capture_output=True)
    (target / "check_toy.py").write_text(TESTS)
    return target


def run(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, cwd=installed, capture_output=True, text=True, check=False)


def test_a_package_from_elsewhere_is_found_and_passes_the_conformance_suite(installed: Path) -> None:
    done = run(installed, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "check_toy.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout


def test_broken_plugins_are_reported_and_harm_no_other(installed: Path) -> None:
    done = run(installed, "-c", "import adntn; print(*adntn.backends(), sep='\\n')")
    status = dict(line.removeprefix("Status(name='").split("'", 1) for line in done.stdout.splitlines())
    assert "usable=True" in status["numpy"]
    assert "usable=True" in status["toyarrays"]
    assert "version='4.2'" in status["toyarrays"]
    for name, words in {
        "json": "package toyarrays-for-adntn is broken: RuntimeError: no driver found",
        "decimal": "AttributeError",
        "fractions": "must be named 'fractions'",
    }.items():
        assert "installed=True, usable=False" in status[name]
        assert words in status[name]
    assert "installed=False, usable=False" in status["absentarrays"]
    assert 'pip install "toyarrays-for-adntn[absentarrays]"' in status["absentarrays"]


def test_a_backend_from_elsewhere_is_verified_by_the_command(installed: Path) -> None:
    command = ["-m", "adntn", "verify", "--backends", "numpy,toyarrays", "--topologies", "LowRank"]
    done = run(installed, *command, "--activations", "tanh", "--html", "page.html")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "toyarrays adjoint" in done.stdout
    assert "toyarrays" in (installed / "page.html").read_text()


def test_importing_the_library_imports_no_framework() -> None:
    code = "import adntn, sys; print({'torch', 'jax', 'cupy', 'rich', 'platformdirs', 'pytest'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_numpy_is_there_and_comes_first() -> None:
    status = adntn.backends()[0]
    assert (status.name, status.usable, status.devices, status.version) == ("numpy", True, ("cpu",), np.__version__)


def test_a_library_without_a_plugin_is_a_plain_backend() -> None:
    pytest.importorskip("array_api_strict")
    backend = adntn.backend("array_api_strict")
    assert (backend.name, backend.native_vjp) == ("array_api_strict", None)


def test_a_library_that_is_only_registered_with_autoray_generates_weights() -> None:
    class Array(np.ndarray):
        """Of no module that could be imported."""

    autoray.register_backend(Array, "registered")
    names = ("matmul", "reshape", "transpose", "concatenate", "zeros_like", "where", "conj", "sum", "asarray")
    for name in (*names, "exp", "expm1", "logaddexp", "tanh", "sin", "cos"):
        autoray.register_function("registered", name, getattr(np, name))
    autoray.register_function("registered", "to_numpy", np.asarray)
    generator = adntn.TTN((64, 64), bond=2, activation="tanh")
    cores = generator.init(dtype="float64")
    weight = generator.weight({name: core.view(Array) for name, core in cores.items()})
    assert type(weight) is Array
    np.testing.assert_allclose(np.asarray(weight), generator.weight(cores), rtol=0, atol=1e-14)


def test_no_plugin_of_ours_is_broken() -> None:
    """Tests skip where a backend cannot be used; they must not where the reason is a mistake in its plug-in."""
    assert not [status for status in adntn.backends() if "is broken" in status.reason]


def test_paths_of_differentiation_have_one_name_each_everywhere() -> None:
    offered = {path for one in adntn.backends() if one.usable for path in adntn.backend(one.name).differentiations}
    assert offered <= set(DIFFERENTIATIONS)
    for binding in ("adntn_torch", "adntn_jax"):
        if find_spec(binding.removeprefix("adntn_")) is not None:
            assert import_module(binding).DIFFERENTIATIONS == DIFFERENTIATIONS


UNUSABLE = {
    "no module": ("jxa", ImportError, r"'jxa' is unknown.*there are numpy"),
    "no name of a module": ("jax.numpy", ImportError, r"'jax.numpy' is unknown.*numpy"),
    "no array library": ("json", ImportError, r"'json' cannot be used.*none of the functions"),
    "the running program": ("__main__", ImportError, "'__main__'"),
    "no string": (3, TypeError, "must be a string, got 3"),
}


@pytest.mark.parametrize(("name", "error", "words"), UNUSABLE.values(), ids=UNUSABLE)
def test_a_name_that_is_no_backend_is_refused(name: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        adntn.backend(name)


def test_cores_on_what_is_no_array_library_are_refused_without_inventing_an_extra() -> None:
    with pytest.raises(ImportError, match=r"backend 'jxa' is not installed, or.*; adntn.backends\(\)"):
        adntn.TTN((4, 4), bond=2).init(backend="jxa")


def test_libraries_that_extras_install_are_extras() -> None:
    assert set(EXTRAS) <= set(metadata("adntn").get_all("Provides-Extra") or ())
    assert set(EXTRAS) == {entry.name for entry in entry_points(group=GROUP) if entry.value.startswith("adntn_")}


@pytest.fixture
def plugin_without_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What this distribution looks like where a library is not installed, by metadata alone."""
    metadata = tmp_path / "adntn_elsewhere-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: adntn\nVersion: 1.0\nProvides-Extra: absentarrays\n"
    )
    (metadata / "entry_points.txt").write_text(f"[{GROUP}]\nabsentarrays = absent_plugin:BACKEND\n")
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("plugin_without_library")
def test_a_backend_that_is_not_installed_is_refused_with_the_command_that_installs_it() -> None:
    with pytest.raises(
        ImportError, match=r"'absentarrays' is not installed; try: pip install \"adntn\[absentarrays\]\""
    ):
        adntn.backend("absentarrays")
