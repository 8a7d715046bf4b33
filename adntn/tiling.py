"""A weight in tiles of rows: what `program.nest` makes of a network, with the way from tiles to rows of the weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from adntn.arrays import Array, Namespace, as_dtype, dtype_name, namespace_of
from adntn.network import SCALE, Network
from adntn.program.ir import Pointwise, Program
from adntn.program.lower import GROUP_INPUT, Sweep, lower, row_legs
from adntn.program.nest import Loop, Nest, loops_of, nest
from adntn.program.path import Paths
from adntn.program.tangent import tangent
from adntn.program.tiles import Tiles
from adntn.shapes import Assembly
from adntn.transposing import padded


@dataclass(frozen=True)
class Plan:
    """How a weight is cut into tiles.

    Attributes:
        tile_rows: about how many rows a tile has.
        group_input: neighbouring cores of the last level are multiplied out while their joint input has so many values.
        whole_size: tensors of at most so many numbers are made once and not for every tile.
    """

    tile_rows: int
    group_input: int = GROUP_INPUT
    whole_size: int = 2**16


@dataclass(frozen=True)
class Tiling:
    """A generator's weight in tiles of neighbouring rows (of its first dimension, behind the batch axis).

    Where the weight's scale comes last, behind an activation, tiles do without it (`scales`): who multiplies x by tiles
    multiplies the product instead, which is smaller.

    Attributes:
        network: what is generated.
        nest: the program with its loops.
        assembly: from a tile's legs to rows of the weight.
        scales: whether the rows of the weight are those of a tile times the scale.
    """

    network: Network
    nest: Nest
    assembly: Assembly
    scales: bool

    @property
    def lead(self) -> int:
        """Number of batch axes in front of the rows, 0 or 1."""
        return self.assembly.lead

    @cached_property
    def first_rows(self) -> tuple[int, ...]:
        """The number of each tile's first row, in the order in which tiles are made."""
        return tuple(row for row in self.nest.first_rows if row < self.network.layout.shape[0])

    def rows(self, first: int) -> slice:
        """Return the rows of the tile that begins with the given one."""
        return slice(first, min(first + self.nest.tile_rows, self.network.layout.shape[0]))

    def generate(self, cores: Mapping[str, Array]) -> Iterator[tuple[slice, Array]]:
        """Yield the rows and the tile, for each tile; in the order of the loops, not of the rows.

        A tile is valid until the next one is asked for: it lies in a buffer that is used again.

        Args:
            cores: arrays, checked, of the number type to compute in.
        """
        functions = namespace_of(cores.values())
        for first, tile in self._tiles(cores, functions).generate():
            rows = self.rows(first)
            yield rows, self._cropped(self.assembly.assemble(tile, functions), rows)

    def write(self, cores: Mapping[str, Array], out: Array, *, scaled: bool = True) -> None:
        """Write the weight into a contiguous array of its shape.

        Args:
            cores: as for `generate`.
            out: what is written to; its number type may be another one.
            scaled: whether with the scale, if that comes last, or as `generate` yields the tiles.
        """
        functions = namespace_of(cores.values())
        direct = self._is_direct and dtype_name(out) == dtype_name(cores[SCALE])

        def destination(first: int) -> Any:
            rows = self.rows(first)
            return out[rows] if direct and self._is_whole(rows) else None

        for first, tile in self._tiles(cores, functions).generate(destination):
            if self.scales and scaled:
                numbers = functions.reshape(tile, (self.network.batch or 1, -1))
                self.scaled(numbers, cores[SCALE], out=numbers)
            rows = self.rows(first)
            if not (direct and self._is_whole(rows)):  # else it was made where it is wanted
                out[self._index(rows)] = self._cropped(self.assembly.assemble(tile, functions), rows)

    def as_weight(self, tile: Array, scale: Array) -> Array:
        """Return a tile as rows of the weight: times the scale, if that comes last."""
        return self.scaled(tile, scale) if self.scales else tile

    def scaled(self, array: Array, scale: Array, out: Array | None = None) -> Array:
        """Return an array times the scale, along the batch axis if there is one; written into `out` if given."""
        factor = scale
        if self.lead:
            factor = namespace_of([array]).reshape(scale, (-1, *(1,) * (len(array.shape) - 1)))
        if out is None:
            return array * factor
        return namespace_of([array]).multiply(array, factor, out=out)

    def pull_back(
        self,
        cores: Mapping[str, Array],
        adjoint_of: Callable[[slice, Any], Array],
        needs_tile: bool = True,
        made_before: Array | None = None,
    ) -> dict[str, Array]:
        """Return dL/d(core) for every core that makes the tiles: without the scale, if that comes last.

        Args:
            cores: as for `generate`, and arrays that can be written in place.
            adjoint_of: from the rows and the tile to dL/d(tile); called once for each tile.
            needs_tile: whether it looks at the tile; else it gets None.
            made_before: the tiles, as `write` without the scale has written them; none is made then.
        """
        functions = namespace_of(cores.values())

        def known(first: int) -> Array:
            rows = self.rows(first)
            return self._in_legs(made_before[self._index(rows)], rows, functions)  # type: ignore[index]

        def in_legs(first: int, tile: Any) -> Array:
            rows = self.rows(first)
            made = None if tile is None else self._cropped(self.assembly.assemble(tile, functions), rows)
            return self._in_legs(adjoint_of(rows, made), rows, functions)

        before = None if made_before is None else known
        return self._tiles(cores, functions).pull_back(in_legs, needs_tile, before)

    def pull_back_weight(self, cores: Mapping[str, Array], weight_bar: Array) -> dict[str, Array]:
        """Return dL/d(core) for every core, given dL/dW; of W no more than a tile is made.

        Args:
            cores: as for `pull_back`.
            weight_bar: dL/dW as a whole, of any number type.
        """
        computed, scale = dtype_name(cores[SCALE]), LateScale(self, cores)

        def adjoint_of(rows: slice, tile: Array | None) -> Array:
            bar = as_dtype(weight_bar[self._index(rows)], computed)
            scale.meet(bar, tile)
            return bar

        return scale.gradients(self.pull_back(cores, adjoint_of, needs_tile=scale.is_there))

    def _tiles(self, cores: Mapping[str, Array], functions: Namespace) -> Tiles:
        return Tiles(self.nest, cores, functions, self.network.layout.shape[0])

    @property
    def _is_direct(self) -> bool:
        """Whether a tile lies as rows of the weight do, as it comes from its program."""
        layout = self.assembly.layout
        return not self.lead and self.assembly.into_weight.axes is None and layout.padded_shape == layout.shape

    def _in_legs(self, rows: Array, of: slice, functions: Namespace) -> Array:
        """Return rows of the weight as a tile's legs, with zeros where the tile has more rows."""
        whole = padded(rows, self.lead, of.stop - of.start, self.nest.tile_rows, functions)
        return self.assembly.disassemble(whole, functions)

    def _index(self, rows: slice) -> tuple[slice, ...]:
        return (*(slice(None),) * self.lead, rows)

    def _is_whole(self, rows: slice) -> bool:
        """Whether the tile of these rows has no others, beyond the weight."""
        return rows == slice(rows.start, rows.start + self.nest.tile_rows)

    def _cropped(self, tile: Array, rows: slice) -> Array:
        return tile if self._is_whole(rows) else tile[(*self._index(slice(0, rows.stop - rows.start)), ...)]


