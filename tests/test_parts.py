"""Parts of a weight, each generated for itself, are the parts of the weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import compiled, generic_cores, in_library, needs, reference_weight, relative_error, tolerance
from matrix import SHAPE

import adntn
from adntn.parts import possible_counts


@pytest.mark.parametrize("dimension", [0, 1])
def test_parts_are_those_of_the_weight(topology: Callable[[str], adntn.Options], dimension: int) -> None:
    generator = topology("tanh")(SHAPE)
    cores = generic_cores(generator)
    weight = reference_weight(generator, cores)
    axis = dimension + weight.ndim - 2
    for count in (1, 2, 3, 4, 6, 8, 12, 16):
        layout = generator.network.layout
        if count not in possible_counts(layout, dimension):
            padded = layout.padded_shape[dimension] != layout.shape[dimension]
            assert padded or SHAPE[dimension] % count or layout.factors[dimension][0] % count
            continue
        parts = generator.parts(count, dimension)
        made = [parts.generator.weight(parts.cores(cores, number)) for number in range(count)]
        assert parts.generator.shape == made[0].shape
        assert relative_error(np.concatenate(made, axis), weight) <= tolerance("float64")


def test_legs_are_cut_from_the_first_one_on() -> None:
    """Sizes that divide are not enough: parts are neighbouring rows, the values of some first legs."""
    layout = {"factors": [(2, 6, 4), (3,)]}
    possible = [count for count in range(1, 49) if _divides(adntn.TTN((48, 3), **layout), count)]
    assert possible == [1, 2, 4, 6, 12, 24, 48]


def _divides(generator: adntn.Generator, count: int) -> bool:
    try:
        generator.parts(count)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("number", [-1, 4])
def test_there_is_no_other_part(number: int) -> None:
    generator = adntn.TTN((16, 12), bond=2)
    with pytest.raises(IndexError, match=f"number must be that of a part, from 0 to 3, got {number}"):
        generator.parts(4).cores(generator.init(seed=0), number)


@pytest.mark.parametrize("library", ["torch", "jax", "array_api_strict"])
def test_every_library_cuts_cores(library: str) -> None:
    needs(library)
    generator = adntn.MERA((16, 12), bond=2, share="all")
    cores = generic_cores(generator)
    parts = generator.parts(4)

    def second(cores: Any) -> Any:
        return parts.generator.weight(parts.cores(cores, 1))

    made = compiled(library, second)(in_library(cores, library))
    dtype = "float32" if library == "jax" else "float64"  # as JAX is set up
    assert relative_error(made, reference_weight(generator, cores)[4:8]) <= tolerance(dtype)


def test_a_part_costs_what_its_size_is_of_the_whole() -> None:
    generator = adntn.TTN((1024, 1024), bond=2)
    part = generator.parts(4).generator
    assert part.report().forward.operations < 0.3 * generator.report().forward.operations


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (3,),
            r"dimension 0 of size 16 cannot be cut into 3 equal parts: its legs are \(2, .*; possible are 1, 2, 4, 8",
        ),
        ((5, 1), "dimension 1 of size 11 cannot be cut into 5 equal parts: it is padded to 12; possible are 1"),
        ((0,), "count must be a positive integer, got 0"),
        ((2.0,), "count must be a positive integer, got 2.0"),
        ((2, 2), "dimension must be an integer from 0 to 1, got 2"),
    ],
)
def test_what_does_not_divide_says_what_would(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adntn.TTN((16, 11), bond=2).parts(*arguments)
