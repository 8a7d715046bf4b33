"""Weights and gradients at the edges of what numbers can be: huge, tiny, short, deep, thin.

Each row is a generator with cores at an extreme. What a library computes there, in the row's number type, is compared
with the weight by definition and with gradients in double precision, and must be finite where these are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

import numpy as np

import adntn
from adntn.arrays import SHORT_DTYPES
from adntn.verification.compare import Way, errors, lack
from adntn.verification.reference import Reference, answer, reference
from adntn.verification.tolerance import EPSILON, ILL_CONDITIONED, depth, tolerance

#: 15 legs of rows and 15 of columns, most of them of one value: 30 legs, and a weight that can be held.
THIRTY = [(1, 1, 2, 1, 1, 2, 1, 1, 2, 1, 1, 2, 1, 1, 2)] * 2


@dataclass(frozen=True)
class Extreme:
    """A generator and where it is looked at.

    Attributes:
        generator: of a small weight.
        dtype: in which it is computed.
        factors: patterns of the names of cores, and what these cores are multiplied by.
    """

    generator: adntn.Generator
    dtype: str = "float32"
    factors: Mapping[str, float] = field(default_factory=dict)


def _tree(activation: str = "tanh", **options: Any) -> adntn.Generator:
    return adntn.TTN((8, 6), bond=2, leg=1, activation=activation, **options)


MERA = adntn.MERA((12, 10), bond=2, leg=1, activation="tanh", mixing_activation="gelu")
LINEAR = adntn.TTN((8, 6), bond=2, leg=1, activation="identity")
LOW_RANK = adntn.LowRank((7, 5), rank=2)
ONE_CORE = adntn.Custom((3, 4), blocks=[adntn.Block({"only": "a b"})], sizes={"a": 3, "b": 4}, output="a | b")

EXTREMES: dict[str, Extreme] = {
    "a scale of 1e30": Extreme(MERA, factors={"scale": 1e30}),
    "a scale of 1e-30": Extreme(MERA, factors={"scale": 1e-30}),
    "a first core of 1e30, a scale of 1e-30": Extreme(LINEAR, factors={"top": 1e30, "scale": 1e-30}),
    "a first core of 1e-30, a scale of 1e30": Extreme(LINEAR, factors={"top": 1e-30, "scale": 1e30}),
    "two cores of 1e15": Extreme(LOW_RANK, factors={"left": 1e15, "right": 1e15}),
    "two cores of 1e-15": Extreme(LOW_RANK, factors={"left": 1e-15, "right": 1e-15}),
    "a denormal scale": Extreme(LOW_RANK, factors={"scale": 1e-40}),
    "a denormal core, a scale of 1e30": Extreme(LOW_RANK, factors={"left": 1e-40, "scale": 1e30}),
    **{
        f"{name}, pre-activations of {size:g}": Extreme(_tree(name, last_activation=name), factors={"top": size})
        for name in adntn.ACTIVATIONS
        for size in (1e30, 1e-30)
    },
    "30 levels, brickwall": Extreme(adntn.Brickwall((8, 8), depth=30, activation="tanh")),
    "30 levels, tensor train": Extreme(adntn.TensorTrain((8, 8), bond=2, depth=30, activation="gelu")),
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
    "bfloat16": Extreme(MERA, "bfloat16"),
    "float16, a weight of 1e4": Extreme(LOW_RANK, "float16", {"scale": 1e4}),
    "float16, a weight of 1e-6": Extreme(LOW_RANK, "float16", {"scale": 1e-6}),
    "bfloat16, a scale of 1e30": Extreme(MERA, "bfloat16", {"scale": 1e30}),
    "bfloat16, a scale of 1e-30": Extreme(MERA, "bfloat16", {"scale": 1e-30}),
    "float64, a scale of 1e300": Extreme(MERA, "float64", {"scale": 1e300}),
    "float64, a scale of 1e-300": Extreme(MERA, "float64", {"scale": 1e-300}),
}


@dataclass(frozen=True)
class Found:
    """What a library has computed at an extreme.

    Attributes:
        weight: the error relative to the norm, in epsilons of the number type.
        gradient: the largest of any core's gradient.
        allowed: how many epsilons count as agreement; None where the point is so ill-conditioned that none would.
        is_finite: whether all numbers are.
    """

    weight: float
    gradient: float
    allowed: float | None
    is_finite: bool

    @property
    def agrees(self) -> bool:
        """Whether it is finite, and as near as it should be."""
        return self.is_finite and (self.allowed is None or max(self.weight, self.gradient) <= self.allowed)