class LateScale:
    """The scale of a weight where it comes last, so that tiles are made without; where it does not, nothing is done.

    Attributes:
        is_there: whether it comes last.
    """

    def __init__(self, tiling: Tiling, cores: Mapping[str, Array]) -> None:
        self.is_there = tiling.scales
        self._tiling, self._scale = tiling, cores[SCALE]
        self._functions = namespace_of(cores.values())
        self._count = tiling.network.batch or 1
        self._overlap: Array = self._functions.zeros_like(self._functions.reshape(self._scale, (self._count, 1, 1)))

    def multiply(self, array: Array, *, adjoint: bool = False) -> None:
        """Multiply an array by the scale, or by its conjugate for an adjoint, in place."""
        if self.is_there:
            factor = self._functions.conj(self._scale) if adjoint else self._scale
            self._tiling.scaled(array, factor, out=array)

    def meet(self, bar: Array, array: Array | None) -> None:
        """Add bar conj(array), summed for each weight of the batch, to the scale's gradient.

        Over all calls that is to be dL/dW times the tiles, or dL/dx without the scale times x, which is the same.
        """
        if self.is_there:
            functions = self._functions
            row, column = functions.reshape(bar, (self._count, 1, -1)), functions.reshape(array, (self._count, -1, 1))
            self._overlap = self._overlap + functions.matmul(row, functions.conj(column))

    def gradients(self, gradients: dict[str, Array]) -> dict[str, Array]:
        """Return dL/d(core) for every core, the scale too, given those from dL/dW in the place of dL/d(tile)."""
        if not self.is_there:
            return gradients
        factor = self._functions.conj(self._scale)
        scaled = {name: self._tiling.scaled(gradient, factor) for name, gradient in gradients.items()}
        return {**scaled, SCALE: self._functions.reshape(self._overlap, factor.shape)}


@lru_cache(maxsize=256)
def tiling(network: Network, paths: Paths, plan: Plan) -> Tiling:
    """Return a network's weight in tiles."""
    loops = loops_of(row_legs(network), plan.tile_rows)
    program = lower(network, paths, Sweep(len(loops), plan.group_input))
    *others, last = program.steps
    scales = bool(others) and isinstance(others[-1], Pointwise) and last.inputs[-1].name == SCALE
    if scales:
        inputs = (tensor for tensor in program.inputs if tensor.name != SCALE)
        program = Program(tuple(inputs), tuple(others), (last.inputs[0],))
    return _tiling(network, program, loops, plan, scales)


@lru_cache(maxsize=256)
def tangent_tiling(network: Network, paths: Paths, plan: Plan, moving: tuple[str, ...], count: int) -> Tiling:
    """Return the derivatives of a network's weight in tiles.

    A tile has one axis in front, of the batch's weights and of the directions of each; its rows lie behind it.

    Args:
        network: of the weight.
        paths: contraction paths of its levels.
        plan: how it is cut.
        moving: the cores that move.
        count: of directions, for each weight of a batch.
    """
    loops = loops_of(row_legs(network), plan.tile_rows)
    program = lower(network, paths, Sweep(len(loops), plan.group_input))
    return _tiling(network, tangent(program, moving, count).alone, loops, plan, scales=False)


def _tiling(network: Network, program: Program, loops: tuple[Loop, ...], plan: Plan, scales: bool) -> Tiling:
    rows = row_legs(network)
    made = nest(program, rows, loops, plan.whole_size)
    steps = {loop.leg: loop.step for loop in loops}
    layout = network.layout.tile([steps.get(leg, leg.size) for leg in rows])
    labels = [leg.label for leg in network.levels[-1].output]
    lead, legs = made.tile.legs[: -len(labels)], made.tile.legs[-len(labels) :]
    batch = math.prod(leg.size for leg in lead) if lead else None
    return Tiling(network, made, layout.assembly([labels.index(leg.label) for leg in legs], batch), scales)
