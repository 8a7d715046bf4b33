"""The Gauss-Newton matrix against explicit Jacobians; the steps that are made of it against what is known of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import generic_cores, in_library, random_array, relative_error, tolerance
from matrix import SHAPE, SHAPES, TOPOLOGIES, fits

import adntn
from adntn import levenberg_marquardt, second_order
from adntn.arrays import flatten
from adntn.levenberg_marquardt import Damping, damped_step, minimised

Topology = Callable[[str], adntn.Options]


def explicit(generator: adntn.Generator, cores: dict[str, Any]) -> Any:
    """J^H J with J^H from pullbacks of unit vectors: the adjoint, which the tangent has no part in."""
    _, pullback = generator.vjp(cores)
    units = np.eye(int(np.prod(generator.shape)), dtype=cores["scale"].dtype).reshape(-1, *generator.shape)
    adjoint = np.stack([flatten(pullback(unit)) for unit in units], axis=1)
    return adjoint @ adjoint.conj().T


@pytest.fixture(params=[2**20, 2**10], ids=["one tile", "many tiles"])
def slab(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many numbers of J are made at once."""
    monkeypatch.setattr(second_order, "SLAB", request.param)
    size: int = request.param
    return size


@pytest.mark.parametrize("dtype", ["float64", "complex128", "float32"])
def test_the_matrix_is_that_of_the_explicit_jacobian(topology: Topology, dtype: str, slab: int) -> None:
    generator = topology("tanh")(SHAPE)
    cores = generic_cores(generator, seed=1, dtype=dtype)
    found = second_order.gauss_newton(generator, cores)
    assert found.dtype == dtype
    # its small rows too: sums of squares, each with the rounding of its own numbers
    wide = {name: core.astype("complex128" if dtype == "complex128" else "float64") for name, core in cores.items()}
    expected = explicit(generator, wide)
    size = np.sqrt(np.outer(np.diagonal(expected), np.diagonal(expected)))
    assert np.all(np.abs(found - expected) <= tolerance(dtype) * np.abs(size).clip(1e-12 * np.abs(size).max()))


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if np.prod(shape) < 1000], ids=str)
@pytest.mark.parametrize("name", ["TTN, batch", "MERA", "TensorTrain", "LowRank", "Tucker, batch"])
def test_weights_of_any_shape_have_a_matrix(name: str, shape: tuple[int, ...], slab: int) -> None:
    if not fits(name, shape):
        pytest.skip("this topology makes no such shape")
    generator = TOPOLOGIES[name]("tanh")(shape)
    cores = generic_cores(generator, seed=1)
    assert relative_error(second_order.gauss_newton(generator, cores), explicit(generator, cores)) < 1e-12


@pytest.mark.parametrize("name", ["TTN, batch", "MERA, shared, batch", "Custom"])
def test_every_library_has_the_same_matrix(name: str, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second_order, "SLAB", 2**13)
    generator = TOPOLOGIES[name]("sin")(SHAPE)
    cores = generic_cores(generator, seed=2)
    found = second_order.gauss_newton(generator, in_library(cores, library))
    assert isinstance(found, np.ndarray)
    assert relative_error(found, second_order.gauss_newton(generator, cores)) < tolerance("float64")


def test_of_the_jacobian_only_tiles_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = adntn.TTN((64, 64), bond=2, activation="tanh")
    cores = generic_cores(generator)
    sizes = []
    slabs = second_order._slabs

    def watched(*arguments: Any) -> Any:
        for one in slabs(*arguments):
            sizes.append(one.size)
            yield one

    monkeypatch.setattr(second_order, "SLAB", 2**14)
    monkeypatch.setattr(second_order, "_slabs", watched)
    second_order.gauss_newton(generator, cores)
    assert max(sizes) <= 2**14
    assert sum(sizes) == 64 * 64 * generator.parameters


