"""An independent opinion on everything that is generated: einsum level by level, in double precision, on NumPy."""

from __future__ import annotations

import importlib
import tracemalloc
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import autoray
import numpy as np
import pytest
from scipy import special

import adntn
from adntn.backends import usable_backend
from adntn.verification.compare import in_double
from adntn.verification.tolerance import EPSILON

Array = Any
Cores = dict[str, Array]

#: Activations written once more, from other primitives than the library's.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "identity": lambda z: z,
    "tanh": np.tanh,
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "relu": lambda z: np.maximum(z, 0),
    "leaky_relu": lambda z: np.maximum(z, 0) + 0.01 * np.minimum(z, 0),
    "elu": lambda z: np.maximum(z, 0) + np.exp(np.minimum(z, 0)) - 1,
    "gelu": lambda z: z * special.ndtr(z),
    "silu": lambda z: z / (1 + np.exp(-z)),
    "softplus": lambda z: np.log1p(np.exp(z)),
    "sin": np.sin,
}
#: What Python's own objects (views, tuples, dictionaries) may take besides the arrays.
OBJECTS = 2**18
KINKED = ("relu", "leaky_relu", "elu")
HOLOMORPHIC = ("identity", "tanh", "sigmoid", "silu", "sin")


def needs(backend: str) -> None:
    """Skip the test where a backend cannot be used, with the reason: installed may still be without a device."""
    if reason := _lack(backend):
        pytest.skip(reason)


@cache
def _lack(backend: str) -> str:
    """The reason that `adntn.backends` gives, without loading the other backends."""
    try:
        usable_backend(backend)
    except ImportError as error:
        return str(error)
    return ""


def measured(function: Callable[[], Any]) -> int:
    """The most bytes that NumPy and Python hold beyond what is there before."""
    function()  # what is made once, and Python's lists of free objects
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def relative_error(found: Array, expected: Array) -> float:
    """|found - expected| / |expected|, in double precision; of a zero nothing but itself is near."""
    found, expected = in_double(found), in_double(expected)
    error = float(np.linalg.norm(found - expected))
    return error / (float(np.linalg.norm(expected)) or np.finfo("float64").tiny)


def in_library(cores: Mapping[str, Array], library: str) -> Cores:
    """NumPy cores as arrays of another library, of the same number types."""
    return {name: autoray.do("asarray", core, like=library) for name, core in cores.items()}


def compiled(library: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as users of a library run it: JAX compiles it whole, which is also faster than step by step."""
    return importlib.import_module("jax").jit(function) if library == "jax" else function


def tolerance(dtype: str) -> float:
    """How far a result may be from one in double precision, relative to its norm.

    The programs of the matrix have up to a few hundred roundings on the way to each number.
    """
    return 500 * EPSILON[dtype]


def random_array(shape: tuple[int, ...], seed: int = 0, dtype: str = "float64") -> Array:
    random = np.random.default_rng(seed)
    array = random.standard_normal(shape)
    return (array + 1j * random.standard_normal(shape) if dtype.startswith("complex") else array).astype(dtype)


def generic_cores(generator: adntn.Generator, seed: int = 0, dtype: str = "float64") -> Cores:
    """The calibrated start, moved off it by a fifth: disentanglers are then no longer at the identity."""
    cores = generator.init(seed, dtype=dtype, std=1.0)
    moved = {}
    for place, (name, core) in enumerate(cores.items()):
        size = 0.2 * np.sqrt(np.mean(np.abs(core) ** 2)) / (np.sqrt(2) if dtype.startswith("complex") else 1)
        moved[name] = np.asarray(core + size * random_array(core.shape, 1000 * seed + place, dtype), dtype)
    return moved


def reference_weight(generator: adntn.Generator, cores: Mapping[str, Array]) -> Array:
    """The weight by definition: one einsum per level over all its nodes, then permute, reshape and crop."""
    network = generator.network
    if network.batch is None:
        return _one_weight(network, cores)
    each = [{name: in_double(core)[one] for name, core in cores.items()} for one in range(network.batch)]
    return np.stack([_one_weight(network, one) for one in each])


@cache
def _contractions(network: adntn.Network) -> list[tuple[list[list[int]], Any]]:
    """For each level the labels of the state, of the nodes and of the next state, and the path that einsum takes.

    They are the same for all cores, and finite differences ask for the weights of many.
    """
    found, legs = list[tuple[list[list[int]], Any]](), tuple[adntn.Leg, ...]()
    for level in network.levels:
        joined = [legs, *(node.legs for node in level.nodes)]
        number = {leg: place for place, leg in enumerate(dict.fromkeys(leg for one in joined for leg in one))}
        labels = [[number[leg] for leg in one] for one in [*joined, level.output]]
        shapes = [np.broadcast_to(0.0, [leg.size for leg in one]) for one in joined]
        operands = [part for pair in zip(shapes, labels, strict=False) for part in pair]
        # with the memory that is the default here, einsum would contract long chains all at once
        path, _ = np.einsum_path(*operands, labels[-1], optimize=("greedy", 2**24))
        found.append((labels, path))
        legs = level.output
    return found


def _one_weight(network: adntn.Network, cores: Mapping[str, Array]) -> Array:
    cores = {name: in_double(core) for name, core in cores.items()}
    state: Array = np.ones(())
    for level, (labels, path) in zip(network.levels, _contractions(network), strict=True):
        operands = [state, *(cores[node.core] for node in level.nodes)]
        given = [part for pair in zip(operands, labels, strict=False) for part in pair]
        state = ACTIVATIONS[level.activation.name](np.einsum(*given, labels[-1], optimize=path))
    legs = network.levels[-1].output
    layout = network.layout
    padded = state.transpose(sorted(range(len(legs)), key=lambda place: layout.order[place]))
    padded = padded.reshape([int(np.prod(factors)) for factors in layout.factors])
    return cores["scale"] * padded[tuple(slice(size) for size in layout.shape)]


def directional_derivative(loss: Callable[[Cores], float], cores: Cores, direction: Cores) -> float:
    """The derivative of the loss along one direction of some cores: central differences, extrapolated to step 0.

    Large steps meet poles and kinks, small ones round. As in Ridders' method, that step is taken at which the last
    extrapolation changed least; the derivative to be tested has no part in the choice.
    """

    def central(size: float) -> float:
        ahead, behind = (
            {**cores, **{name: cores[name] + sign * size * one for name, one in direction.items()}} for sign in (1, -1)
        )
        return (loss(ahead) - loss(behind)) / (2 * size)

    estimates = []
    for step in (2e-3, 2e-4, 2e-5):
        coarse, middle, fine = (central(step / 2**halvings) for halvings in range(3))
        first, second = (4 * middle - coarse) / 3, (4 * fine - middle) / 3
        extrapolated = (16 * second - first) / 15
        estimates.append((abs(extrapolated - second), extrapolated))
    return min(estimates)[1]
