"""The roofline of a machine: what was measured here is used, what cannot be used is ignored, and no model fails."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from helpers import needs

import adntn
from adntn.backends import Backend
from adntn.cli import main
from adntn.commands import calibrate
from adntn.machine import DEFAULT, DEFAULT_GPU, Machine, cache_file, forget, key, machine, read, text
from adntn.measure import measure

FAST = dataclasses.replace(DEFAULT, operations=3e13, cache_bytes=2**22)
FIELDS = [field.name for field in dataclasses.fields(Machine)]


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of a cache of the test's own, not yet there."""
    monkeypatch.setenv("ADNTN_CACHE", str(tmp_path / "cache"))
    forget()
    yield cache_file()
    forget()


def keep(file: Path, machines: dict[str, Machine]) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(text(machines))
    forget()


# Answers


def test_without_a_calibration_there_are_defaults_and_nothing_is_written(file: Path) -> None:
    with warnings.catch_warnings(action="error"):
        assert machine("numpy") == DEFAULT
    assert not file.parent.exists()


@pytest.mark.parametrize("device", ["cuda:0", "gpu:1"])
def test_a_gpu_has_other_defaults(device: str) -> None:
    assert machine("numpy", device=device) == DEFAULT_GPU


def test_a_measurement_is_used_for_its_library_number_type_and_device_only(file: Path) -> None:
    keep(file, {key("numpy", "float64"): FAST})
    assert machine("numpy", "float64") == machine("numpy", "float64", "cpu") == FAST
    assert machine("numpy", "float32") == DEFAULT
    assert machine("numpy", "float64", "cuda:0") == DEFAULT_GPU
    needs("array_api_strict")
    assert machine("array_api_strict", "float64") == DEFAULT


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_a_device_is_known_by_every_name_that_it_has(file: Path, backend: str) -> None:
    needs(backend)
    name = adntn.backend(backend).devices()[0]
    keep(file, {key(backend, "float32"): FAST})
    assert {machine(backend, device=device) for device in (None, name, adntn.backend(backend).device(name))} == {FAST}


ELSEWHERE: dict[str, tuple[str, Any]] = {
    "another processor": ("adntn.machine._cpu", lambda: "another"),
    "another instruction set": ("platform.machine", lambda: "another"),
    "another version": ("numpy.__version__", "0.0"),
    "fewer processors": ("adntn.machine.processors", lambda: 10_000),
}