def quadratic(dtype: str) -> tuple[Any, Any]:
    root = random_array((9, 6), 1, dtype)
    return root.conj().T @ root, random_array((6,), 2, dtype)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_a_step_minimises_the_damped_model(dtype: str) -> None:
    matrix, gradient = quadratic(dtype)
    step, predicted = damped_step(matrix, gradient, Damping(0.7))
    damped = matrix + 0.7 * np.diag(np.diagonal(matrix))
    assert relative_error(step, -np.linalg.solve(damped, gradient)) < 1e-12
    model = np.vdot(gradient, step).real + 0.5 * np.vdot(step, matrix @ step).real
    assert predicted == pytest.approx(-model, rel=1e-12)


def test_a_step_does_not_depend_on_units() -> None:
    matrix, gradient = quadratic("float64")
    units = np.array([1e-6, 1.0, 1e6, 3.0, 1e3, 1e-3])
    step, predicted = damped_step(matrix, gradient, Damping(0.1))
    other, same = damped_step(matrix * np.outer(units, units), gradient * units, Damping(0.1))
    assert relative_error(other * units, step) < 1e-12
    assert same == pytest.approx(predicted, rel=1e-12)


def test_a_number_that_nothing_depends_on_stays() -> None:
    matrix, gradient = np.diag([1.0, 0.0]), np.array([1.0, 0.0])
    step, _ = damped_step(matrix, gradient, Damping(1e-3))
    assert step.tolist() == [pytest.approx(-1 / 1.001), 0.0]


@pytest.mark.parametrize(
    ("gain", "factor"),
    [(1.0, 1 / 3), (0.75, 0.875), (0.5, 1.0), (0.25, 1.125), (-3.0, 2.0), (float("nan"), 2.0), (float("-inf"), 2.0)],
)
def test_the_damping_follows_the_gain(gain: float, factor: float) -> None:
    after = Damping(0.5, 2.0).after(gain)
    assert after.value == pytest.approx(0.5 * factor)
    assert after.growth == (2.0 if gain > 0 else 4.0)


def rosenbrock(at: Any) -> tuple[float, Any]:
    residual = np.array([10 * (at[1] - at[0] ** 2), 1 - at[0]])
    return float(residual @ residual), 2 * slopes(at).T @ residual


def slopes(at: Any) -> Any:
    return np.array([[-20 * at[0], 10.0], [-1.0, 0.0]])


def test_the_search_goes_down_a_curved_valley() -> None:
    values: list[float] = []
    start = np.array([-1.2, 1.0])
    found = minimised(
        rosenbrock,
        lambda at: 2 * slopes(at).T @ slopes(at),
        start,
        iterations=100,
        enough=1e-28,
        report=values.append,
    )
    assert found == pytest.approx([1.0, 1.0], abs=1e-13)
    assert values == sorted(values, reverse=True)
    assert len(values) < 50


def test_the_search_ends_where_nothing_is_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that lies about its slope: every step is worse than predicted, however short."""
    values: list[float] = []
    start = np.ones(2)
    found = minimised(
        lambda at: (1.0 + float(np.sum((at - start) ** 2)), np.ones(2)),
        lambda at: np.eye(2),
        start,
        iterations=5,
        enough=0.0,
        report=values.append,
    )
    assert found is start
    assert values == []


def test_rounding_that_leaves_no_positive_matrix_is_met_with_damping() -> None:
    matrix = np.array([[1.0, 1.0 + 1e-3], [1.0 + 1e-3, 1.0]])  # an eigenvalue of -1e-3
    with pytest.raises(levenberg_marquardt.LinAlgError):
        damped_step(matrix, np.ones(2), Damping(1e-6))
    values: list[float] = []
    minimised(
        lambda at: (float(at @ at), 2 * at),
        lambda at: 2 * matrix,
        np.ones(2),
        iterations=3,
        enough=0.0,
        report=values.append,
    )
    assert values
    assert values[-1] < 2.0
