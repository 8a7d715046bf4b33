"""Weights in tiles: the same numbers as the weight as a whole, each row made once, and nothing large in between."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from helpers import (
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
from hypothesis import given, settings
from hypothesis import strategies as st
from matrix import SHAPE, SHAPES, TOPOLOGIES, fits

import adntn
from adntn.arrays import namespace
from adntn.network import SCALE
from adntn.program.pool import Pool
from adntn.program.tiles import Tiles
from adntn.tiling import LateScale, Plan, Tiling, tiling

Topology = Callable[[str], adntn.Options]
Cores = dict[str, Any]

#: More rows than any weight of the matrix has: one tile is the whole.
WHOLE = 10_000
#: Tiles of one row, of rows that divide the weight's and that do not; groups and tensors made once, few and many.
PLANS = [Plan(*numbers) for numbers in product((1, 2, 3, 5, WHOLE), (4, 16), (1, 64))]
FEW_PLANS = [Plan(1, 4, 64), Plan(3, 16, 1), Plan(5, 4, 1)]
EVERY_SHAPE = [(name, shape) for name in TOPOLOGIES for shape in (SHAPE, *SHAPES) if fits(name, shape)]
TREES = (adntn.TTN, adntn.AugmentedTTN, adntn.MERA)


def cut(generator: adntn.Generator, plan: Plan) -> Tiling:
    return tiling(generator.network, generator.paths, plan)


def assembled(tiles: Tiling, cores: Cores, like: Any) -> Any:
    """The weight, put together from tiles that are handed out one by one; NaN where no tile is."""
    weight = np.full(like.shape, np.nan, like.dtype)
    for rows, tile in tiles.generate(cores):
        weight[(*(slice(None),) * tiles.lead, rows)] = in_double(tiles.as_weight(tile, cores[SCALE]))
    return weight


def pulled_back(tiles: Tiling, cores: Cores, weight_bar: Any, needs_tile: bool, made_before: Any = None) -> Cores:
    """The adjoint of <weight_bar, W>, tile by tile."""
    if tiles.scales and not needs_tile:  # the scale's own gradient needs the tiles
        return tiles.pull_back_weight(cores, weight_bar)
    seen = []
    scale = LateScale(tiles, cores)

    def adjoint_of(rows: slice, tile: Any) -> Any:
        seen.append(tile is not None)
        bar = weight_bar[(*(slice(None),) * tiles.lead, rows)]
        if tile is not None:
            scale.meet(bar, tile)
        return bar

    gradients = scale.gradients(tiles.pull_back(cores, adjoint_of, needs_tile, made_before))
    assert set(seen) == {needs_tile}
    return gradients


def untiled(generator: adntn.Generator, cores: Cores, weight_bar: Any) -> Cores:
    """The gradients by the adjoint of the weight as a whole, in double precision."""
    cores = {name: in_double(core) for name, core in cores.items()}
    _, residuals = generator.forward(cores)
    return generator.pullback(residuals, cores, in_double(weight_bar))


def check(generator: adntn.Generator, plans: list[Plan], dtype: str = "float64", library: str = "numpy") -> None:
    """Compare tiles and their adjoints with the weight by definition and the adjoint of the whole."""
    cores = generic_cores(generator, dtype=dtype)
    expected = reference_weight(generator, cores)
    weight_bar = (expected + np.abs(expected).mean() * random_array(expected.shape, 5, dtype)).astype(dtype)
    wanted = untiled(generator, cores, weight_bar)
    own = in_library({**cores, "W_bar": weight_bar, "out": np.empty(generator.shape, dtype)}, library)
    bar, out = own.pop("W_bar"), own.pop("out")
    for plan in plans:
        tiles = cut(generator, plan)
        out[...] = math.nan
        tiles.write(own, out)
        assert relative_error(out, expected) < tolerance(dtype), plan
        assert relative_error(assembled(tiles, own, expected), expected) < tolerance(dtype), plan
        tiles.write(own, out, scaled=False)
        ways = [pulled_back(tiles, own, bar, needs_tile) for needs_tile in (False, True)]
        for found in (*ways, pulled_back(tiles, own, bar, needs_tile=True, made_before=out)):
            assert set(found) == set(wanted)
            for name, gradient in wanted.items():
                assert found[name].shape == gradient.shape
                assert relative_error(found[name], gradient) < tolerance(dtype), (plan, name)


@pytest.mark.parametrize(("name", "shape"), EVERY_SHAPE, ids=[f"{name}-{shape}" for name, shape in EVERY_SHAPE])
def test_tiles_are_the_rows_of_the_weight_and_their_adjoints_those_of_the_weight(
    name: str, shape: tuple[int, ...]
) -> None:
    check(TOPOLOGIES[name]("tanh")(shape), PLANS)


def test_every_activation_can_be_tiled(topology: Topology, activation: str) -> None:
    check(topology(activation)(SHAPE), FEW_PLANS)


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_every_number_type_can_be_tiled(topology: Topology, dtype: str) -> None:
    check(topology("tanh")(SHAPE), FEW_PLANS, dtype)


@pytest.mark.parametrize("library", ["torch", "cupy"])
@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_every_library_whose_arrays_can_be_written_makes_tiles(
    topology: Topology, activation: str, library: str
) -> None:
    needs(library)
    check(topology(activation)(SHAPE), FEW_PLANS, "float32", library)
    check(topology(activation)(SHAPE), FEW_PLANS[:1], "float64", library)


DIFFERENCES = ["TTN", "TTN, shared", "AugmentedTTN, two boundaries, mixing", "MERA, periodic, mixing", "Custom"]


@pytest.mark.parametrize("name", DIFFERENCES)
@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_the_adjoints_of_tiles_agree_with_finite_differences(name: str, activation: str) -> None:
    generator = TOPOLOGIES[name](activation)(SHAPE)
    cores = generic_cores(generator, seed=1)
    weight_bar = reference_weight(generator, cores) + 0.1

    def loss(at: Cores) -> float:
        return float(np.sum(weight_bar * reference_weight(generator, at)))

    for core, gradient in pulled_back(cut(generator, Plan(3, 4, 1)), cores, weight_bar, False).items():
        norm = float(np.linalg.norm(gradient))
        assert abs(directional_derivative(loss, cores, {core: gradient / norm}) - norm) < 1e-9 * norm, core


# A user's own activations


OWN = {
    "its argument": adntn.Activation("same", lambda xp, z: z, lambda xp, z: xp.zeros_like(z) + 1),
    "a view of its argument": adntn.Activation("view", lambda xp, z: z[...], lambda xp, z: xp.zeros_like(z) + 1),
    "a cube": adntn.Activation("cube", lambda xp, z: z * z * z, lambda xp, z: 3 * z * z),
}


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("activation", OWN.values(), ids=OWN)
def test_an_activation_may_return(topology: Topology, activation: adntn.Activation, library: str) -> None:
    needs(library)
    generator = topology(activation)(SHAPE)  # type: ignore[arg-type]
    cores = generic_cores(generator)
    expected = generator.weight(cores)
    wanted = untiled(generator, cores, expected)
    own = in_library({**cores, "W": expected}, library)
    weight = own.pop("W")
    for plan in FEW_PLANS:
        tiles = cut(generator, plan)
        assert relative_error(assembled(tiles, own, expected), expected) < tolerance("float64")
        found = pulled_back(tiles, own, weight, needs_tile=False)
        assert max(relative_error(found[name], wanted[name]) for name in wanted) < tolerance("float64")


# Properties


@pytest.mark.parametrize(("name", "shape"), EVERY_SHAPE, ids=[f"{name}-{shape}" for name, shape in EVERY_SHAPE])
def test_every_row_is_made_exactly_once(name: str, shape: tuple[int, ...]) -> None:
    generator = TOPOLOGIES[name]("tanh")(shape)
    cores = generator.init()
    for plan in PLANS:
        made = [range(shape[0])[rows] for rows, _ in cut(generator, plan).generate(cores)]
        assert sorted(row for rows in made for row in rows) == list(range(shape[0]))
        assert max(map(len, made)) <= plan.tile_rows


@given(
    st.sampled_from(sorted(TOPOLOGIES)),
    st.lists(st.integers(1, 40), min_size=1, max_size=3),
    st.integers(1, 50),
    st.sampled_from((1, 4, 16, 64)),
    st.sampled_from((1, 64, 2**16)),
)
@settings(max_examples=150)
def test_any_shape_is_cut_into_its_rows(
    name: str, shape: list[int], tile_rows: int, group_input: int, whole_size: int
) -> None:
    if not fits(name, tuple(shape)):
        shape = list(SHAPE)
    generator = TOPOLOGIES[name]("tanh")(tuple(shape))
    cores = generic_cores(generator)
    weight = generator.weight(cores)
    tiles = cut(generator, Plan(tile_rows, group_input, whole_size))
    assert relative_error(assembled(tiles, cores, weight), weight) < tolerance("float64")


@pytest.mark.parametrize("bond", [2, 4])
@pytest.mark.parametrize("constructor", TREES, ids=lambda one: one.name)
@pytest.mark.parametrize("tile_rows", [8, 64])
def test_nothing_large_is_made_on_the_way_to_a_tile(constructor: adntn.Topology, bond: int, tile_rows: int) -> None:
    for last in ("identity", "tanh"):
        generator = constructor((4096, 4096), bond=bond, activation="tanh", last_activation=last)
        nest = cut(generator, Plan(tile_rows)).nest
        assert nest.tile.size <= tile_rows * 4096
        programs = [nest.head_adjoint.forward, nest.head_adjoint.backward]
        programs += [one for stage in nest.stages for one in (stage.adjoint.forward, stage.adjoint.backward)]
        for program in programs:
            for step in program.steps:
                assert step.out.size <= 4096 * 4096 / 8, step


def test_a_nest_reads_as_formulas_in_loops(topology: Topology) -> None:
    nest = cut(topology("tanh")(SHAPE), Plan(2, 4, 1)).nest
    *lines, last = str(nest).splitlines()
    assert last.strip() == f"return {nest.tile.name}"
    depth = 0
    for line in lines:
        inner = line.removeprefix("    " * depth)
        assert not inner.startswith(" ")
        if inner.endswith(":"):
            depth += 1
            assert inner.startswith("for each ")
        else:
            assert " = " in inner
    assert depth == len(nest.stages)
    assert len(lines) == len(nest.head.steps) + sum(len(stage.program.steps) + 1 for stage in nest.stages)


def test_a_small_nest_reads_as_one_would_write_it() -> None:
    nest = cut(adntn.LowRank((6, 4), rank=2, last_activation="tanh"), Plan(2, 4, 1)).nest
    assert str(nest).splitlines()[0] == "for each s0.0 by 2:"
    assert str(nest).splitlines()[-1] == "    return X0"


@pytest.mark.parametrize("plan", FEW_PLANS, ids=str)
def test_what_the_user_hands_in_is_not_written_to(topology: Topology, plan: Plan) -> None:
    for activation in ("tanh", "gelu", "identity"):
        generator = topology(activation)(SHAPE)
        cores = generic_cores(generator)
        weight_bar = random_array(generator.shape)
        copies = {name: core.copy() for name, core in cores.items()}, weight_bar.copy()
        for array in (*cores.values(), weight_bar):
            array.flags.writeable = False
        tiles = cut(generator, plan)
        assembled(tiles, cores, weight_bar)
        pulled_back(tiles, cores, weight_bar, needs_tile=True)
        assert all(np.array_equal(cores[name], copies[0][name]) for name in cores)
        assert np.array_equal(weight_bar, copies[1])


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(1, 3)), max_size=60))
def test_a_buffer_in_use_is_not_handed_out_again(moves: list[tuple[bool, int, int]]) -> None:
    pool = Pool(np.zeros(1))
    taken: list[Any] = []
    for take, place, size in moves:
        if take or not taken:
            array = pool.take(size)
            assert array.shape == (size,)
            assert not any(np.shares_memory(array, other) for other in taken)
            taken.append(array)
        else:
            given_back = taken.pop(place % len(taken))
            pool.give(given_back)
            pool.give(given_back)  # a second time: it is nobody's then


@given(st.integers(1, 4), st.integers(1, 4))
def test_the_arrays_of_others_are_left_alone(size: int, other: int) -> None:
    pool = Pool(np.zeros(1))
    own = np.zeros(other)
    pool.give(own)
    assert pool.take(size) is not own


def test_buffers_are_few_however_many_tiles_there_are(topology: Topology, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh: list[int] = []

    class Counted(Pool):
        def take(self, size: int) -> Any:
            if not self._free.get(size):
                fresh.append(size)
            return super().take(size)

    monkeypatch.setattr("adntn.program.tiles.Pool", Counted)
    for activation in ("tanh", "gelu", "identity"):
        generator = topology(activation)(SHAPE)
        cores = generic_cores(generator)
        for plan in FEW_PLANS:
            nest = cut(generator, plan).nest
            bar = random_array((nest.tile.size,))
            counts = []
            for rows in (1, SHAPE[0]):  # the first tile, all tiles
                fresh.clear()
                tiles = Tiles(nest, cores, namespace("numpy", False), rows)
                for _ in tiles.generate():
                    pass
                for needs_tile in (False, True):
                    tiles.pull_back(lambda row, tile, bar=bar: bar.copy(), needs_tile)
                counts.append(sorted(fresh))
            assert counts[0] == counts[1]