@pytest.mark.parametrize(("name", "replacement"), ELSEWHERE.values(), ids=ELSEWHERE)
def test_a_measurement_is_not_used_elsewhere(
    name: str, replacement: Any, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(file, {key("numpy", "float32"): FAST})
    monkeypatch.setattr(name, replacement)
    assert machine("numpy") == DEFAULT


def test_a_measurement_is_not_used_with_another_number_of_threads(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    keep(file, {key("numpy", "float32"): FAST})
    assert machine("numpy") == FAST
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert machine("numpy") == DEFAULT


def test_torch_says_itself_how_many_threads_it_has(file: Path) -> None:
    torch = pytest.importorskip("torch")
    keep(file, {key("torch", "float32"): FAST})
    threads = torch.get_num_threads()
    assert machine("torch") == FAST
    try:
        torch.set_num_threads(threads + 1)
        assert machine("torch") == DEFAULT
    finally:
        torch.set_num_threads(threads)


def test_equal_gpus_share_a_measurement_and_others_do_not(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chips = {"cuda:0": "NVIDIA H100", "cuda:1": "NVIDIA H100", "cuda:2": "NVIDIA A100"}
    library = Backend("numpy", devices=lambda: tuple(chips), device_name=chips.__getitem__)
    monkeypatch.setattr("adntn.machine._library", lambda name: library)
    keep(file, {key("numpy", "float32", "cuda:0"): FAST})
    assert [machine("numpy", device=device) for device in (None, *chips)] == [FAST, FAST, FAST, DEFAULT_GPU]


def test_a_library_whose_driver_is_broken_has_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> tuple[str, ...]:
        raise RuntimeError("no driver")

    monkeypatch.setattr("adntn.machine._library", lambda name: Backend("numpy", devices=broken))
    assert machine("numpy") == DEFAULT
    assert machine("numpy", device="cuda:0") == DEFAULT_GPU


def test_a_machine_of_numpy_imports_no_framework() -> None:
    code = "import sys; from adntn.machine import machine; machine('numpy'); print({'torch', 'jax'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_file_is_in_the_users_cache_unless_the_variable_names_a_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache_file() == tmp_path / "cache" / "machine.json"
    for unset in ("", None):
        monkeypatch.setenv("ADNTN_CACHE", unset) if unset is not None else monkeypatch.delenv("ADNTN_CACHE")
        assert cache_file().is_absolute()
        assert "adntn" in cache_file().parts


def test_time_is_that_of_arithmetic_or_memory_and_of_calls() -> None:
    one = Machine(operations=1e3, bandwidth=1e2, cached_bandwidth=1e4, overhead=0.5, tanh=1, cache_bytes=1)
    assert one.seconds(operations=2e3, bytes_moved=1e2) == 2 + 0.5
    assert one.seconds(operations=2e3, bytes_moved=1e3) == pytest.approx(10 + 0.5)
    assert one.seconds(operations=2e3, bytes_moved=1e3, share=0.5) == pytest.approx(20 + 0.5)


def test_the_speed_falls_steadily_from_the_caches_to_memorys() -> None:
    one = Machine(operations=1e3, bandwidth=1e2, cached_bandwidth=1e4, overhead=0.5, tanh=1, cache_bytes=2**20)
    assert [one.bandwidth_of(size) for size in (0, 2**10, 2**20)] == pytest.approx([1e4, 1e4, 1e4])
    assert [one.bandwidth_of(size) for size in (2**23, 2**30)] == pytest.approx([1e2, 1e2])
    between = [one.bandwidth_of(size) for size in range(2**20, 2**23, 2**16)]
    assert between == sorted(between, reverse=True)
    assert one.bandwidth_of(2**21.5) == pytest.approx(1e3)  # half way of both logarithms


# Files that cannot be used


def changed(**numbers: Any) -> bytes:
    """A file whose one machine has other numbers."""
    machines = {key("numpy", "float32"): {**dataclasses.asdict(FAST), **numbers}}
    return json.dumps({"version": 1, "machines": machines}).encode()


WHOLE = text({"some": FAST})
CORRUPT = {
    "empty": (b"", "Expecting value"),
    "cut off": (WHOLE[:-20].encode(), "Unterminated string"),
    "binary garbage": (bytes(range(128, 256)), "codec can't decode"),
    "a list": (b"[1, 2]", "no machines of version 1"),
    "another version": (WHOLE.replace('"version": 1', '"version": 2').encode(), "no machines of version 1"),
    "no machines": (b'{"version": 1}', "no machines of version 1"),
    "machines as a list": (b'{"version": 1, "machines": []}', "no machines of version 1"),
    "a machine as a list": (b'{"version": 1, "machines": {"some": [1]}}', "'some' is no machine"),
    "nested without end": (b"[" * 100_000, "nested too deeply"),
    "a field too few": (WHOLE.replace('"tanh"', '"tan"').encode(), "'some' is no machine"),
    "a field too many": (changed(tangent=1.0), "is no machine"),
    "negative": (changed(bandwidth=-1.0), "bandwidth must be a positive finite number, got -1.0"),
    "zero": (changed(overhead=0), "overhead must be"),
    "not a number": (changed(operations=math.nan), "operations must be a positive finite number, got nan"),
    "infinite": (changed(tanh=math.inf), "tanh must be"),
    "an integer that no float holds": (changed(operations=10**400), "operations must be"),
    "as many bytes": (changed(cache_bytes=10**400), "cache_bytes must be"),
    "a fraction of a byte": (changed(cache_bytes=0.5), "cache_bytes must be a positive integer, got 0.5"),
    "a string": (changed(cached_bandwidth="1e9"), "cached_bandwidth must be"),
    "true": (changed(cache_bytes=True), "cache_bytes must be"),
    "null": (changed(operations=None), "operations must be"),
    "a directory": (None, "directory"),
}


@pytest.fixture(params=CORRUPT.values(), ids=CORRUPT)
def corrupt(request: pytest.FixtureRequest, file: Path) -> str:
    """Each kind of file that cannot be used, in place: a part of the reason."""
    content, words = request.param
    if content is None:
        file.mkdir(parents=True)
    else:
        file.parent.mkdir()
        file.write_bytes(content)
    return str(words)


def test_a_file_that_cannot_be_used_is_ignored_with_one_warning(corrupt: str, file: Path) -> None:
    with pytest.warns(UserWarning, match="is ignored") as caught:
        assert [machine("numpy"), machine("numpy", "float64"), machine("numpy")] == [DEFAULT] * 3
    (message,) = (str(warning.message) for warning in caught)
    assert str(file) in message
    assert corrupt.casefold() in message.casefold()
    assert "`adntn calibrate` renews it" in message
    assert "\n" not in message


def test_calibrate_renews_a_file_that_cannot_be_used(
    corrupt: str, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(calibrate, "measure", lambda *arguments: FAST)
    if file.is_dir():
        assert main(["calibrate", "--backends", "numpy"]) == 2
        assert f"{file} cannot be written: it is a directory; set ADNTN_CACHE" in capsys.readouterr().err
        return
    assert main(["calibrate", "--show"]) == 2
    assert corrupt.casefold() in capsys.readouterr().err.casefold()
    assert main(["calibrate", "--backends", "numpy"]) == 0
    assert read(file) == {key("numpy", "float32"): FAST}


# Measuring


@pytest.mark.parametrize("backend", ["numpy", "torch", "jax", "cupy", "array_api_strict"])
def test_what_is_measured_is_a_machine(backend: str) -> None:
    needs(backend)
    measured = measure(backend, seconds=1e-3)
    assert all(0 < getattr(measured, name) < math.inf for name in FIELDS)
    assert measured.cache_bytes in {2**power for power in range(17, 26)}
    assert measured.cached_bandwidth >= measured.bandwidth


def test_double_precision_is_measured_where_it_is_an_option() -> None:
    needs("jax")
    assert measure("jax", "complex128", "cpu", seconds=1e-3).operations > 0


BAD = {
    "backend": ({"backend": "jxa"}, ImportError, "'jxa' is unknown"),
    "number type": ({"dtype": "float99"}, ValueError, "dtype must be one of float32.*, got 'float99'"),
    "device": ({"device": "cuda:7"}, ValueError, "device must be one of cpu on numpy, got 'cuda:7'"),
    "no time": ({"seconds": 0}, ValueError, "seconds must be above 0, got 0"),
    "time that is no number": ({"seconds": math.nan}, ValueError, "seconds must be above 0, got nan"),
}


@pytest.mark.parametrize(("arguments", "error", "words"), BAD.values(), ids=BAD)
def test_what_cannot_be_measured_is_refused(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        measure(**arguments)


# The command


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "measure", partial(measure, seconds=1e-3))


@pytest.mark.usefixtures("quick")
def test_what_calibrate_measures_is_kept_printed_and_used(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert machine("numpy") == DEFAULT  # before: that answer must not stay
    assert main(["calibrate", "--backends", "numpy"]) == 0
    out = capsys.readouterr().out
    assert "float32" in out
    assert f"kept in {file}" in out
    assert read(file) == {key("numpy", "float32"): machine("numpy")}
    assert machine("numpy") != DEFAULT
    assert list(file.parent.iterdir()) == [file]


def test_calibrate_keeps_what_was_there_and_shows_it(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(file, {"other 1.0 | float64 | NVIDIA H100": DEFAULT_GPU, key("numpy", "float32"): DEFAULT})
    monkeypatch.setattr(calibrate, "measure", lambda *arguments: FAST)
    assert main(["calibrate", "--backends", "numpy", "--dtypes", "float32,float64", "--json"]) == 0
    new = {key("numpy", "float32"): FAST, key("numpy", "float64"): FAST}
    printed = json.loads(capsys.readouterr().out)
    assert printed == {
        "file": str(file),
        "machines": {name: dataclasses.asdict(one) for name, one in new.items()},
        "failed": {},
    }
    assert read(file) == {**new, "other 1.0 | float64 | NVIDIA H100": DEFAULT_GPU}
    before = file.read_bytes()
    assert main(["calibrate", "--show"]) == 0
    out = capsys.readouterr().out
    assert all(words in out for words in ("NVIDIA H100", "numpy", "float64", str(file)))
    assert file.read_bytes() == before


@pytest.mark.parametrize(("load", "said"), [(0.5, False), (9.5, True)])
def test_a_busy_machine_is_said(
    load: float, said: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(calibrate, "measure", lambda *arguments: FAST)
    monkeypatch.setattr(calibrate, "processors", lambda: 2)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0), raising=False)
    assert main(["calibrate", "--backends", "numpy"]) == 0
    assert ("the machine is busy (load 9.5 on 2 processors)" in capsys.readouterr().err) is said


def test_showing_nothing_writes_nothing(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "--show"]) == 0
    assert capsys.readouterr().out.strip() == f"nothing is kept in {file}"
    assert not file.parent.exists()


def test_what_could_not_be_measured_is_exit_code_1_and_harms_no_other(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(backend: str, dtype: str, device: str) -> Machine:
        if dtype == "float64":
            raise RuntimeError("out of\nmemory")
        return FAST

    monkeypatch.setattr(calibrate, "measure", failing)
    assert main(["calibrate", "--backends", "numpy", "--dtypes", "float64,float32"]) == 1
    assert f"{key('numpy', 'float64')}: not measured: RuntimeError: out of memory" in capsys.readouterr().out
    assert read(file) == {key("numpy", "float32"): FAST}


def test_by_default_one_device_of_each_kind_is_measured() -> None:
    chips = {"cpu": "cpu", "cuda:0": "H100", "cuda:1": "H100"}
    needs("torch")
    library = dataclasses.replace(adntn.backend("torch"), devices=lambda: tuple(chips), device_name=chips.__getitem__)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("adntn.machine._library", lambda name: library)
        assert list(calibrate._places([library], None)) == [("torch", "cpu"), ("torch", "cuda:0")]


def test_an_interrupted_calibration_leaves_the_file_as_it_was(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: str) -> Machine:
        raise KeyboardInterrupt

    keep(file, {"some": FAST})
    before = file.read_bytes()
    monkeypatch.setattr(calibrate, "measure", interrupted)
    assert main(["calibrate", "--backends", "numpy"]) == 130
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


REFUSED = {
    "backend": (["--backends", "jxa"], "'jxa' is unknown"),
    "number type": (["--dtypes", "float99"], "dtypes must be among float32"),
    "device": (["--backends", "numpy", "--devices", "cuda:7"], "device must be one of cpu on numpy, got 'cuda:7'"),
    "a device among others": (["--backends", "numpy", "--devices", "cpu,cuda:7"], "got 'cuda:7'"),
}


@pytest.mark.parametrize(("arguments", "words"), REFUSED.values(), ids=REFUSED)
def test_bad_input_is_exit_code_2_and_one_line(
    arguments: list[str], words: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("adntn calibrate: error: ")
    assert words in error
    assert error.count("\n") == 1
    assert not file.exists()


@pytest.mark.parametrize("kind", ["below a file", "without permission"])
def test_a_directory_that_cannot_be_written_is_refused_before_the_work(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    barrier = tmp_path / "barrier"
    if kind == "below a file":
        barrier.write_text("")
    else:
        barrier.mkdir(mode=0o500)
        if os.access(barrier, os.W_OK):
            pytest.skip("this user may write everywhere")
    monkeypatch.setenv("ADNTN_CACHE", str(barrier / "cache"))
    monkeypatch.setattr(calibrate, "measure", lambda *arguments: pytest.fail("measured in vain"))
    assert main(["calibrate", "--backends", "numpy"]) == 2
    error = capsys.readouterr().err
    assert f"{barrier / 'cache' / 'machine.json'} cannot be written" in error
    assert "set ADNTN_CACHE to a directory that can" in error
    assert list(tmp_path.iterdir()) == [barrier]


def test_a_disk_that_fills_up_is_said_and_the_file_stays(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, content: str, **options: Any) -> int:
        path.write_bytes(content.encode()[:10])
        raise OSError("No space left on device")

    keep(file, {"some": FAST})
    monkeypatch.setattr(calibrate, "measure", lambda *arguments: FAST)
    monkeypatch.setattr(Path, "write_text", full)
    assert main(["calibrate", "--backends", "numpy"]) == 2
    assert f"{file} cannot be written: No space left on device; set ADNTN_CACHE" in capsys.readouterr().err
    assert read(file) == {"some": FAST}
    assert list(file.parent.iterdir()) == [file]
