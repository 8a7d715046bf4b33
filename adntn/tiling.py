"""A weight in tiles of rows: what `program.nest` makes of a network, with the way from tiles to rows of the weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from adntn.arrays import Array, as_dtype, dtype_name, namespace_of, padded
from adntn.network import Network
from adntn.program.ir import Program
from adntn.program.lower import GROUP_INPUT, Sweep, lower, row_legs
from adntn.program.nest import Loop, Nest, loops_of, nest
from adntn.program.path import Paths
from adntn.program.tangent import tangent
from adntn.program.tiles import Tiles
from adntn.shapes import Assembly


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

    Attributes:
        network: what is generated.
        nest: the program with its loops.
        assembly: from a tile's legs to rows of the weight.
    """

    network: Network
    nest: Nest
    assembly: Assembly

    @property
    def lead(self) -> int:
        """Number of batch axes in front of the rows, 0 or 1."""
        return self.assembly.lead

    def rows(self, first: int) -> slice:
        """Return the rows of the tile that begins with the given one."""
        return slice(first, min(first + self.nest.tile_rows, self.network.layout.shape[0]))

    def generate(self, cores: Mapping[str, Array], out: Array | None = None) -> Iterator[tuple[slice, Array]]:
        """Yield the rows and the tile, for each tile; in the order of the loops, not of the rows.

        A tile is valid until the next one is asked for: it lies in a buffer that is used again.

        Args:
            cores: arrays, checked, of the number type to compute in.
            out: a contiguous array of the weight's shape, that the tiles are written into.
        """
        functions = namespace_of(cores.values())
        target = out if self._is_direct else None

        def destination(first: int) -> Any:
            rows = self.rows(first)
            return target[rows] if target is not None and self._is_whole(rows) else None

        for first, tile in Tiles(self.nest, cores, functions, self.network.layout.shape[0]).generate(destination):
            rows = self.rows(first)
            if target is not None and self._is_whole(rows):  # it was made where it is wanted
                yield rows, tile
                continue
            made = self._cropped(self.assembly.assemble(tile, functions), rows)
            if out is not None:
                out[self._index(rows)] = made
            yield rows, made

    def pull_back(
        self, cores: Mapping[str, Array], adjoint_of: Callable[[slice, Any], Array], needs_tile: bool = True
    ) -> dict[str, Array]:
        """Return dL/d(core) for every core.

        Args:
            cores: as for `generate`, and arrays that can be written in place.
            adjoint_of: from the rows and the tile to dL/d(tile); called once for each tile.
            needs_tile: whether it looks at the tile; else it gets None.
        """
        functions = namespace_of(cores.values())

        def in_legs(first: int, tile: Any) -> Array:
            rows = self.rows(first)
            made = None if tile is None else self._cropped(self.assembly.assemble(tile, functions), rows)
            bar = adjoint_of(rows, made)
            bar = padded(bar, self.lead, rows.stop - rows.start, self.nest.tile_rows, functions)
            return self.assembly.disassemble(bar, functions)

        return Tiles(self.nest, cores, functions, self.network.layout.shape[0]).pull_back(in_legs, needs_tile)

    def pull_back_weight(self, cores: Mapping[str, Array], weight_bar: Array) -> dict[str, Array]:
        """Return dL/d(core) for every core, given dL/dW; of W no more than a tile is made.

        Args:
            cores: as for `pull_back`.
            weight_bar: dL/dW as a whole, of any number type.
        """
        computed = dtype_name(next(iter(cores.values())))
        return self.pull_back(
            cores, lambda rows, _: as_dtype(weight_bar[self._index(rows)], computed), needs_tile=False
        )

    @property
    def _is_direct(self) -> bool:
        """Whether a tile lies as rows of the weight do, as it comes from its program."""
        layout = self.assembly.layout
        return not self.lead and self.assembly.into_weight.axes is None and layout.padded_shape == layout.shape

    def _index(self, rows: slice) -> tuple[slice, ...]:
        return (*(slice(None),) * self.lead, rows)

    def _is_whole(self, rows: slice) -> bool:
        """Whether the tile of these rows has no others, beyond the weight."""
        return rows == slice(rows.start, rows.start + self.nest.tile_rows)

    def _cropped(self, tile: Array, rows: slice) -> Array:
        return tile if self._is_whole(rows) else tile[(*self._index(slice(0, rows.stop - rows.start)), ...)]


@lru_cache(maxsize=256)
def tiling(network: Network, paths: Paths, plan: Plan) -> Tiling:
    """Return a network's weight in tiles."""
    loops = loops_of(row_legs(network), plan.tile_rows)
    return _tiling(network, lower(network, paths, Sweep(len(loops), plan.group_input)), loops, plan)


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
    return _tiling(network, tangent(program, moving, count).alone, loops, plan)


def _tiling(network: Network, program: Program, loops: tuple[Loop, ...], plan: Plan) -> Tiling:
    rows = row_legs(network)
    made = nest(program, rows, loops, plan.whole_size)
    steps = {loop.leg: loop.step for loop in loops}
    layout = network.layout.tile([steps.get(leg, leg.size) for leg in rows])
    labels = [leg.label for leg in network.levels[-1].output]
    lead, legs = made.tile.legs[: -len(labels)], made.tile.legs[-len(labels) :]
    batch = math.prod(leg.size for leg in lead) if lead else None
    return Tiling(network, made, layout.assembly([labels.index(leg.label) for leg in legs], batch))
