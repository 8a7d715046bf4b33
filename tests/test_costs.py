"""Costs of tiles are exact: operations and calls are those that the library does, and memory is not exceeded."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers import OBJECTS, measured
from matrix import ONLY_THAT_SHAPE, SHAPE, TOPOLOGIES

import adntn
from adntn.arrays import Namespace, namespace
from adntn.program.cost import Cost, nest_adjoint_cost, nest_cost
from adntn.program.held import WORKSPACE
from adntn.program.ir import Contract, Program
from adntn.program.tiles import Tiles
from adntn.tiling import Plan, tiling

Topology = Callable[[str], adntn.Options]

#: How far above what is measured a prediction of memory may be; most of it is room for pointwise functions.
LOOSE = 1.6
PLANS = [Plan(1, 4, 64), Plan(3, 16, 1), Plan(4, 4, 1)]


class Counting:
    """NumPy's functions, which count the operations and the calls that they are asked for."""

    def __init__(self) -> None:
        self.operations = self.products = self.maps = 0

    @property
    def functions(self) -> Namespace:
        return replace(namespace("numpy", False), matmul=self.matmul, multiply=self.multiply, tanh=self.tanh)

    def matmul(self, left: Any, right: Any, out: Any = None) -> Any:
        result = np.matmul(left, right, out=out)
        summed = left.shape[-1]
        self.products += 1
        self.operations += (2 * summed if summed > 1 else 1) * result.size
        return result

    def multiply(self, left: Any, right: Any, out: Any) -> Any:
        self.products += 1
        self.operations += out.size
        return np.multiply(left, right, out=out)

    def tanh(self, array: Any, out: Any = None) -> Any:
        self.maps += 1
        self.operations += array.size
        return np.tanh(array, out=out)


def tiles_of(generator: adntn.Generator, plan: Plan, functions: Namespace) -> Tiles:
    made = tiling(generator.network, generator.paths, plan)
    return Tiles(made.nest, generator.init(dtype="float32"), functions, math.prod(made.network.layout.padded_shape))


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_operations_and_calls_are_those_that_the_library_is_asked_for(topology: Topology, plan: Plan) -> None:
    generator = topology("tanh")((16, 12))
    counting = Counting()
    tiles = tiles_of(generator, plan, counting.functions)
    for _ in tiles.generate():
        pass
    predicted = nest_cost(tiles.nest)
    assert predicted.calls == counting.products + counting.maps
    assert predicted.operations == counting.operations


@pytest.mark.parametrize("plan", PLANS, ids=str)
@pytest.mark.parametrize("needs_tile", [False, True])
def test_adjoints_ask_for_the_products_that_are_predicted(topology: Topology, plan: Plan, needs_tile: bool) -> None:
    counting = Counting()
    tiles = tiles_of(topology("tanh")(SHAPE), plan, replace(namespace("numpy", False), matmul=counting.matmul))
    nest = tiles.nest
    tiles.pull_back(lambda row, tile: np.ones(nest.tile.size, "float32"), needs_tile)
    others, runs = pointwise(nest.head_adjoint.forward) + pointwise(nest.head_adjoint.backward), 1
    for number, stage in enumerate(nest.stages):
        runs *= stage.count
        seen = needs_tile or number < len(nest.stages) - 1
        forward = stage.adjoint.forward if seen else stage.residuals
        added = sum(tensor.size for tensor in stage.adjoint.reached)
        others += runs * (pointwise(forward) + pointwise(stage.adjoint.backward) + added)
    assert nest_adjoint_cost(nest, 4, needs_tile).operations == counting.operations + others


def pointwise(program: Program) -> int:
    """Operations of the steps that are no products of matrices."""
    return sum(step.out.size for step in program.steps if not isinstance(step, Contract) or step.form.kind == "scalar")


LARGE = [name for name in TOPOLOGIES if name not in ONLY_THAT_SHAPE and "batch" not in name]


@pytest.mark.parametrize("activation", ["tanh", "gelu"])
@pytest.mark.parametrize("name", LARGE)
def test_no_more_memory_is_held_than_predicted_and_not_much_less(name: str, activation: str) -> None:
    generator = TOPOLOGIES[name](activation)((1024, 1024))
    for plan in (Plan(32, 16), Plan(5, 4, 1)):
        tiles = tiles_of(generator, plan, namespace("numpy", False))
        nest = tiles.nest
        bar = np.ones(nest.tile.size, "float32")
        runs: list[tuple[Callable[[], Any], Cost]] = [
            (lambda tiles=tiles: deque(tiles.generate(), maxlen=0), nest_cost(nest)),  # type: ignore[misc]
            (
                lambda tiles=tiles, bar=bar: tiles.pull_back(lambda row, tile: bar.copy(), needs_tile=True),  # type: ignore[misc]
                nest_adjoint_cost(nest),
            ),
        ]
        inputs = sum(tensor.size for tensor in nest.head.inputs) * 4
        for function, predicted in runs:
            most = measured(function)
            assert most < predicted.peak_bytes - inputs + OBJECTS
            assert predicted.peak_bytes - inputs < LOOSE * most


def test_pointwise_functions_hold_no_more_than_is_reserved_for_them(activation: str) -> None:
    one, functions = adntn.ACTIVATIONS[activation], namespace("numpy", False)
    array = np.linspace(-3, 3, 100_000)
    for function in (lambda: one.function(functions, array), lambda: array * one.derivative(functions, array)):
        assert measured(function) < (1 + WORKSPACE) * array.nbytes
