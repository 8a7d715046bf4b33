"""The adjoint: against finite differences, einsums written out by hand, and automatic differentiation."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import (
    HOLOMORPHIC,
    KINKED,
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
from matrix import ON_LIBRARIES, SHAPE, TOPOLOGIES

import adntn

Topology = Callable[[str], adntn.Options]
Cores = dict[str, Any]


def inner(one: Any, other: Any) -> float:
    """The real inner product, which gradients with respect to the conjugate are the duals of."""
    return float(np.sum(np.conj(one) * other).real)


def aligned(generator: adntn.Generator, cores: Cores, dtype: str) -> Any:
    """A dL/dW that is random but not orthogonal to W, so that no sum over the weight cancels."""
    weight = np.asarray(generator.weight(cores))
    return (weight + np.sqrt(np.mean(np.abs(weight) ** 2)) * random_array(weight.shape, 5, dtype)).astype(dtype)


def gradients(generator: adntn.Generator, cores: Cores, weight_bar: Any) -> Cores:
    _, pullback = generator.vjp(cores)
    return pullback(weight_bar)


def check_against_differences(loss: Callable[[Cores], float], cores: Cores, found: Cores) -> None:
    """Compare each core's gradient with differences of the loss along its own direction, mixed with a random one."""
    for place, (name, gradient) in enumerate(found.items()):
        norm = float(np.linalg.norm(gradient))
        assert norm > 0, f"{name} has no gradient: nothing is tested"
        noise = random_array(gradient.shape, place, str(gradient.dtype))
        direction = gradient / norm + 0.5 * noise / np.linalg.norm(noise)
        expected = directional_derivative(loss, cores, {name: direction})
        assert abs(inner(gradient, direction) - expected) < 1e-9 * norm, name


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_the_adjoint_agrees_with_finite_differences(topology: Topology, activation: str, dtype: str) -> None:
    if dtype == "complex128" and activation not in HOLOMORPHIC:
        pytest.skip(f"{activation} is not holomorphic")
    generator = topology(activation)(SHAPE)
    cores = generic_cores(generator, seed=1, dtype=dtype)
    weight_bar = aligned(generator, cores, dtype)

    def loss(at: Cores) -> float:
        return inner(weight_bar, reference_weight(generator, at))

    check_against_differences(loss, cores, gradients(generator, cores, weight_bar))


# Einsums written out by hand: 12 x 24 is 2 3 2 | 2 2 2 3, seven legs: levels of two, four and seven; ragged at the end.
RAGGED, RAGGED_FACTORS = (12, 24), [(2, 3, 2), (2, 2, 2, 3)]


def written_out_tree(cores: Cores) -> Any:
    first = np.einsum("ab,acd,bef->cdef", cores["top"], cores["level1/isometry0"], cores["level1/isometry1"])
    second = [cores[f"level2/isometry{place}"] for place in range(4)]
    legs = np.einsum("cdef,cgh,dij,ekl,fm->ghijklm", np.tanh(first), *second)
    return cores["scale"] * legs.reshape(RAGGED)


def written_out_augmented_tree(cores: Cores) -> Any:
    first = np.einsum("ab,acd,bef->cdef", cores["top"], cores["level1/isometry0"], cores["level1/isometry1"])
    second = [cores[f"level2/isometry{place}"] for place in range(4)]
    legs = np.einsum("cdef,cgh,dij,ekl,fm->ghijklm", np.tanh(first), *second)
    mixers = [cores[f"level2/disentangler{place}"] for place in range(3)]
    legs = np.einsum("ghijklm,HIhi,JKjk,LMlm->gHIJKLM", legs, *mixers)
    return cores["scale"] * legs.reshape(RAGGED)


