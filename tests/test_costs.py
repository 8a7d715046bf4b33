"""Costs of tiles are exact: operations and calls are those that the library is asked for, and memory is not exceeded."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from matrix import SHAPE, TOPOLOGIES

import adntn
from adntn.arrays import Namespace, namespace
from adntn.program.cost import Cost, nest_adjoint_cost, nest_cost
from adntn.program.held import WORKSPACE
from adntn.program.tiles import Tiles
from adntn.tiling import Plan, tiling

Topology = Callable[[str], adntn.Options]

#: What Python's own objects (views, tuples, dictionaries) may take besides the arrays.
OBJECTS = 2**18
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
    scalars = predicted.calls - counting.products - counting.maps
    assert scalars == 0
    assert predicted.operations == counting.operations
