"""The tangent: against complex steps and differences, against the adjoint, and against automatic differentiation."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import (
    HOLOMORPHIC,
    compiled,
    directional_derivative,
    generic_cores,
    in_double,
    in_library,
    needs,
    random_array,
    reference_weight,
    relative_error,
    tolerance,
)
from matrix import SHAPE, SHAPES, TOPOLOGIES, fits

import adntn

Topology = Callable[[str], adntn.Options]
Cores = dict[str, Any]


def direction(generator: adntn.Generator, dtype: str = "float64", seed: int = 7) -> Cores:
    shapes = generator.core_shapes.items()
    return {name: np.asarray(random_array(shape, seed + place, dtype)) for place, (name, shape) in enumerate(shapes)}


@pytest.mark.parametrize("activation", HOLOMORPHIC)
def test_the_tangent_is_a_complex_step(topology: Topology, activation: str) -> None:
    """The imaginary part of W(cores + i h tangents) / h has no cancellation; our code takes no part in it."""
    generator = topology(activation)(SHAPE)
    cores, tangents = generic_cores(generator, seed=1), direction(generator)
    step = 1e-30
    ahead = {name: core + 1j * step * tangents[name] for name, core in cores.items()}
    weight, derivative = generator.jvp(cores, tangents)
    assert relative_error(weight, generator.weight(cores)) < tolerance("float64")
    assert relative_error(derivative, reference_weight(generator, ahead).imag / step) < tolerance("float64")


@pytest.mark.parametrize("activation", sorted(set(adntn.ACTIVATIONS) - set(HOLOMORPHIC)))
def test_the_tangent_is_that_of_finite_differences(topology: Topology, activation: str) -> None:
    generator = topology(activation)(SHAPE)
    cores, tangents = generic_cores(generator, seed=1), direction(generator)
    _, derivative = generator.jvp(cores, tangents)
    weight_bar = derivative + np.sqrt(np.mean(derivative**2)) * random_array(derivative.shape, 3)
    size = {name: 0.1 * one for name, one in tangents.items()}
    expected = directional_derivative(
        lambda at: float(np.sum(weight_bar * reference_weight(generator, at))), cores, size
    )
    found = 0.1 * float(np.sum(weight_bar * derivative))
    assert found == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("dtype", ["float64", "complex128", "float32"])
def test_tangent_and_adjoint_are_adjoint(topology: Topology, dtype: str) -> None:
    """<J v, w> = <v, J^H w>, as complex numbers."""
    generator = topology("tanh")(SHAPE)
    cores, tangents = generic_cores(generator, seed=2, dtype=dtype), direction(generator, dtype)
    weight, derivative = generator.jvp(cores, tangents)
    assert weight.dtype == derivative.dtype == dtype
    weight_bar = (derivative + random_array(weight.shape, 3, dtype)).astype(dtype)
    gradients = generator.vjp(cores)[1](weight_bar)
    forward = np.vdot(in_double(derivative), in_double(weight_bar))
    backward = sum(np.vdot(in_double(tangents[name]), in_double(gradients[name])) for name in cores)
    size = np.linalg.norm(in_double(derivative)) * np.linalg.norm(in_double(weight_bar))
    assert abs(forward - backward) < tolerance(dtype) * size


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ["TTN", "TTN, batch", "MERA", "Brickwall, depth 3", "TensorTrain, depth 2", "LowRank"])
def test_weights_of_any_shape_have_tangents(name: str, shape: tuple[int, ...]) -> None:
    if not fits(name, shape):
        pytest.skip("this topology makes no such shape")
    generator = TOPOLOGIES[name]("tanh")(shape)
    cores, tangents = generic_cores(generator, seed=1), direction(generator)
    ahead = {one: core + 1e-30j * tangents[one] for one, core in cores.items()}
    _, derivative = generator.jvp(cores, tangents)
    assert derivative.shape == generator.shape
    assert relative_error(derivative, reference_weight(generator, ahead).imag / 1e-30) < tolerance("float64")


def test_every_library_has_the_same_tangent(library_and_topology: tuple[str, Topology]) -> None:
    library, topology = library_and_topology
    generator = topology("gelu")(SHAPE)
    cores, tangents = generic_cores(generator, seed=4), direction(generator)
    own, moved = in_library(cores, library), in_library(tangents, library)
    _, expected = generator.jvp(cores, tangents)
    weight, derivative = compiled(library, generator.jvp)(own, moved)
    assert type(weight) is type(derivative) is type(own["scale"])
    assert relative_error(derivative, expected) < tolerance("float64")


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_the_tangent_is_that_of_torchs_forward_mode(topology: Topology, dtype: str) -> None:
    needs("torch")
    torch = importlib.import_module("torch")
    generator = topology("silu")(SHAPE)
    cores, tangents = generic_cores(generator, seed=3, dtype=dtype), direction(generator, dtype)
    given = [{name: torch.from_numpy(one) for name, one in arrays.items()} for arrays in (cores, tangents)]
    _, expected = torch.func.jvp(generator.weight, (given[0],), (given[1],))
    assert relative_error(generator.jvp(cores, tangents)[1], expected) < tolerance(dtype)


@pytest.mark.parametrize("name", ["MERA, periodic, mixing", "TTN, batch"])
def test_the_tangent_is_that_of_jaxs_forward_mode(name: str) -> None:
    needs("jax")
    jax = importlib.import_module("jax")
    generator = TOPOLOGIES[name]("softplus")(SHAPE)
    cores, tangents = generic_cores(generator, seed=3), direction(generator)
    with jax.enable_x64(True):
        given = in_library(cores, "jax"), in_library(tangents, "jax")
        _, expected = jax.jit(lambda at, along: jax.jvp(generator.weight, (at,), (along,)))(*given)
    assert relative_error(generator.jvp(cores, tangents)[1], expected) < tolerance("float64")


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_tangents_have_the_number_type_of_the_cores(dtype: str) -> None:
    generator = adntn.MERA(SHAPE, bond=2, activation="tanh")
    cores = {name: core.astype(dtype) for name, core in generic_cores(generator).items()}
    tangents = {name: one.astype(dtype) for name, one in direction(generator).items()}
    wide = [{name: one.astype("float64") for name, one in arrays.items()} for arrays in (cores, tangents)]
    _, derivative = generator.jvp(cores, tangents)
    assert derivative.dtype == dtype
    assert relative_error(derivative, generator.jvp(*wide)[1]) < tolerance("float32") + np.finfo(dtype).eps


def test_a_tangent_reads_as_formulas() -> None:
    generator = adntn.TTN(SHAPE, bond=2, activation="tanh")
    program = str(generator.tangent.program)
    assert "X1_dot" in program
    assert "= Z1_dot * tanh'(y = X1)" in program


GENERATOR = adntn.TTN((8, 8), bond=2)
CORES = GENERATOR.init(dtype="float64")
BAD = {
    "no mapping": ([1.0], TypeError, "tangents must be a mapping.*list"),
    "missing": ({name: one for name, one in CORES.items() if name != "top"}, KeyError, "only one has 'top'"),
    "unknown": ({**CORES, "other": CORES["scale"]}, KeyError, "only one has 'other'"),
    "another shape": ({**CORES, "scale": np.ones(3)}, ValueError, r"'scale' must have the shape \(\), got \(3,\)"),
    "no array": ({**CORES, "top": 1.0}, ValueError, "'top' must have the shape"),
    "another number type": ({**CORES, "top": CORES["top"].astype("float32")}, TypeError, "float64.*float32"),
}


@pytest.mark.parametrize(("tangents", "error", "words"), BAD.values(), ids=BAD)
def test_tangents_that_do_not_fit_are_named(tangents: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        GENERATOR.jvp(CORES, tangents)
