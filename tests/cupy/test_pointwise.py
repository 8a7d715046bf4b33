"""Pointwise steps as one kernel each: by CuPy on a GPU, and on NumPy by a stand-in that sees what CuPy sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers import relative_error

import adntn
from adntn.arrays import namespace
from adntn.program import run as running

EXTREME = [0.0, -0.0, 1e30, -1e30, np.inf, -np.inf, np.nan]


class Traced(np.lib.mixins.NDArrayOperatorsMixin):
    """What `cupy.fuse` hands to a function: operators, ufuncs, `where`, `astype` and `dtype`, but no shape."""

    def __init__(self, array: Any) -> None:
        self.array, self.dtype = array, array.dtype

    def astype(self, dtype: Any) -> Traced:
        return Traced(self.array.astype(dtype))

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any) -> Traced:
        assert method == "__call__"
        return Traced(ufunc(*map(_content, inputs)))

    def __array_function__(self, function: Any, types: Any, arguments: Any, keywords: Any) -> Traced:
        if function is not np.where:
            raise TypeError(f"{function.__name__} cannot be traced")
        return Traced(function(*map(_content, arguments)))


def _content(value: Any) -> Any:
    return value.array if isinstance(value, Traced) else value


class StandIn:
    """Fuses as CuPy does, as far as functions can tell; counts the kernels it made and ran."""

    def __init__(self) -> None:
        self.made = self.ran = 0

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        self.made += 1

        def kernel(*arrays: Any) -> Any:
            result = function(*map(Traced, arrays))
            self.ran += 1
            return result.array

        return kernel


@pytest.fixture(autouse=True)
def _no_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(running, "_FUSED", {})
    return


@pytest.fixture
def fuser(library: Any, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Counts kernels: of the stand-in on NumPy, of CuPy itself on CuPy."""
    counting = StandIn()
    for is_complex in (False, True):
        plain = namespace(library.name, is_complex)
        if plain.fuse is not None:
            own = plain.fuse

            def counted(function: Callable[..., Any], own: Callable[..., Any] = own) -> Callable[..., Any]:
                counting.made += 1
                kernel = own(function)

                def run(*arrays: Any) -> Any:
                    result = kernel(*arrays)
                    counting.ran += 1
                    return result

                return run

        key = library.name, is_complex
        monkeypatch.setitem(adntn.arrays._BOUND, key, replace(plain, fuse=counting if plain.fuse is None else counted))
    return counting


def one_level(activation: str | adntn.Activation) -> adntn.Generator:
    return adntn.LowRank((24, 16), rank=2, last_activation=activation)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", [name for name in adntn.ACTIVATIONS if name != "identity"])
def test_kernels_compute_what_single_functions_do(activation: str, dtype: str, library: Any, fuser: StandIn) -> None:
    numbers = np.concatenate([np.linspace(-8, 8, 401), EXTREME]).astype(dtype)
    arriving = np.cos(np.arange(len(numbers))).astype(dtype)
    function = adntn.ACTIVATIONS[activation]
    plain, fused = (replace(namespace(name, False), fuse=None) for name in ("numpy", library.name))
    for kind, given in (("map", (numbers,)), ("adjoint", (arriving, numbers))):
        with np.errstate(all="ignore"):
            expected = running._computed(kind, function, plain, *given)
            kernel = running._fused(kind, function, fused, namespace(library.name, False).fuse)
            found = library.numpy(kernel(*map(library.array, given)))
        scale = np.finfo(dtype).eps * (1 + np.abs(expected))
        np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
        finite = np.isfinite(expected)
        assert np.all(np.abs(found[finite] - expected[finite]) <= 8 * scale[finite])
        np.testing.assert_array_equal(found[np.isinf(expected)], expected[np.isinf(expected)])
    assert (fuser.made, fuser.ran) == (2, 2)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_each_pointwise_step_is_one_kernel_made_once(dtype: str, library: Any, fuser: StandIn) -> None:
    generator = adntn.TTN((16, 16), bond=2, activation="tanh", last_activation="tanh")
    activations = 2  # every level but the first has one
    start = generator.init(0, dtype=dtype)
    cores = {name: library.array(core) for name, core in start.items()}
    for times in (1, 2):
        weight, pullback = generator.vjp(cores)
        gradients = pullback(weight)
        assert fuser.made == 2
        assert fuser.ran == 2 * activations * times
    unfused = replace(namespace("numpy", dtype == "complex128"), fuse=None)
    (expected,) = running.run(generator.program, start, unfused)
    assert relative_error(library.numpy(weight).ravel(), expected.ravel()) < 1e-14
    assert set(gradients) == set(cores)


def test_an_activation_that_cannot_be_traced_runs_step_by_step(library: Any, fuser: StandIn) -> None:
    steps = []

    def shaped(xp: adntn.Namespace, z: Any) -> Any:
        steps.append(z.shape)  # nothing that is traced has a shape
        return xp.tanh(z)

    by_shape = adntn.Activation("shaped", shaped, lambda xp, z: 1 - xp.tanh(z) ** 2)
    cores = one_level("tanh").init(0, backend=library.name, dtype="float64", device=library.device)
    expected = library.numpy(one_level("tanh").weight(cores))
    for _ in range(2):
        np.testing.assert_array_equal(library.numpy(one_level(by_shape).weight(cores)), expected)
    assert len(steps) == 2
    assert fuser.made == 2, "one for tanh, one attempt for the other"


def test_without_a_fuser_nothing_is_traced() -> None:
    assert namespace("numpy", False).fuse is None
    generator = one_level("relu")
    generator.weight(generator.init(0))
    assert running._FUSED == {}


def test_cupy_fuses(cupy: Any) -> None:
    assert namespace("cupy", False).fuse is cupy.fuse
