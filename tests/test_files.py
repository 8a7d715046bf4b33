"""Files of generated weights: the same in every library, whole or not there, and nothing bad in them is believed."""

from __future__ import annotations

import dataclasses
import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import generic_cores, needs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matrix import LIBRARIES, SHAPE
from safetensors import safe_open
from safetensors.numpy import save_file

import adntn
from adntn.arrays import DTYPES, dtype_name
from adntn.atomic import whole_file
from adntn.files.contents import KEY, VERSION, opened
from adntn.files.file import in_library, on_host
from adntn.files.spelling import generator_from, spelled

GENERATOR = adntn.MERA((12, 10), bond=2, leg=1)
#: For complex cores too.
EVERY_TYPE = adntn.AugmentedTTN((12, 10), bond=2, leg=1, activation="tanh", batch=2)


def bits(array: Any) -> tuple[str, tuple[int, ...], bytes]:
    """Number type, shape and bytes of an array of any library: equal only if every bit is."""
    host = on_host(array)
    return host.dtype.name, host.shape, host.tobytes()


def saved(path: Path, generator: adntn.Generator = GENERATOR, **options: Any) -> Path:
    adntn.save(path, {"a": (generator, generator.init(seed=1, **options))})
    return path


@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_every_generator_comes_back_as_it_was(
    topology: Callable[[str], adntn.Options], activation: str, tmp_path: Path
) -> None:
    generator = topology(activation)(SHAPE)
    cores = generic_cores(generator, dtype="float32")
    adntn.save(tmp_path / "file", {"a": (generator, cores)})
    loaded, found = adntn.load(tmp_path / "file")["a"]
    assert loaded == generator
    assert {name: bits(core) for name, core in found.items()} == {name: bits(core) for name, core in cores.items()}
    assert np.array_equal(loaded.weight(found), generator.weight(cores))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reader", LIBRARIES)
@pytest.mark.parametrize("writer", LIBRARIES)
def test_a_file_of_one_library_is_the_same_in_every_other(writer: str, reader: str, dtype: str, tmp_path: Path) -> None:
    needs(writer)
    needs(reader)
    import ml_dtypes  # noqa: F401, PLC0415  (gives NumPy bfloat16)

    with adntn.backend(writer).precision(dtype), adntn.backend(reader).precision(dtype):
        try:
            cores = EVERY_TYPE.init(seed=3, backend=writer, dtype=dtype)
            in_library(np.ones((), dtype), reader)
        except ValueError as error:
            pytest.skip(str(error))
        adntn.save(tmp_path / "file", {"a": (EVERY_TYPE, cores)})
        generator, found = adntn.load(tmp_path / "file", backend=reader)["a"]
        assert generator == EVERY_TYPE
        assert {name: bits(core) for name, core in found.items()} == {name: bits(core) for name, core in cores.items()}
        assert {dtype_name(core) for core in found.values()} == {dtype}
        generator.check(found)


def test_views_are_written_as_the_numbers_that_they_show(tmp_path: Path) -> None:
    needs("torch")
    cores = EVERY_TYPE.init(seed=3, backend="torch", dtype="complex64")
    views = {name: core.mT.contiguous().mT.conj() if core.ndim > 1 else core.conj() for name, core in cores.items()}
    adntn.save(tmp_path / "file", {"a": (EVERY_TYPE, views)})
    found = adntn.load(tmp_path / "file")["a"][1]
    assert all(np.array_equal(found[name], on_host(core).conj()) for name, core in cores.items())


def test_a_path_of_ones_own_is_kept(tmp_path: Path) -> None:
    generator = adntn.TTN((4, 4), leg=2).with_path([(1, 2), (0, 1)], level=1)
    adntn.save(tmp_path / "file", {"a": (generator, generator.init())})
    assert adntn.load(tmp_path / "file")["a"][0].paths == generator.paths != ()