def written_out_mera(cores: Cores) -> Any:
    first = np.einsum("ab,acd,bef->cdef", cores["top"], cores["level1/isometry0"], cores["level1/isometry1"])
    first = np.einsum("cdef,DEde->cDEf", first, cores["level1/disentangler0"])
    second = [cores[f"level2/isometry{place}"] for place in range(4)]
    legs = np.einsum("cdef,cgh,dij,ekl,fm->ghijklm", np.tanh(first), *second)
    mixers = [cores[f"level2/disentangler{place}"] for place in range(3)]
    legs = np.einsum("ghijklm,HIhi,JKjk,LMlm->gHIJKLM", legs, *mixers)
    return cores["scale"] * legs.reshape(RAGGED)


WRITTEN_OUT = {
    "TTN": written_out_tree,
    "AugmentedTTN": written_out_augmented_tree,
    "MERA": written_out_mera,
}


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize(("name", "expected"), WRITTEN_OUT.items(), ids=WRITTEN_OUT)
def test_weight_and_gradients_are_those_of_einsums_written_out(
    name: str, expected: Callable[[Cores], Any], dtype: str
) -> None:
    generator = getattr(adntn, name)(RAGGED, bond=3, factors=RAGGED_FACTORS, layout="split", activation="tanh")
    cores = generic_cores(generator, seed=2, dtype=dtype)
    assert relative_error(generator.weight(cores), expected(cores)) < tolerance(dtype)
    weight_bar = random_array(RAGGED, 3, dtype)
    found = gradients(generator, cores, weight_bar)
    check_against_differences(lambda at: inner(weight_bar, expected(at)), cores, found)


def torch_gradients(generator: adntn.Generator, cores: Cores, weight_bar: Any) -> Cores:
    torch = importlib.import_module("torch")
    own = {name: torch.from_numpy(core).requires_grad_() for name, core in cores.items()}
    generator.weight(own).backward(torch.from_numpy(weight_bar))
    return {name: core.grad for name, core in own.items()}


def jax_gradients(generator: adntn.Generator, cores: Cores, weight_bar: Any) -> Cores:
    jax = importlib.import_module("jax")
    with jax.enable_x64(True):
        own = in_library(cores, "jax")
        _, pullback = jax.jit(lambda at: jax.vjp(generator.weight, at))(own)
        (found,) = pullback(jax.numpy.conj(weight_bar))
        return {name: np.conj(in_double(gradient)) for name, gradient in found.items()}


AUTOMATIC = {"torch": torch_gradients, "jax": jax_gradients}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_adjoint_agrees_with_torchs_differentiation(topology: Topology, activation: str, dtype: str) -> None:
    needs("torch")
    generator = topology(activation)(SHAPE)
    cores = generic_cores(generator, seed=3, dtype=dtype)
    weight_bar = aligned(generator, cores, dtype)
    found = gradients(generator, cores, weight_bar)
    for name, expected in torch_gradients(generator, cores, weight_bar).items():
        assert found[name].dtype == dtype
        assert relative_error(found[name], expected) < tolerance(dtype), name


@pytest.mark.parametrize(("library", "name"), [pair for pair in ON_LIBRARIES if pair[0] in AUTOMATIC])
def test_complex_gradients_are_with_respect_to_the_conjugate(library: str, name: str) -> None:
    needs(library)
    topology = TOPOLOGIES[name]
    generator = topology("tanh")(SHAPE)
    cores = generic_cores(generator, seed=3, dtype="complex128")
    weight_bar = aligned(generator, cores, "complex128")
    found = gradients(generator, cores, weight_bar)
    for core, expected in AUTOMATIC[library](generator, cores, weight_bar).items():
        assert relative_error(found[core], expected) < tolerance("complex128"), core


def test_every_library_has_the_same_gradients(library_and_topology: tuple[str, Topology]) -> None:
    library, topology = library_and_topology
    generator = topology("gelu")(SHAPE)
    cores = generic_cores(generator, seed=4)
    weight_bar = aligned(generator, cores, "float64")
    own = in_library({**cores, "weight_bar": weight_bar}, library)
    own_bar = own.pop("weight_bar")
    expected = gradients(generator, cores, weight_bar)
    for name, gradient in compiled(library, lambda at, bar: gradients(generator, at, bar))(own, own_bar).items():
        assert type(gradient) is type(own[name])
        assert gradient.shape == own[name].shape
        assert relative_error(gradient, expected[name]) < tolerance("float64"), name


