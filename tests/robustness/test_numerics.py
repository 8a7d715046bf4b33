"""At the edges of what numbers can be, gradients are finite wherever the weight is, and right."""

from __future__ import annotations

import pytest
from helpers import needs

from robustness.numerics import EXTREMES, found, ways

#: JAX compiles every row anew: those in which its compiler could differ.
COMPILED = (
    "scale 1e30",
    "first core 1e30, scale 1e-30",
    "denormal core, scale 1e30",
    "30 levels, brickwall",
    "float16",
)
ROWS = (
    [("numpy", name) for name in EXTREMES] + [("torch", name) for name in EXTREMES] + [("jax", row) for row in COMPILED]
)


@pytest.mark.parametrize(("backend", "name"), ROWS)
def test_weight_and_gradients_are_finite_and_right(backend: str, name: str) -> None:
    needs(backend)
    for way in ways(backend, EXTREMES[name].dtype):
        result = found(EXTREMES[name], way)
        assert result.agrees, (str(way), result)
