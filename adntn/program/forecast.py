"""What each schedule would take for a task, by the roofline of a machine: seconds, and bytes held.

Predictions need not be right in seconds, only in their order; `adntn calibrate` makes them better.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial

from adntn.machine import Machine
from adntn.materialising import slab_tiles
from adntn.network import Network
from adntn.program.adjoint import adjoint
from adntn.program.contract import FEW_ROWS, LARGEST, halves, slab_rows, why_not_contract
from adntn.program.cost import cost, nest_adjoint_cost, nest_cost
from adntn.program.ir import Pointwise
from adntn.program.lower import lower
from adntn.program.nest import Nest
from adntn.program.path import Paths
from adntn.program.seconds import nest_adjoint_seconds, nest_seconds, program_seconds, transposing_seconds
from adntn.program.task import DenseForecast, Forecast, ScheduleName, Task
from adntn.tiling import Plan, Tiling, tiling
from adntn.transposing import Transposition

#: A product with a tile of m rows takes 1 + EDGE / m times what its operations take at best.
EDGE = 16
#: How much longer the steps of a compiled loop take: XLA runs those of `jax.lax.scan` one after another, on one thread.
COMPILED_LOOP = 2.0
#: Inputs of groups of cores, and sizes of tiles as shares of what fits into the cache, that are tried.
GROUP_INPUTS = (8, 16, 32, 64)
TILE_SHARES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
#: Tiles of so many to a weight are tried too: those of a small weight hold less than what fits into the cache.
TILES = 64
#: How much longer than by the roofline contracting x takes: many steps with small matrices, in turned orders.
CONTRACTED = 1.7
#: How much more XLA's buffers were seen to take than the steps of a tile.
COMPILED_WORK = 1.15
#: So many numbers of its input a convolution in tiles reads at a time, or four tiles if that is more.
PART = 2**19
#: Seconds that convolving a part of the input with a tile takes beyond its operations: it is laid out anew.
PART_SECONDS = 1e-3


def part_numbers(tile: int) -> int:
    """Return how many numbers of its input a convolution reads at a time, with tiles of so many numbers."""
    return max(4 * tile, PART)


def may_contract(network: Network) -> bool:
    """Return whether contracting may cost less than the dense product, so that a search for a path is worth its time.

    With an activation before the last level, the product of the state and x over a core with row, column and bond legs
    costs no less than the dense one; where each core of the last level makes rows or columns only, it does.
    """
    if why_not_contract(network):
        return False
    if all(level.activation.is_identity for level in network.levels):
        return True
    dimension = {
        leg: dimension for (dimension, _), leg in zip(network.layout.order, network.levels[-1].output, strict=True)
    }
    return all(len({dimension[leg] for leg in node.legs if leg in dimension}) <= 1 for node in network.levels[-1].nodes)


@lru_cache(maxsize=4096)
def forecasts(task: Task, machine: Machine) -> tuple[Forecast, ...]:
    """Return what every schedule would take, with every plan."""
    forecasts = []
    for plan in plans(task.network, machine, task.itemsize):
        tiled = _Tiled(task, machine, plan)
        made = tiled.materialise()
        if not task.compiled:
            forecasts.append(made)
        forecasts.append(tiled.recompute(made))
        if task.streams:
            forecasts.append(tiled.stream())
    if task.compiled:
        forecasts.append(_in_one_piece(task, machine))
    best = min(one.seconds for one in forecasts)
    if task.contracts and (may_contract(task.network) or _contracting_may_pay(task, machine, best)):
        forecasts.append(contracted_forecast(task, machine))
    return tuple(forecasts)


def _contracting_may_pay(task: Task, machine: Machine, best: float) -> bool:
    """Return whether a search for a path is worth its time where contracting takes no less than the dense products do.

    What it can save is making the weight, which counts where x has few rows. Compilers need minutes for all the steps.
    """
    if task.compiled or why_not_contract(task.network):
        return False
    return CONTRACTED * dense_forecast(task, machine).seconds < best


def dense_forecast(task: Task, machine: Machine) -> DenseForecast:
    """Return what a layer takes whose weight is stored: in training, products of W, of dW and of dx."""
    return DenseForecast((3 if task.training else 1) * _product_seconds(task, machine, 1), task.dense_bytes)


def plans(network: Network, machine: Machine, itemsize: int) -> Iterator[Plan]:
    """Yield the plans that are worth trying: tiles around the size of the cache, groups small and large."""
    row = network.layout.padded_shape[1:]
    columns = math.prod(row) * (network.batch or 1)
    seen = set()
    fitting = [int(share * machine.cache_bytes / itemsize / columns) for share in TILE_SHARES]
    for rows in (max(1, rows) for rows in (*fitting, network.layout.shape[0] // TILES)):
        for group_input in GROUP_INPUTS:
            plan = Plan(min(rows, network.layout.shape[0]), group_input)
            if plan not in seen:
                seen.add(plan)
                yield plan


@lru_cache(maxsize=1024)
def best_plan(network: Network, paths: Paths, machine: Machine, itemsize: int = 4) -> Plan:
    """Return the plan that makes a weight and pulls its adjoint back in the least time.

    Of the plans that hold no more than a quarter of the weight beside it and its adjoint, if the best of these takes no
    more than half as long again as the best of all.
    """
    task = Task(network, paths, itemsize=itemsize)
    tried = [_Tiled(task, machine, plan) for plan in plans(network, machine, itemsize)]
    lean = [one for one in tried if one.beside_weight <= task.weight_bytes // 4]
    best = min(tried, key=_both_ways)
    best_lean = min(lean, key=_both_ways, default=best)
    return best_lean.plan if _both_ways(best_lean) <= 1.5 * _both_ways(best) else best.plan


@dataclass(frozen=True)
class _Tiled:
    """Predictions for one plan."""

    task: Task
    machine: Machine
    plan: Plan

    @cached_property
    def tiling(self) -> Tiling:
        return tiling(self.task.network, self.task.paths, self.plan)

    @property
    def nest(self) -> Nest:
        return self.tiling.nest

    @property
    def loop(self) -> float:
        return COMPILED_LOOP if self.task.compiled else 1.0

    @cached_property
    def _of_tiles(self) -> _Tiled:
        """The same for any number of rows: what tiles themselves take is worked out once for all of them."""
        return replace(self, task=replace(self.task, rows=1, training=True, keeps=False))

    @property
    def generating(self) -> float:
        return _generating(self._of_tiles)

    @property
    def scaling(self) -> float:
        """Time to multiply all tiles by a scale that comes last, or by their adjoints to have its gradient."""
        if not self.tiling.scales:
            return 0.0
        bytes_moved = 2 * self._tile * self.task.itemsize
        return self.loop * self._tiles * (self.machine.seconds(0, bytes_moved) + self.task.step)

    @property
    def making(self) -> float:
        """Time to make the weight."""
        return self.generating + self.scaling + self._moved

    def pulling_back(self, needs_tile: bool | None) -> float:
        return _pulling_back(self._of_tiles, needs_tile)

    @property
    def _moved(self) -> float:
        """Time to write the weight into memory, or to read it."""
        return self.task.weight_bytes / self.machine.bandwidth

    def _product(self, tiles: int) -> float:
        return _product_seconds(self.task, self.machine, tiles)

    @property
    def _weight_bytes(self) -> int:
        return self.task.padded_bytes if self.task.compiled else self.task.weight_bytes

    @property
    def beside_weight(self) -> int:
        """Bytes held beside the weight and its adjoint while it is made and pulled back."""
        return self._work(needs_tile=self.tiling.scales, beside=2 * self._tile)

    def _forecast(self, schedule: ScheduleName, seconds: float, peak: int) -> Forecast:
        return Forecast(schedule, seconds, peak, self.plan)

    def materialise(self) -> Forecast:
        weight, work = self._weight_bytes, self.beside_weight
        seconds = self.making + self._product(1)
        if not self.task.training:
            return self._forecast("materialise", seconds, weight + self._work(None, beside=self._tile))
        if self.task.keeps:
            together = slab_tiles(self.tiling)
            seconds += self._product(1) + self._product(max(1, self._tiles // together)) + self.pulling_back(None)
            return self._forecast("materialise", seconds, weight + work + together * self._tile * self.task.itemsize)
        seconds += 2 * self._product(1) + self._moved + self.pulling_back(self.tiling.scales) + self.scaling
        return self._forecast("materialise", seconds, 2 * weight + work)

    def recompute(self, made: Forecast) -> Forecast:
        """Return the forecast, given that of materialising."""
        if self.task.keeps:
            made = replace(self, task=replace(self.task, keeps=False)).materialise()
        again = self.making if self.task.training else 0.0
        return self._forecast("recompute", made.seconds + again, made.bytes)

    def stream(self) -> Forecast:
        tiles = self._tiles
        product = self.loop * self._product(tiles)
        passes = 2
        if self.task.is_convolution:
            product += tiles * self._parts * PART_SECONDS
            passes = 3  # its adjoint runs the convolution again
        seconds = self.generating + product
        if not self.task.training:
            beside = self._tile + self._copied + self._share
            return self._forecast("stream", seconds, self._work(None, beside=beside))
        seconds += passes * product + self.pulling_back(needs_tile=True)
        # the tile as rows, its adjoint as rows and in legs, what it adds to dL/dx or to y
        beside = 3 * self._tile + max(self._tile, self._share)
        return self._forecast("stream", seconds, self._work(needs_tile=True, beside=beside))

    def turning(self, order: Transposition) -> float:
        """Return the time to bring all tiles from one order into the other."""
        numbers = self._tiles * self._tile if order.copies else 0
        return transposing_seconds(numbers, self.machine, self.task.itemsize)

    @property
    def _tiles(self) -> int:
        """Number of tiles."""
        return math.prod(stage.count for stage in self.nest.stages)

    @property
    def _tile(self) -> int:
        """Numbers of a tile."""
        return self.nest.tile.size

    @property
    def _copied(self) -> int:
        """Numbers of the tiles that x is multiplied with where they are copied: scaled, or rounded to 16 bits."""
        rounded = self.task.itemsize < self.computed_itemsize
        scaled = self.tiling.scales and (rounded or self.task.is_convolution)
        return (scaled + rounded) * self._tile

    @property
    def _share(self) -> int:
        """Numbers of y that come from one tile, and from a part of the input."""
        return -(-self.task.rows // self._parts) * self.nest.tile_rows * (self.task.network.batch or 1)

    @property
    def _parts(self) -> int:
        """In how many parts the input is read: more than one for convolutions only."""
        if not self.task.is_convolution or self.task.compiled:
            return 1
        return max(1, self.task.rows * self.task.network.layout.shape[1] // part_numbers(self._tile))

    def _work(self, needs_tile: bool | None, beside: int) -> int:
        """Bytes held while tiles are made or, if `needs_tile` is no None, pulled back; without the cores.

        Args:
            needs_tile: whether the adjoints of tiles are made from the tiles.
            beside: numbers that are held besides, by whom the tiles are for.
        """
        work = _held(self._of_tiles, needs_tile) + beside * self.computed_itemsize
        return int(COMPILED_WORK * work) if self.task.compiled else work

    @property
    def computed_itemsize(self) -> int:
        return max(self.task.itemsize, 4)  # 16-bit numbers are computed in float32


def _both_ways(tiled: _Tiled) -> float:
    """Return the time to make a weight and to pull its adjoint back."""
    return tiled.generating + tiled.pulling_back(tiled.tiling.scales)


@lru_cache(maxsize=4096)
def _generating(tiled: _Tiled) -> float:
    """Return the time to make all tiles, as rows of the weight."""
    made = nest_seconds(tiled.nest, tiled.machine, tiled.task.itemsize, tiled.task.step)
    return tiled.loop * (made + tiled.turning(tiled.tiling.assembly.into_weight))


@lru_cache(maxsize=4096)
def _pulling_back(tiled: _Tiled, needs_tile: bool | None) -> float:
    """Return the time to make all tiles again, unless `needs_tile` is None, and pull their adjoints back."""
    task, assembly = tiled.task, tiled.tiling.assembly
    turned = tiled.turning(assembly.into_legs) + (0.0 if needs_tile is False else tiled.turning(assembly.into_weight))
    pulled = nest_adjoint_seconds(tiled.nest, tiled.machine, task.itemsize, needs_tile, task.step)
    return tiled.loop * (pulled + turned)


@lru_cache(maxsize=4096)
def _held(tiled: _Tiled, needs_tile: bool | None) -> int:
    """Return the bytes held for tiles, or also for their adjoints if `needs_tile` is no None; without the cores."""
    nest, itemsize = tiled.nest, tiled.computed_itemsize
    one = nest_cost(nest, itemsize)
    if needs_tile is not None:
        one = one + nest_adjoint_cost(nest, itemsize, needs_tile)
    return one.peak_bytes - sum(tensor.size for tensor in nest.head.inputs) * itemsize


def _product_seconds(task: Task, machine: Machine, tiles: int) -> float:
    """Return the time of one product of the weight, or of its tiles, with all rows."""
    edges = 1 + EDGE * tiles / task.out_features
    operations = 2 * task.rows * task.out_features * task.in_features * edges / tiles
    vectors = task.rows * (task.in_features * tiles + task.out_features) * task.itemsize
    moved = (vectors + task.weight_bytes) / tiles
    return (machine.seconds(operations, moved) + task.step) * tiles


def _in_one_piece(task: Task, machine: Machine) -> Forecast:
    """Return what it takes to make the weight in one piece, and to pull its adjoint back with what has been kept."""
    whole, itemsize = adjoint(lower(task.network, task.paths)), task.itemsize
    steps = whole.forward.steps
    plan = Plan(task.network.layout.shape[0])
    cores = sum(tensor.size for tensor in whole.forward.inputs) * itemsize
    making, pulling = (
        program_seconds(program, machine, itemsize, task.step) for program in (whole.forward, whole.backward)
    )
    seconds = making + _product_seconds(task, machine, 1)
    if not task.training:
        peak = cost(lower(task.network, task.paths), itemsize).peak_bytes
        return Forecast("materialise", seconds, peak - cores, plan)
    seconds += 2 * _product_seconds(task, machine, 1) + pulling
    # the weight and dL/dW are held together, and a buffer more where something stands on the weight: as XLA was seen to
    beside = 1 + any(isinstance(step, Pointwise) and step.out.size * itemsize >= task.padded_bytes for step in steps)
    peak = max(cost(program, itemsize).peak_bytes for program in (whole.forward, whole.backward))
    return Forecast("materialise", seconds, peak + beside * task.padded_bytes - cores, plan)


def contracted_forecast(task: Task, machine: Machine) -> Forecast:
    """Return what it takes to contract x with the cores, slab by slab."""
    network, paths, itemsize = task.network, task.paths, task.itemsize
    rows = max(task.rows, 1)
    slab = slab_rows(network, rows, LARGEST, paths)
    slabs = -(-rows // slab)
    plan = halves(network, slab, paths, max(slab, FEW_ROWS) if task.compiled else slab)
    vectors = task.out_features + (task.in_features * (network.batch or 1) if task.training else 0)
    # slabs are put together at the end; made again, if there are many, instead of kept
    joined = rows * vectors * itemsize if slabs > 1 else 0
    own = (plan.x.size + plan.tail.outputs[0].size) * itemsize
    seconds_of = partial(program_seconds, machine=machine, itemsize=itemsize, step=task.step)
    seconds = seconds_of(plan.head) + slabs * seconds_of(plan.tail)
    peak = cost(plan.tail, itemsize).peak_bytes - own
    if task.training:
        head, tail = plan.head_adjoint, plan.tail_adjoint
        seconds += seconds_of(head.forward) + seconds_of(head.backward)
        seconds += slabs * seconds_of(tail.backward)
        if slabs > 1:
            seconds += slabs * seconds_of(tail.forward)
        peak = max(peak, *(cost(program, itemsize).peak_bytes - own for program in (tail.forward, tail.backward)))
        if task.compiled:  # what the head's adjoint needs is kept meanwhile
            peak = int(COMPILED_WORK * (peak + sum(tensor.size for tensor in plan.head_adjoint.residuals) * itemsize))
    return Forecast("contract", CONTRACTED * seconds, peak + joined, Plan(1))