def test_a_pullback_may_be_called_again(topology: Topology) -> None:
    generator = topology("tanh")(SHAPE)
    cores = generic_cores(generator)
    _, pullback = generator.vjp(cores)
    one, other = aligned(generator, cores, "float64"), random_array(generator.shape, 2)
    together = pullback(one + other)
    parts = pullback(one), pullback(other)
    for name, gradient in together.items():
        assert relative_error(parts[0][name] + parts[1][name], gradient) < tolerance("float64")


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_gradients_have_the_number_type_of_the_cores(topology: Topology, dtype: str) -> None:
    generator = topology("tanh")(SHAPE)
    cores = {name: np.asarray(core).astype(dtype) for name, core in generic_cores(generator).items()}
    wide = {name: core.astype("float64") for name, core in cores.items()}
    weight_bar = aligned(generator, wide, "float64").astype(dtype)
    expected = gradients(generator, wide, weight_bar.astype("float64"))
    for name, gradient in gradients(generator, cores, weight_bar).items():
        assert gradient.dtype == dtype
        allowed = tolerance("float32") + np.finfo(dtype).eps
        assert relative_error(gradient, expected[name]) < allowed, name


@pytest.mark.parametrize("activation", adntn.ACTIVATIONS.values(), ids=str)
def test_derivatives_are_those_of_the_functions(activation: adntn.Activation) -> None:
    from adntn.arrays import namespace  # noqa: PLC0415 (not public: only tests call activations by hand)

    functions = namespace("numpy", False)
    z = np.concatenate([np.linspace(-4, 4, 41) + 0.01, [-1e3, 1e3]])
    step = 1e-3
    at = [activation.function(functions, z + shift * step) for shift in (-2, -1, 1, 2)]
    expected = (at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * step)
    given = activation.function(functions, z) if activation.derivative_of == "output" else z
    np.testing.assert_allclose(activation.derivative(functions, given), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", KINKED)
def test_the_derivative_at_a_kink_is_that_of_the_left_side(name: str, library: str) -> None:
    generator = adntn.LowRank((2, 2), rank=1, last_activation=name)
    zeros = in_library({"left": np.zeros((2, 1)), "right": np.ones((1, 2)), "scale": np.ones(())}, library)
    _, pullback = generator.vjp(zeros)
    ones = in_library({"ones": np.ones((2, 2))}, library)["ones"]
    left = {"relu": 0.0, "leaky_relu": 0.01, "elu": 1.0}[name]
    np.testing.assert_allclose(in_double(pullback(ones)["left"]), np.full((2, 1), 2 * left))


def test_a_users_own_activation_is_differentiated() -> None:
    cube = adntn.Activation("cube", lambda xp, z: z * z * z, lambda xp, z: 3 * z * z)
    generator = adntn.MERA((8, 8), bond=2, leg=1, activation=cube, last_activation=cube)
    cores = generic_cores(generator)
    weight_bar = random_array((8, 8), 1)
    found = gradients(generator, cores, weight_bar)

    def loss(at: Cores) -> float:
        return inner(weight_bar, generator.weight(at))

    check_against_differences(loss, cores, found)
    assert "cube" in str(generator.program)
    assert "cube'" in str(generator.adjoint.backward)


def test_gradients_are_finite_where_the_weight_is(activation: str) -> None:
    generator = adntn.TTN((8, 8), bond=2, leg=1, activation=activation, last_activation=activation)
    for size in (1e-20, 1e3):
        cores = {name: size * core for name, core in generator.init(0, dtype="float64").items()}
        weight, pullback = generator.vjp(cores)
        found = pullback(np.ones((8, 8)))
        assert np.isfinite(weight).all()
        assert all(np.isfinite(gradient).all() for gradient in found.values())
