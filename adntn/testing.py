"""The conformance suite that every backend runs through, for the tests of any package that has one.

In a test module of the backend "mine":

    from adntn.testing import BackendConformance

    class TestMine(BackendConformance):
        backend = "mine"

It needs pytest, which the library itself never imports. Tolerances are those of `adntn.verify`.
"""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar

import numpy as np
import pytest

from adntn.activations import ACTIVATIONS
from adntn.arrays import DTYPES, SHORT_DTYPES, Array, backend_of, dtype_name, place
from adntn.backends import backend
from adntn.network import SCALE
from adntn.topologies import MERA, TTN
from adntn.verification.cases import Case, cases_of
from adntn.verification.compare import Way, difference, errors, in_double, lack
from adntn.verification.reference import Reference, reference
from adntn.verification.tolerance import EPSILON, depth, tolerance

#: Every topology with one activation, and every activation with one topology; with all number types they have.
CASES = tuple(
    (case, dtype)
    for case in dict.fromkeys([*cases_of(None, ["tanh"]), *cases_of(["TTN"], tuple(ACTIVATIONS))])
    for dtype in DTYPES
    if (case.holomorphic or not dtype.startswith("complex")) and (case.topology == "TTN" or dtype not in SHORT_DTYPES)
)
#: Number types that every library must have; the others are tested where it has them.
REQUIRED = ("float32",)

_each_dtype = pytest.mark.parametrize("dtype", DTYPES)
_each_differentiation = pytest.mark.parametrize("differentiation", ["adjoint", "native"])


