"""At the edges of what numbers can be, gradients are finite wherever the weight is, and right."""

from __future__ import annotations

import pytest
from helpers import needs

from robustness.numerics import EXTREMES, found, ways

#: JAX compiles every row anew: those in which its compiler could differ. Activations are the same on all libraries.
COMPILED = ("first core 1e30, scale 1e-30", "denormal core, scale 1e30", "float16")
ROWS = {
    "numpy": tuple(EXTREMES),
    "torch": tuple(name for name in EXTREMES if " of 1e" not in name),
    "jax": COMPILED,
}


@pytest.mark.parametrize(("backend", "name"), [(backend, name) for backend in ROWS for name in ROWS[backend]])
def test_weight_and_gradients_are_finite_and_right(backend: str, name: str) -> None:
    needs(backend)
    for way in ways(backend, EXTREMES[name].dtype):
        result = found(EXTREMES[name], way)
        assert result.agrees, (str(way), result)
