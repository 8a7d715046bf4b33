"""Shapes become legs and legs become weights again: nothing is lost but the padding."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from helpers import random_array
from hypothesis import given
from hypothesis import strategies as st
from matrix import SHAPES

import adntn
from adntn.arrays import namespace
from adntn.shapes import LARGEST_LEG, Layout, factorise, layout_of, prime_factors

NUMPY = namespace("numpy", False)
shapes = st.lists(st.integers(1, 14), min_size=1, max_size=4).map(tuple)


@given(st.integers(1, 100_000))
def test_prime_factors_multiply_to_the_number(number: int) -> None:
    factors = prime_factors(number)
    assert math.prod(factors) == number
    assert all(factor > 1 and all(factor % divisor for divisor in range(2, factor)) for factor in factors)


@given(st.integers(1, 40_000), st.integers(1, 16))
def test_padding_goes_up_to_the_next_smooth_number_and_no_further(size: int, leg: int) -> None:
    legs = factorise(size, leg)
    padded = math.prod(legs)
    assert padded >= size
    assert all(part <= max(leg, LARGEST_LEG) for part in legs)
    assert max(prime_factors(padded), default=1) <= LARGEST_LEG
    assert all(max(prime_factors(between), default=1) > LARGEST_LEG for between in range(size, padded))


KNOWN = {4096: (2,) * 12, 25088: (2,) * 9 + (7, 7), 1000: (2, 2, 2, 5, 5, 5), 3: (3,), 1: (), 11: (2, 2, 3)}


@pytest.mark.parametrize(("size", "legs"), KNOWN.items())
def test_known_factorisations(size: int, legs: tuple[int, ...]) -> None:
    assert factorise(size) == legs


def assembled(layout: Layout, state: Any) -> Any:
    """The weight by definition: sort the legs by dimension, merge each dimension's, crop."""
    order = sorted(range(len(layout.order)), key=lambda place: layout.order[place])
    padded = state.reshape(layout.leg_sizes).transpose(order).reshape([math.prod(legs) for legs in layout.factors])
    return padded[tuple(slice(size) for size in layout.shape)]


@pytest.mark.parametrize("order", ["split", "interleaved"])
@pytest.mark.parametrize("shape", SHAPES)
def test_legs_become_the_weight(shape: tuple[int, ...], order: Any) -> None:
    layout = layout_of(shape, order)
    state = random_array((math.prod(layout.leg_sizes),))
    assembly = layout.assembly(range(len(layout.leg_sizes)), None)
    assert np.array_equal(assembly.assemble(state, NUMPY), assembled(layout, state))


@given(shapes, st.sampled_from(["split", "interleaved"]), st.integers(1, 6), st.sampled_from([None, 1, 2]), st.data())
def test_putting_back_into_legs_is_the_adjoint_of_assembling(
    shape: tuple[int, ...], order: Any, leg: int, batch: int | None, data: st.DataObject
) -> None:
    layout = layout_of(shape, order, leg=leg)
    axes = data.draw(st.permutations(range(len(layout.leg_sizes))))
    assembly = layout.assembly(axes, batch)
    lead = () if batch is None else (batch,)
    state = random_array((*lead, math.prod(layout.leg_sizes)), 1)
    weight_bar = random_array((*lead, *shape), 2)
    weight = assembly.assemble(state, NUMPY)
    back = assembly.disassemble(weight_bar, NUMPY)
    assert weight.shape == weight_bar.shape
    assert np.vdot(weight, weight_bar) == pytest.approx(np.vdot(state, back.reshape(state.shape)), rel=1e-12, abs=1e-12)
    assert np.array_equal(assembly.assemble(back, NUMPY), weight_bar)


def test_interleaved_legs_alternate_between_rows_and_columns() -> None:
    assert [dimension for dimension, _ in layout_of((16, 16), "interleaved").order] == [0, 1] * 4
    assert [dimension for dimension, _ in layout_of((16, 16), "split").order] == [0] * 4 + [1] * 4


def test_the_report_tells_the_padding() -> None:
    generator = adntn.TTN((30522, 384), bond=2)
    padded = generator.network.layout.padded_shape
    assert padded == (30618, 384)
    assert generator.report().padding == pytest.approx(1 - 30522 / 30618)
    assert "0.31% of the generated numbers are cropped away" in str(generator.report())
    assert adntn.TTN((4096, 4096)).report().padding == 0


BAD_SHAPES: dict[str, tuple[Any, type[Exception], str]] = {
    "zero": ((8, 0), ValueError, "got 0 in dimension 1"),
    "negative": ((-4, 8), ValueError, "got -4 in dimension 0"),
    "no dimension": ((), ValueError, "1 to 6 dimensions, got 0"),
    "seven dimensions": ((2,) * 7, ValueError, "1 to 6 dimensions, got 7"),
    "an integer": (8, TypeError, r"sequence of sizes such as \(8, 8\)"),
    "a fraction": ((8, 2.5), TypeError, "integer.*2.5"),
    "a truth": ((8, True), TypeError, "integer.*True"),
    "a text": ("88", TypeError, "integer"),
}


@pytest.mark.parametrize(("shape", "error", "words"), BAD_SHAPES.values(), ids=BAD_SHAPES)
@pytest.mark.parametrize("constructor", [adntn.TTN, adntn.Brickwall, adntn.LowRank, adntn.Tucker], ids=lambda o: o.name)
def test_bad_shapes_are_named(constructor: adntn.Topology[Any], shape: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        constructor(shape)


BAD_OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "layout": ({"layout": "rows"}, 'layout must be "split" or "interleaved", got \'rows\''),
    "too few groups": ({"factors": [(4, 4)]}, "one group of sizes for each of the 2 dimensions"),
    "sizes instead of groups": ({"factors": [4, 4]}, "one group of sizes for each of the 2 dimensions"),
    "a fraction": ({"factors": [(4, 2.5), (12,)]}, "dimension 0.*positive integers"),
    "a product too small": ({"factors": [(4, 4), (3, 3)]}, r"dimension 1.*at least 12, got \(3, 3\)"),
    "a leg of 0": ({"factors": [(4, 4), (12, 0)]}, "dimension 1.*positive"),
}


@pytest.mark.parametrize(("options", "words"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_bad_layouts_and_factors_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        adntn.TTN((16, 12), **options)


@pytest.mark.parametrize("size", [np.int64(12), np.int32(12)])
def test_sizes_may_be_numpy_integers(size: Any) -> None:
    assert adntn.TTN((size, size)) == adntn.TTN((12, 12))