class BackendConformance:
    """What a backend must do; subclass it in a test module and name the backend.

    Attributes:
        backend: the name, as for `adntn.backend`.
        device: one of its devices; None for its default.
    """

    backend: ClassVar[str]
    device: ClassVar[str | None] = None

    def test_it_is_found_under_its_name_and_has_a_device(self) -> None:
        """`adntn.backend` finds it, and its devices are named."""
        found = backend(self.backend)
        assert found.name == self.backend
        assert found.devices(), "a backend must have a device, or say in an exception why it has none"
        assert self.device is None or self.device in found.devices()

    @_each_dtype
    def test_the_same_seed_gives_the_same_cores(self, dtype: str) -> None:
        """Cores are those of NumPy, rounded to the number type."""
        generator = MERA((12, 11), bond=2)
        with self._way(dtype).backend.precision(dtype):
            cores = generator.init(7, backend=self.backend, dtype=dtype, device=self._way(dtype).place)
            found = {name: in_double(core) for name, core in cores.items()}
        complex_or_real = "complex128" if dtype.startswith("complex") else "float64"
        for name, core in generator.init(7, dtype=complex_or_real).items():
            if dtype in SHORT_DTYPES:  # libraries round to 16 bits in one step or in two
                assert np.all(np.abs(found[name] - core) <= EPSILON[dtype] * np.abs(core) + 2.0**-24), name
            else:
                assert np.array_equal(found[name], core.astype(dtype)), name

    @_each_differentiation
    @pytest.mark.parametrize(("case", "dtype"), CASES, ids=str)
    def test_weight_and_gradients_agree(self, case: Case, dtype: str, differentiation: str) -> None:
        """The weight and every core's gradient are those of the reference, on both paths of differentiation."""
        way = self._way(dtype, differentiation)
        made = _reference(case, dtype.startswith("complex"))
        allowed = tolerance(dtype, depth(case.generator), made.condition)
        found = errors(case.generator, made, way, dtype)
        assert found.forward <= allowed, f"the weight is off by {found.forward:.1e}, tolerance {allowed:.1e}"
        assert found.gradient <= allowed, (
            f"the gradient of core {found.core!r} is off by {found.gradient:.1e}, tolerance {allowed:.1e}"
        )

    @_each_differentiation
    @_each_dtype
    def test_results_are_arrays_of_the_library(self, dtype: str, differentiation: str) -> None:
        """Library, number type, shape and device of the results are those of the cores."""
        way = self._way(dtype, differentiation)
        generator = TTN((6, 5), bond=2, batch=2)
        with way.backend.precision(dtype):
            cores = generator.init(backend=self.backend, dtype=dtype, device=way.place)
            weight, pullback = way.backend.vjp(generator, cores, differentiation)
            gradients = pullback(weight)
            results = {"weight": weight, "weight alone": generator.weight(cores), **gradients}
        assert set(gradients) == set(cores)
        for name, array in results.items():
            shape = generator.core_shapes.get(name, generator.shape)
            assert (backend_of(array), dtype_name(array), tuple(array.shape)) == (self.backend, dtype, shape), name
            assert _device(array) == _device(cores[SCALE]), name

    @_each_dtype
    @pytest.mark.parametrize("batch", [None, 3])
    def test_apply_multiplies_by_the_weight(self, batch: int | None, dtype: str) -> None:
        """`Generator.apply` is the product with the generated weight, for one weight and for a batch."""
        way = self._way(dtype)
        generator = TTN((6, 5), bond=2, batch=batch)
        lead = () if batch is None else (batch,)
        x = np.random.default_rng(0).integers(-3, 4, (*lead, 2, 4, 5)).astype(float)  # exact in every number type
        with way.backend.precision(dtype), way.backend.full_precision():
            cores = generator.init(backend=self.backend, dtype=dtype, device=way.place, std=1.0)
            found = in_double(generator.apply(cores, place(x, self.backend, dtype, way.place)))
            weight = in_double(generator.weight(cores))
        expected = np.einsum("...abi,...oi->...abo", x, weight)
        size = np.einsum("...abi,...oi->...abo", np.abs(x), np.abs(weight))
        assert found.shape == (*lead, 2, 4, 6)
        assert np.all(np.abs(found - expected) <= 8 * EPSILON[dtype] * size)

    @_each_dtype
    def test_what_is_compiled_agrees_with_what_is_not(self, dtype: str) -> None:
        """`Backend.compile` makes functions of the same results, from mappings and tuples of arrays to such."""
        way = self._way(dtype)
        generator = TTN((6, 5), bond=2)
        forward, pullback = way.backend.compile(generator.forward), way.backend.compile(generator.pullback)
        with way.backend.precision(dtype), way.backend.full_precision():
            cores = generator.init(backend=self.backend, dtype=dtype, device=way.place, std=1.0)
            expected, residuals = generator.forward(cores)
            gradients = generator.pullback(residuals, cores, expected)
            weight, own_residuals = forward(cores)
            found = {"weight": weight, **pullback(own_residuals, cores, expected)}
            pairs = {name: (in_double(found[name]), in_double(own)) for name, own in gradients.items()}
            pairs["weight"] = in_double(weight), in_double(expected)
        assert set(found) == set(pairs)
        for name, (one, other) in pairs.items():
            size = float(np.linalg.norm(other))
            assert difference(one, other, size) <= tolerance(dtype, depth(generator)), name

    @_each_differentiation
    def test_cores_of_two_libraries_are_refused(self, differentiation: str) -> None:
        """A core of another library is an error that names it, not a conversion."""
        way = self._way("float32", differentiation)
        generator = TTN((6, 5), bond=2)
        cores = generator.init(backend=self.backend, device=way.place)
        mixed = {**cores, SCALE: _Foreign(np.ones((), dtype="float32"))}
        with pytest.raises(TypeError, match=rf"share one library.*{SCALE}"):
            generator.weight(mixed)
        with pytest.raises(TypeError, match=rf"share one library.*{SCALE}"):
            way.backend.vjp(generator, mixed, differentiation)

    @_each_differentiation
    def test_an_adjoint_of_another_library_is_refused(self, differentiation: str) -> None:
        """So is dL/dW of another library."""
        way = self._way("float32", differentiation)
        generator = TTN((6, 5), bond=2)
        cores = generator.init(backend=self.backend, device=way.place)
        _, pullback = way.backend.vjp(generator, cores, differentiation)
        with pytest.raises(TypeError, match=r"W_bar.*share one library"):
            pullback(_Foreign(np.ones((6, 5), dtype="float32")))

    def test_an_unknown_differentiation_is_refused(self) -> None:
        """The error lists the paths that there are."""
        way = self._way("float32")
        generator = TTN((6, 5), bond=2)
        cores = generator.init(backend=self.backend, device=way.place)
        with pytest.raises(ValueError, match=r"differentiation must be one of adjoint.*'sideways'"):
            way.backend.vjp(generator, cores, "sideways")

    def _way(self, dtype: str, differentiation: str = "adjoint") -> Way:
        """Return where a test computes; skip it if the library has not the number type or the path."""
        found = backend(self.backend)
        if differentiation not in found.differentiations:
            pytest.skip(f"{self.backend} has no automatic differentiation")
        way = Way(found, self.device, differentiation)
        if reason := lack(way, dtype):
            assert dtype not in REQUIRED, reason
            pytest.skip(reason)
        return way


class _Foreign:
    """An array of a library that nobody has."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.shape, self.dtype = array.shape, array.dtype


@cache
def _reference(case: Case, is_complex: bool) -> Reference:
    return reference(case.generator, is_complex=is_complex)


def _device(array: Array) -> str:
    return str(getattr(array, "device", ""))