def test_tied_weights_are_written_once_and_tied_again(tmp_path: Path) -> None:
    cores = GENERATOR.init()
    equal = {name: core.copy() for name, core in cores.items()}
    adntn.save(tmp_path / "file", {"a": (GENERATOR, cores), "b": (GENERATOR, cores), "c": (GENERATOR, equal)})
    with safe_open(tmp_path / "file", "np") as file:
        assert len(file.keys()) == 2 * len(cores)
        assert len(json.loads(file.metadata()[KEY])["networks"]) == 1, "equal networks are spelled out once"
    loaded = adntn.load(tmp_path / "file")
    assert all(loaded["a"][1][name] is loaded["b"][1][name] for name in cores)
    assert not any(loaded["a"][1][name] is loaded["c"][1][name] for name in cores)


def test_a_file_is_kilobytes(tmp_path: Path) -> None:
    generator = adntn.TTN((4096, 4096), bond=4)
    assert saved(tmp_path / "file", generator).stat().st_size < 4 * 4096 * 4096 / 10_000


def test_the_cores_are_named_as_a_layers_state_dict_has_them(tmp_path: Path) -> None:
    adntn.save(tmp_path / "file", {"net.0.weight": (GENERATOR, GENERATOR.init())})
    with safe_open(tmp_path / "file", "np") as file:
        assert set(file.keys()) == {f"net.0.cores.{name}" for name in GENERATOR.core_shapes}


