"""`adntn.verify` finds what is wrong and names it, passes what is right, and shows both."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import adntn
from adntn.commands.output import console
from adntn.verification.cases import TOPOLOGIES
from adntn.verification.result import REFERENCE, Cell, Verification

GENERATOR = adntn.TTN((16, 8), bond=2, leg=1, activation="tanh")


def backend_with(change: Callable[[str, Any], Any]) -> adntn.Backend:
    """NumPy with a differentiation of its own: the adjoint, with something done to its results."""

    def native_vjp(generator: adntn.Generator, cores: Mapping[str, Any]) -> Any:
        weight, pullback = generator.vjp(cores)
        return change("weight", weight), lambda weight_bar: {
            name: change(name, gradient) for name, gradient in pullback(weight_bar).items()
        }

    return dataclasses.replace(adntn.backend("numpy"), name="numpy", native_vjp=native_vjp)


@pytest.fixture
def verify_with(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Verification]:
    def verified(change: Callable[[str, Any], Any], dtype: str, generator: adntn.Generator = GENERATOR) -> Verification:
        backend = backend_with(change)
        monkeypatch.setattr(importlib.import_module("adntn.verify"), "backend", lambda name: backend)
        return adntn.verify(generator, backends=["numpy"], dtypes=[dtype])

    return verified


@pytest.fixture(scope="module")
def whole() -> Verification:
    """Every topology with every activation, on NumPy."""
    return adntn.verify(backends=["numpy"], seed=1)


def test_every_topology_with_every_activation_agrees(whole: Verification) -> None:
    assert whole.ok, whole
    assert {cell.topology for cell in whole.cells} == set(TOPOLOGIES)
    assert {cell.activation for cell in whole.cells} == set(adntn.ACTIVATIONS)
    in_double = [cell.gradient for cell in whole.cells if cell.dtype in {"float64", "complex128"}]
    assert sorted(in_double)[-2] <= 1e-10
    assert max(in_double) <= 1e-9  # MERA with a complex sigmoid, whose finite differences are the worst


def test_every_case_checks_its_reference(whole: Verification) -> None:
    checked = {(c.topology, c.activation, c.dtype, c.differentiation) for c in whole.cells if c.backend == REFERENCE}
    for cell in whole.cells:
        double = "complex128" if cell.dtype.startswith("complex") else "float64"
        assert (cell.topology, cell.activation, double, "finite differences") in checked
        if double == "float64" and adntn.ACTIVATIONS[cell.activation].holomorphic:
            assert (cell.topology, cell.activation, double, "complex step") in checked


WRONG: dict[str, tuple[str, Callable[[str, Any], Any]]] = {
    "the gradient of one core": ("float64", lambda name, a: a * (1 + 1e-10) if name == "level1/isometry1" else a),
    "one number of it": (
        "float32",
        lambda name, a: a + 0.01 * (np.arange(a.size) == 3).reshape(a.shape) if name == "level1/isometry1" else a,
    ),
    "a conjugate": ("complex128", lambda name, a: a.conj() if name == "level1/isometry1" else a),
    "not a number": ("float64", lambda name, a: a * np.nan if name == "level1/isometry1" else a),
}


@pytest.mark.parametrize(("dtype", "change"), WRONG.values(), ids=WRONG)
def test_a_wrong_gradient_is_found_and_its_core_named(verify_with: Any, dtype: str, change: Any) -> None:
    result = verify_with(change, dtype)
    assert not result.ok
    (cell,) = result.disagreements
    assert (cell.backend, cell.differentiation, cell.core) == ("numpy", "native", "level1/isometry1")
    assert "numpy native on cpu: core 'level1/isometry1'" in str(cell)
    assert f"tolerance {cell.tolerance:.1e}" in str(result)


def test_a_wrong_weight_is_found(verify_with: Any) -> None:
    (cell,) = verify_with(lambda name, a: a * (1 + 1e-10) if name == "weight" else a, "float64").disagreements
    assert "the weight has the relative error 1.0e-10" in str(cell)


def test_results_of_a_wrong_shape_are_no_agreement(verify_with: Any) -> None:
    (cell,) = verify_with(lambda name, a: a[None] if name == "scale" else a, "float64").disagreements
    assert "shape (1,) instead of ()" in cell.reason


def test_a_library_that_fails_spoils_its_own_cells_only(verify_with: Any) -> None:
    def fail(name: str, array: Any) -> Any:
        raise RuntimeError("out of\nmemory")

    result = verify_with(fail, "float32")
    (cell,) = result.disagreements
    assert cell.reason == "RuntimeError: out of memory"
    assert sum(one.ok for one in result.cells) == len(result.cells) - 1
    (found,) = [one for one in json.loads(result.to_json())["cells"] if not one["ok"]]
    assert (found["gradient"], found["reason"]) == (None, cell.reason)


@pytest.mark.parametrize("method", ["finite differences", "complex step"])
def test_a_wrong_derivative_is_found_by_what_checks_the_reference(method: str) -> None:
    tanh = adntn.ACTIVATIONS["tanh"]
    slanted = dataclasses.replace(tanh, name="slanted", derivative=lambda xp, y: (1 - y * y) * (1 + 1e-6))
    result = adntn.verify(adntn.TTN((16, 8), bond=2, leg=1, activation=slanted), backends=["numpy"], dtypes=["float64"])
    assert method in {cell.differentiation for cell in result.disagreements}


DEGENERATE = {
    "a dead activation": lambda xp, z: 0 * z,
    "a constant activation": lambda xp, z: 0 * z + 1,
}


@pytest.mark.parametrize("function", DEGENERATE.values(), ids=DEGENERATE)
def test_gradients_that_vanish_agree(function: Any) -> None:
    flat = adntn.Activation("flat", function, lambda xp, z: 0 * z)
    result = adntn.verify(adntn.TTN((16, 8), bond=2, leg=1, activation=flat), backends=["numpy"])
    assert result.ok, result


def test_a_gradient_that_cancels_is_measured_by_its_natural_size(verify_with: Any) -> None:
    """f depends on the square of z alone, in a way that is even: noise in a gradient that must be zero is no error."""
    ones = adntn.Activation("ones", lambda xp, z: z / z, lambda xp, z: 1 / z - z / (z * z))
    result = adntn.verify(adntn.TTN((16, 8), bond=2, leg=1, activation=ones), backends=["numpy"], dtypes=["float64"])
    assert result.ok, result
    rng = np.random.default_rng(0)
    noisy = verify_with(
        lambda name, a: a + 1e-17 * rng.standard_normal(a.shape), "float64", adntn.TTN((16, 8), activation=ones, leg=1)
    )
    assert noisy.ok, noisy


def test_a_number_type_that_a_library_lacks_is_said() -> None:
    pytest.importorskip("array_api_strict")
    result = adntn.verify(GENERATOR, backends=["array_api_strict"], dtypes=["float32", "bfloat16"])
    assert [(one.backend, one.dtype) for one in result.skipped] == [("array_api_strict", "bfloat16")]
    assert "not verified: bfloat16 on array_api_strict" in str(result)
    assert "bfloat16 on array_api_strict" in result.to_html()


def test_json_holds_every_cell(whole: Verification) -> None:
    content = json.loads(whole.to_json())
    assert content["ok"] is True
    assert content["environment"]["numpy"] == np.__version__
    fields = [field.name for field in dataclasses.fields(Cell)]
    assert [tuple(one[name] for name in fields) for one in content["cells"]] == [
        dataclasses.astuple(cell) for cell in whole.cells
    ]


def test_the_page_shows_every_cell_and_loads_nothing(whole: Verification) -> None:
    page = whole.to_html()
    shown = page.count("<td style=") + page.count('<td class="wrong"')
    assert shown == len(whole.cells)
    for words in (*TOPOLOGIES, *adntn.ACTIVATIONS, "complex128", "All", "cells agree", np.__version__):
        assert words in page
    assert not any(words in page for words in ("http", "src=", "<script", "url("))


def test_the_page_names_what_disagrees(verify_with: Any) -> None:
    result = verify_with(lambda name, a: a * 1.1 if name == "top" else a, "float64")
    renamed = dataclasses.replace(result, cells=tuple(dataclasses.replace(c, topology="<mine>") for c in result.cells))
    page = renamed.to_html()
    assert page.count('<td class="wrong"') == 1
    assert "1 of 4 cells disagree" in page
    assert "&lt;mine&gt;" in page
    assert "<mine>" not in page


def test_progress_tells_every_case() -> None:
    told: list[tuple[int, int, str]] = []
    adntn.verify(
        {"one": GENERATOR, "two": GENERATOR},
        backends=["numpy"],
        dtypes=["float32"],
        progress=lambda done, count, case: told.append((done, count, case)),
    )
    assert told == [(0, 2, "one, tanh"), (1, 2, "two, tanh"), (2, 2, "")]


def test_the_device_is_that_of_every_backend_but_numpy() -> None:
    pytest.importorskip("torch")
    result = adntn.verify(GENERATOR, backends=["numpy", "torch"], dtypes=["float32"], device="cpu:0")
    assert {cell.backend: cell.device for cell in result.cells} == {
        REFERENCE: "cpu",
        "numpy": "cpu",
        "torch": "cpu:0",
    }
    with pytest.raises(ValueError, match=r"device must be one of cpu.* on torch, got 'nowhere:0'"):
        adntn.verify(GENERATOR, backends=["numpy", "torch"], device="nowhere:0")


def test_a_backend_computes_in_full_precision_and_its_devices_are_described(monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[bool] = []

    @contextmanager
    def full_precision() -> Iterator[None]:
        entered.append(True)
        yield
        entered.pop()

    def change(name: str, array: Any) -> Any:
        assert entered
        return array

    backend = dataclasses.replace(
        backend_with(change), full_precision=full_precision, device_name=lambda name: "Abacus 3000"
    )
    monkeypatch.setattr(importlib.import_module("adntn.verify"), "backend", lambda name: backend)
    result = adntn.verify(GENERATOR, backends=["numpy"], dtypes=["float32"])
    assert result.ok, result
    assert dict(result.environment)["numpy: devices"] == "cpu (Abacus 3000)"


@pytest.mark.parametrize("name", ["layers[a]", "blocks[/x]"])
def test_names_with_brackets_are_shown_as_they_are(name: str) -> None:
    result = adntn.verify({name: GENERATOR}, backends=["numpy"], dtypes=["float64"])
    shown = console()
    with shown.capture() as captured:
        shown.print(result.table())
    assert name in captured.get()


WRONG_ARGUMENTS = {
    "topology": ({"topologies": ["Mera"]}, ValueError, "topologies must be among TTN.*'Mera'"),
    "activation": ({"activations": ["than"]}, ValueError, "activations must be among identity.*'than'"),
    "dtype": ({"dtypes": ["float8"]}, ValueError, "dtypes must be among float32.*'float8'"),
    "no dtype": ({"dtypes": []}, ValueError, "dtypes must be a sequence of at least one"),
    "a string": ({"topologies": "TTN"}, ValueError, "topologies must be a sequence"),
    "backend": ({"backends": ["jxa"]}, ImportError, "'jxa' is unknown"),
    "no backend": ({"backends": []}, ValueError, "backends must be a sequence of at least one"),
    "device": ({"backends": ["array_api_strict"], "device": "cuda:7"}, ValueError, "device must be one of cpu.*cuda:7"),
    "generator": ({"generators": 3}, TypeError, "generators must be an adntn.Generator.*3"),
    "options": ({"generators": {"a": adntn.TTN.options()}}, TypeError, "'a' must be an adntn.Generator, got Options"),
    "no generator": ({"generators": {}}, ValueError, "nothing to verify: generators holds no generator"),
    "no cell": (
        {"dtypes": ["complex64"], "activations": ["relu", "elu"]},
        ValueError,
        "nothing to verify: no complex cores for relu, elu",
    ),
    "only the reference": (
        {"backends": ["array_api_strict"], "dtypes": ["bfloat16"], "generators": GENERATOR},
        ValueError,
        "nothing to verify on array_api_strict: dtype 'bfloat16'",
    ),
    "both": ({"generators": GENERATOR, "topologies": ["TTN"]}, ValueError, "generators bring their own"),
}


@pytest.mark.parametrize(("arguments", "error", "words"), WRONG_ARGUMENTS.values(), ids=WRONG_ARGUMENTS)
def test_bad_arguments_are_named(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    if "array_api_strict" in arguments.get("backends", ()):
        pytest.importorskip("array_api_strict")
    with pytest.raises(error, match=words):
        adntn.verify(**arguments)
