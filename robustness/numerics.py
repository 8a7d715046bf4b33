"""Weights and gradients at the edges of what numbers can be: huge, tiny, short, deep, thin.

Each row is a generator with cores at an extreme. What a library computes there, in the row's number type, is compared
with the weight by definition and with gradients in double precision, and must be finite, as these are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import ml_dtypes  # noqa: F401  (gives NumPy bfloat16)

import adntn
from adntn.verification.compare import Way, errors, lack
from adntn.verification.reference import Reference, reference, reference_of
from adntn.verification.tolerance import EPSILON, ILL_CONDITIONED, depth, tolerance

#: Rows and columns of 15 legs each, most of them of one value: 30 legs, and a weight that can be held.
THIRTY = [(1, 1, 2) * 5] * 2
BACKENDS = ("numpy", "torch", "jax")


@dataclass(frozen=True)
class Extreme:
    """A generator and where it is looked at.

    Attributes:
        generator: of a small weight.
        dtype: in which it is computed.
        powers: by which powers of two cores are multiplied, which is exact.
        is_denormal: whether numbers lie below the smallest normal one: libraries may take these for zero, and every
            error is then possible that is finite.
    """

    generator: adntn.Generator
    dtype: str = "float32"
    powers: Mapping[str, int] = field(default_factory=dict)
    is_denormal: bool = False


@dataclass(frozen=True)
class Found:
    """What a library has computed at an extreme.

    Attributes:
        weight: its error relative to its norm.
        gradient: the largest of any core's gradient.
        allowed: what counts as agreement; infinite where no agreement can be asked for.
    """

    weight: float
    gradient: float
    allowed: float

    @property
    def is_finite(self) -> bool:
        """Whether all numbers of the weight and of the gradients are."""
        return math.isfinite(self.weight) and math.isfinite(self.gradient)

    @property
    def agrees(self) -> bool:
        """Whether they are finite, and as near as they should be."""
        return self.is_finite and max(self.weight, self.gradient) <= self.allowed


def _tree(activation: str) -> adntn.Generator:
    return adntn.TTN((8, 6), bond=2, leg=1, activation=activation, last_activation=activation)


MERA = adntn.MERA((12, 10), bond=2, leg=1, activation="tanh", mixing_activation="gelu")
LINEAR = adntn.TTN((8, 6), bond=2, leg=1, activation="identity")
LOW_RANK = adntn.LowRank((7, 5), rank=2)
ONE_CORE = adntn.Custom((3, 4), blocks=[adntn.Block({"only": "a b"})], sizes={"a": 3, "b": 4}, output="a | b")

#: 2^100 is 1.3e30.
EXTREMES: dict[str, Extreme] = {
    "scale 1e30": Extreme(MERA, powers={"scale": 100}),
    "scale 1e-30": Extreme(MERA, powers={"scale": -100}),
    "first core 1e30, scale 1e-30": Extreme(LINEAR, powers={"top": 100, "scale": -100}),
    "first core 1e-30, scale 1e30": Extreme(LINEAR, powers={"top": -100, "scale": 100}),
    "two cores of 1e15": Extreme(LOW_RANK, powers={"left": 50, "right": 50}),
    "two cores of 1e-15": Extreme(LOW_RANK, powers={"left": -50, "right": -50}),
    "denormal scale": Extreme(LOW_RANK, powers={"scale": -133}, is_denormal=True),
    "denormal core, scale 1e30": Extreme(LOW_RANK, powers={"left": -133, "scale": 100}, is_denormal=True),
    **{
        f"{name} of 1e{exponent}": Extreme(_tree(name), powers={"top": power})
        for name in adntn.ACTIVATIONS
        for exponent, power in ((30, 100), (-30, -100))
    },
    "30 levels, brickwall": Extreme(adntn.Brickwall((4, 4), depth=30, activation="tanh")),
    "30 levels, tensor train": Extreme(adntn.TensorTrain((4, 4), bond=2, depth=30, activation="gelu")),
    "30 legs, TTN": Extreme(adntn.TTN((32, 32), bond=2, factors=THIRTY, activation="tanh")),
    "30 legs, MERA": Extreme(adntn.MERA((32, 32), bond=2, factors=THIRTY, activation="tanh")),
    "30 legs, tensor train": Extreme(adntn.TensorTrain((32, 32), bond=2, factors=THIRTY)),
    "bond 1, TTN": Extreme(adntn.TTN((8, 6), bond=1, activation="tanh")),
    "bond 1, MERA": Extreme(adntn.MERA((8, 6), bond=1, activation="tanh", share="all")),
    "bond 1, tensor train": Extreme(adntn.TensorTrain((8, 6), bond=1, depth=2, activation="tanh")),
    "one weight": Extreme(adntn.TTN((1, 1), bond=2, activation="tanh")),
    "one row": Extreme(adntn.MERA((1, 7), bond=2, activation="tanh")),
    "one column": Extreme(adntn.AugmentedTTN((7, 1), bond=2, activation="tanh")),
    "a single core": Extreme(ONE_CORE),
    "float16": Extreme(MERA, "float16"),
    "float16, scale 1e3": Extreme(LOW_RANK, "float16", {"scale": 10}),
    "float16, denormal scale": Extreme(LOW_RANK, "float16", {"scale": -16}, is_denormal=True),
    "bfloat16": Extreme(MERA, "bfloat16"),
    "bfloat16, scale 1e30": Extreme(MERA, "bfloat16", {"scale": 100}),
    "bfloat16, scale 1e-30": Extreme(MERA, "bfloat16", {"scale": -100}),
    "float64, scale 1e150": Extreme(MERA, "float64", {"scale": 500}),
    "float64, scale 1e-150": Extreme(MERA, "float64", {"scale": -500}),
}


def ways(backend: str, dtype: str) -> Iterator[Way]:
    """Yield how a library computes and differentiates; nothing where it has not the number type."""
    library = adntn.backend(backend)
    for differentiation in library.differentiations:
        way = Way(library, None, differentiation)
        if not lack(way, dtype):
            yield way


def found(extreme: Extreme, way: Way) -> Found:
    """Return what a library computes at an extreme."""
    made = expected(extreme)
    error = errors(extreme.generator, made, way, extreme.dtype)
    is_open = extreme.is_denormal or made.condition > ILL_CONDITIONED
    allowed = math.inf if is_open else tolerance(extreme.dtype, depth(extreme.generator), made.condition)
    return Found(error.forward, error.gradient, allowed)


def expected(extreme: Extreme) -> Reference:
    """Return the right answer at an extreme."""
    usual = _usual(extreme.generator)
    cores = {name: core * 2.0 ** extreme.powers.get(name, 0) for name, core in usual.cores.items()}
    return reference_of(extreme.generator, cores, usual.weight_bar)


@cache
def _usual(generator: adntn.Generator) -> Reference:
    return reference(generator, is_complex=False)


def rows() -> list[dict[str, Any]]:
    """Return a row of a table for each extreme: the worst of all libraries and ways to differentiate."""
    made = []
    for name, extreme in EXTREMES.items():
        results = {str(way): found(extreme, way) for backend in BACKENDS for way in ways(backend, extreme.dtype)}
        epsilon = EPSILON[extreme.dtype]
        allowed = next(iter(results.values())).allowed
        made.append(
            {
                "extreme": name,
                "number type": extreme.dtype,
                "ways": len(results),
                "error of the weight, epsilons": round(max(one.weight for one in results.values()) / epsilon, 1),
                "of the gradients": round(max(one.gradient for one in results.values()) / epsilon, 1),
                "allowed": None if math.isinf(allowed) else round(allowed / epsilon, 1),
                "not finite": ", ".join(way for way, one in results.items() if not one.is_finite),
                "too far": ", ".join(way for way, one in results.items() if not one.agrees),
            }
        )
    return made