def test_the_core_imports_and_computes_without_safetensors() -> None:
    code = """
import sys
sys.modules["safetensors"] = sys.modules["ml_dtypes"] = None
import adntn
generator = adntn.LowRank((4, 4))
print(generator.weight(generator.init()).shape)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "(4, 4)\n"


CUBE = adntn.Activation("cube", lambda xp, z: z * z * z, lambda xp, z: 3 * z * z)
IMPOSTOR = dataclasses.replace(adntn.ACTIVATIONS["tanh"], function=CUBE.function)
CANNOT_BE_SAVED = {
    "an activation of one's own": (lambda g: {"a": own(CUBE)}, ValueError, "activation 'cube' is one of your own"),
    "another's name": (lambda g: {"a": own(IMPOSTOR)}, ValueError, "activation 'tanh' is one of your own"),
    "nothing": (lambda g: {}, ValueError, "at least one weight"),
    "no mapping": (lambda g: [(g, g.init())], TypeError, r"mapping from names to \(generator, cores\), got list"),
    "cores alone": (lambda g: g.init(), TypeError, r"weight 'top' must be \(generator, cores\), got ndarray"),
    "the other way round": (lambda g: {"a": (g.init(), g)}, TypeError, "'a' must be .*got dict, Generator"),
    "no name": (lambda g: {"": (g, g.init())}, TypeError, "must be a string that is not empty, got ''"),
    "no string": (lambda g: {3: (g, g.init())}, TypeError, "got 3"),
    "a core too few": (lambda g: {"a": (g, {"top": g.init()["top"]})}, KeyError, "cores lack"),
    "one name": (lambda g: {"a": (g, g.init()), "a.weight": (g, g.init(1))}, ValueError, "also one of 'a.weight'"),
}


def own(activation: adntn.Activation) -> tuple[adntn.Generator, Any]:
    generator = adntn.TTN((16, 16), leg=1, activation=activation)
    return generator, generator.init()


@pytest.mark.parametrize(("weights", "error", "words"), CANNOT_BE_SAVED.values(), ids=CANNOT_BE_SAVED)
def test_what_cannot_be_saved_is_named_and_the_file_stays(
    weights: Callable[[adntn.Generator], Any], error: type[Exception], words: str, tmp_path: Path
) -> None:
    file = saved(tmp_path / "file")
    before = file.read_bytes()
    with pytest.raises(error, match=words):
        adntn.save(file, weights(GENERATOR))
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


# bad files


def rewritten(path: Path, change: Callable[[Any], Any]) -> None:
    """Change the header of a file, which stays a file of safetensors."""
    with safe_open(path, "np") as file:
        tensors, header = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()[KEY]  # noqa: SIM118
    changed = change(json.loads(header))
    save_file(tensors, path, {KEY: changed if isinstance(changed, str) else json.dumps(changed)})


def put(*keys: Any) -> Callable[[Any], Any]:
    """A change: the last of the keys is the value."""

    def change(header: Any) -> Any:
        place = header
        for key in keys[:-2]:
            place = place[key]
        place[keys[-2]] = keys[-1]
        return header

    return change


def without(*keys: Any) -> Callable[[Any], Any]:
    def change(header: Any) -> Any:
        place = header
        for key in keys[:-1]:
            place = place[key]
        del place[keys[-1]]
        return header

    return change


NETWORK = ("networks", 0)
HEADERS = {
    "no JSON": (lambda header: "{not", "its header is no JSON"),
    "JSON of another kind": (lambda header: [1], "the header must be an object, got a list"),
    "nested too deep": (lambda header: "[" * 100_000 + "]" * 100_000, "nested too deep"),
    "a number of many digits": (lambda header: "9" * 100_000, "its header is no JSON"),
    "a later version": (put("version", VERSION + 1), f"version {VERSION + 1}; this adntn reads versions up to"),
    "version 0": (put("version", 0), "the version must be integers from 1"),
    "no version": (without("version"), "the version must be integers from 1 to .*, got None"),
    "a version that is true": (put("version", True), "the version must be .*, got True"),
    "an unknown field": (put("code", "import os"), "unknown field 'code'"),
    "no networks": (without("networks"), "lacks 'networks'"),
    "another network's number": (put("weights", "a", "network", 1), "made by network 1, but there are 1"),
    "a number that is none": (put("weights", "a", "network", 0.0), "must be integers from 0 to .*, got 0.0"),
    "a negative number": (put("weights", "a", "network", -1), "must be integers from 0 to .*, got -1"),
    "another prefix": (put("weights", "a", "prefix", "b."), "lacks its core 'top', the tensor 'b.top'"),
    "a wider core": (put(*NETWORK, "cores", "top", "shape", [3, 2, 2]), "top.*shape|sizes"),
    "an absurd core": (put(*NETWORK, "cores", "top", "shape", [2**62, 2**62]), "has more than"),
    "a size that is too large": (put(*NETWORK, "shape", [2**200, 2]), "must be integers from 1"),
    "an absurd shape": (put(*NETWORK, "factors", [[2**62, 4], [2]]), "has more than"),
    "a shape of many dimensions": (put(*NETWORK, "shape", [1] * 7), "1 to 6 dimensions, got 7"),
    "factors that are too small": (put(*NETWORK, "factors", [[2], [2, 5]]), "must reach its shape"),
    "a leg twice in the order": (put(*NETWORK, "order", 0, [0, 1]), "must name each leg of its factors once"),
    "a core without a place": (put(*NETWORK, "cores", "more", {"shape": [2]}), "'more' stands in no level"),
    "an unknown core": (put(*NETWORK, "levels", 0, "nodes", 0, 0, "absent"), "must be the name of a core"),
    "a leg too many": (put(*NETWORK, "levels", 0, "nodes", 0, 1, list("abcdefg")), "core 'top' in level 0"),
    "an unknown leg": (put(*NETWORK, "levels", 0, "output", ["absent"]), "puts out the leg 'absent'"),
    "a leg left out": (put(*NETWORK, "levels", 0, "output", []), "must put out each of its open legs"),
    "an unknown activation": (put(*NETWORK, "levels", 1, "activation", "__import__"), "activation '__import__'"),
    "an activation that is none": (put(*NETWORK, "levels", 1, "activation", ["tanh"]), "activation a list"),
    "no levels": (put(*NETWORK, "levels", []), "has no level"),
    "an axis too many": (put(*NETWORK, "cores", "top", "inputs", [9]), "different ones of its"),
    "an identity that cannot be": (put(*NETWORK, "cores", "top", "start", "identity"), r"must be \(p, q, p, q\)"),
    "another start": (put(*NETWORK, "cores", "top", "start", "zero"), "must be 'isometry' or 'identity', got 'zero'"),
    "a batch": (put(*NETWORK, "batch", 2), r"must have the shape \(2, "),
    "a batch that is none": (put(*NETWORK, "batch", "2"), "batch of network 0 must be integers"),
    "a path that is none": (put(*NETWORK, "paths", [[[0, 0]]] * 9), "must have a path, or null, for each"),
    "a path of other tensors": (put(*NETWORK, "paths", [[[0, 9]], None, None]), "path of level 0|for each of its"),
    "a tie to nothing": (put("same", {"b": "absent"}), "'b' must be another name of a tensor"),
    "a tie of a core": (put("same", {"a.cores.top": "a.cores.top"}), "'a.cores.top' must be another name"),
    "pairs that are none": (put("complex128", ["a.cores.top"]), "must hold pairs of float64 for complex128"),
    "complex128 of nothing": (put("complex128", ["absent"]), "'absent' must hold pairs .* got none"),
    "notes that are none": (put("notes", 3), "notes must be an object, got 3"),
    "a topology that is none": (put("weights", "a", "topology", None), "topology of 'a' must be a string, got None"),
}


@pytest.mark.parametrize(("change", "words"), HEADERS.values(), ids=HEADERS)
def test_a_wrong_header_is_refused_with_where_it_is_wrong(
    change: Callable[[Any], Any], words: str, tmp_path: Path
) -> None:
    file = saved(tmp_path / "file")
    rewritten(file, change)
    with pytest.raises(adntn.FormatError, match=words) as raised:
        adntn.load(file)
    assert str(file) in str(raised.value)
    assert len(str(raised.value)) < 500


def tensors_of(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    with safe_open(path, "np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


TENSORS = {
    "a core too few": (lambda t: t.pop("a.cores.top"), "lacks its core 'top'"),
    "a core too many": (lambda t: t.update({"a.cores.more": np.ones(2)}), "'a.cores.more' is a core that no network"),
    "a core of another shape": (lambda t: t.update({"a.cores.top": np.ones(3, "float32")}), r"got \(3,\)"),
    "a core of integers": (lambda t: t.update({"a.cores.scale": np.ones((), "int32")}), "got int32"),
    "another number type": (lambda t: t.update({"a.cores.scale": np.ones(())}), "must share a type"),
}


@pytest.mark.parametrize(("change", "words"), TENSORS.values(), ids=TENSORS)
def test_wrong_cores_are_named(change: Callable[[dict[str, Any]], Any], words: str, tmp_path: Path) -> None:
    tensors, metadata = tensors_of(saved(tmp_path / "file"))
    change(tensors)
    save_file(tensors, tmp_path / "file", metadata)
    with pytest.raises(adntn.FormatError, match=words):
        adntn.load(tmp_path / "file")


def test_complex_cores_of_an_activation_that_is_not_defined_for_them_are_refused(tmp_path: Path) -> None:
    generator = adntn.TTN((16, 16), leg=1, activation="relu")
    tensors, metadata = tensors_of(saved(tmp_path / "file", generator))
    save_file({name: one.astype("complex64") for name, one in tensors.items()}, tmp_path / "file", metadata)
    with pytest.raises(adntn.FormatError, match="complex cores, for which relu is not defined"):
        adntn.load(tmp_path / "file")


BYTES = {
    "nothing": lambda blob: b"",
    "half": lambda blob: blob[: len(blob) // 2],
    "all but a byte": lambda blob: blob[:-1],
    "a byte more": lambda blob: blob + b"\0",
    "a header of 2^60 bytes": lambda blob: struct.pack("<Q", 2**60) + blob[8:],
    "a tensor of 2^60 numbers": lambda blob: blob.replace(b'"shape":[2,2', b'"shape":[1152921504606846976,2', 1),
    "a picture": lambda blob: b"\x89PNG\r\n\x1a\n" + bytes(1000),
    "a pickle": lambda blob: b"\x80\x04cos\nsystem\n(S'true'\ntR.",
}


@pytest.mark.parametrize("change", BYTES.values(), ids=BYTES)
def test_a_damaged_file_is_refused(change: Callable[[bytes], bytes], tmp_path: Path) -> None:
    file = saved(tmp_path / "file")
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(adntn.FormatError, match="is no file of safetensors, or is damaged"):
        adntn.load(file)


def test_a_plain_file_holds_no_generated_weights(tmp_path: Path) -> None:
    save_file({"a": np.ones(3)}, tmp_path / "file")
    with pytest.raises(adntn.FormatError, match="no generated weights"):
        adntn.load(tmp_path / "file")
    with opened(tmp_path / "file", plain=True) as contents:
        assert contents.dense == ("a",)


@pytest.mark.parametrize(("name", "error"), [("absent", FileNotFoundError), (".", IsADirectoryError)])
def test_what_is_no_file_is_an_error_of_the_system(name: str, error: type[OSError], tmp_path: Path) -> None:
    with pytest.raises(error):
        adntn.load(tmp_path / name)


def test_a_library_without_the_number_type_says_so(tmp_path: Path) -> None:
    pytest.importorskip("array_api_strict")
    file = saved(tmp_path / "file", dtype="float16")
    with pytest.raises(ValueError, match="float16"):
        adntn.load(file, backend="array_api_strict")


@pytest.fixture(scope="module")
def blob(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    file = saved(tmp_path_factory.mktemp("fuzz") / "file")
    return file.with_name("damaged"), file.read_bytes()


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=4))
def test_flipped_bits_are_refused_or_change_numbers_only(
    blob: tuple[Path, bytes], changes: list[tuple[float, int]]
) -> None:
    file, whole = blob
    damaged = bytearray(whole)
    for where, flip in changes:
        damaged[min(int(where * len(damaged)), len(damaged) - 1)] ^= flip
    check_that_it_is_refused_or_whole(file, bytes(damaged))


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), value=JSON_VALUES)
def test_any_value_anywhere_in_the_header_is_refused_or_harmless(data: st.DataObject, value: Any) -> None:
    spelling = json.loads(json.dumps(spelled(GENERATOR.with_path("greedy"))))
    place, keys = spelling, list(spelling)
    while True:
        key = data.draw(st.sampled_from(keys))
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner or data.draw(st.booleans()):
            break
        place, keys = inner, list(inner) if isinstance(inner, dict) else list(range(len(inner)))
    place[key] = value
    try:
        generator = generator_from(spelling)
    except adntn.FormatError:
        return
    generator_from(json.loads(json.dumps(spelled(generator))))


def check_that_it_is_refused_or_whole(file: Path, damaged: bytes) -> None:
    file.write_bytes(damaged)
    try:
        loaded = adntn.load(file)
    except adntn.FormatError:
        return
    for generator, cores in loaded.values():
        generator.check(cores)
        assert np.asarray(generator.weight(cores)).shape == generator.shape


# atomic writing


def test_a_process_that_is_killed_while_it_writes_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    file = saved(tmp_path / "file")
    before = file.read_bytes()
    code = """
import os, signal, sys
from adntn.atomic import whole_file
with whole_file(sys.argv[1]) as partial:
    partial.write_bytes(bytes(1000))
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code, str(file)], check=False).returncode != 0
    assert file.read_bytes() == before
    adntn.load(file)


def test_an_exception_leaves_the_file_as_it_was_and_nothing_beside_it(tmp_path: Path) -> None:
    file = saved(tmp_path / "file")
    before = file.read_bytes()
    with pytest.raises(UnicodeEncodeError), whole_file(file) as partial:
        partial.write_text("half of it \ud800", encoding="utf-8")
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_who_reads_a_file_while_it_is_replaced_reads_the_old_one_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with path.open() as reader:
        with whole_file(path) as partial:
            partial.write_text("new")
        assert reader.read() == "old"
    assert path.read_text() == "new"


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o664])
def test_a_replaced_file_may_be_read_by_whom_it_could_be_read_before(mode: int, tmp_path: Path) -> None:
    file = saved(tmp_path / "file")
    plain = tmp_path / "plain"
    plain.touch()
    assert file.stat().st_mode == plain.stat().st_mode
    file.chmod(mode)
    assert saved(file).stat().st_mode & 0o777 == mode
