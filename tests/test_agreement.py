"""Weight and gradients agree on every array library, over random shapes, topologies and options, real and complex."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import needs
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from strategies import generators

import adntn
from adntn.verification.compare import Way, errors
from adntn.verification.reference import (
    FINITE_DIFFERENCE_TOLERANCE,
    complex_step_errors,
    finite_difference_errors,
    reference,
)
from adntn.verification.tolerance import depth, tolerance

HOLOMORPHIC = [name for name, activation in adntn.ACTIVATIONS.items() if activation.holomorphic]
#: Libraries, and how many random generators each is tried with: JAX compiles every shape anew.
EXAMPLES = {"numpy": 40, "array_api_strict": 40, "torch": 40, "cupy": 40, "jax": 3}


def check(library: str, generator: adntn.Generator, dtype: str) -> None:
    made = reference(generator, is_complex=dtype.startswith("complex"))
    # a sine of complex numbers grows exponentially: what single precision does not reach is no disagreement
    assume(max(float(np.linalg.norm(made.weight)), *made.sizes.values()) < 1e12)
    backend = adntn.backend(library)
    for differentiation in backend.differentiations:
        found = errors(generator, made, Way(backend, None, differentiation), dtype)
        assert max(found.forward, found.gradient) <= tolerance(dtype, depth(generator), made.condition), found


@pytest.mark.parametrize("library", EXAMPLES)
@pytest.mark.parametrize("kind", ["real", "complex"])
def test_every_library_agrees_with_the_reference(library: str, kind: str) -> None:
    needs(library)
    names = HOLOMORPHIC if kind == "complex" else list(adntn.ACTIVATIONS)
    dtypes = ["complex64", "complex128"] if kind == "complex" else ["float32", "float64"]

    @settings(max_examples=EXAMPLES[library], deadline=None)
    @given(generators(names), st.sampled_from(dtypes))
    @example(adntn.TensorTrain((2, 4), bond=1, batch=2), dtypes[1])  # its blocks come flat, without the batch axis
    def agrees(generator: adntn.Generator, dtype: str) -> None:
        check(library, generator, dtype)

    agrees()


@settings(max_examples=60, deadline=None)
@given(generators(list(adntn.ACTIVATIONS)))
def test_the_reference_agrees_with_finite_differences(generator: adntn.Generator) -> None:
    found = finite_difference_errors(generator, reference(generator, is_complex=False))
    assert max(found.values()) <= FINITE_DIFFERENCE_TOLERANCE, found


@settings(max_examples=40, deadline=None)
@given(generators(HOLOMORPHIC))
def test_the_complex_reference_agrees_with_finite_differences(generator: adntn.Generator) -> None:
    found = finite_difference_errors(generator, reference(generator, is_complex=True))
    assert max(found.values()) <= FINITE_DIFFERENCE_TOLERANCE, found


@settings(max_examples=40, deadline=None)
@given(generators(HOLOMORPHIC))
def test_the_reference_agrees_with_complex_steps_to_rounding(generator: adntn.Generator) -> None:
    made = reference(generator, is_complex=False)
    found = complex_step_errors(generator, made)
    assert max(found.values()) <= tolerance("float64", depth(generator), made.condition), found
