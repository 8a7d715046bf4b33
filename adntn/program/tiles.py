"""Running a nest: the tiles, on arrays of any library; and, on arrays that can be written in place, the adjoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from adntn.arrays import Array, Namespace, can_be_written, clear
from adntn.program.ir import Program
from adntn.program.nest import Nest, Stage
from adntn.program.pool import Pool
from adntn.program.run import run, run_in_place

#: From the number of a tile's first row and the tile to the adjoint of the tile; None for tiles that nobody needs.
TileAdjoint = Callable[[int, Any], Array]
#: From the number of a tile's first row to the contiguous array that the tile is to be written into, or None.
Destination = Callable[[int], Any]


@dataclass(frozen=True)
class Tiles:
    """The tiles of a nest for given arrays.

    Attributes:
        nest: the program with its loops.
        arrays: the program's inputs, by name.
        functions: of the arrays' library.
        rows: how many rows of the padded weight are wanted; tiles beyond them are left out.
    """

    nest: Nest
    arrays: Mapping[str, Array]
    functions: Namespace
    rows: int

    def generate(self, destination: Destination = lambda row: None) -> Iterator[tuple[int, Array]]:
        """Yield the number of the first row and the tile, for each tile; in the order of the loops, not of the rows."""
        nest = self.nest
        pool = Pool(next(iter(self.arrays.values())))
        made = self.run(nest.head, self.arrays, pool)
        walk = _Walk(self, _pieces(nest, _named(nest.head, made, self.arrays), self.functions), pool)
        yield from walk.tiles(_Place(0, 0, (0,) * len(nest.reads)), {}, destination)

    def run(
        self, program: Program, arrays: Mapping[str, Array], pool: Pool, into: Mapping[str, Array] | None = None
    ) -> tuple[Array, ...]:
        """Return a program's outputs, in buffers of the pool where the library's arrays can be written in place."""
        if can_be_written(pool.like):
            return run_in_place(program, arrays, self.functions, pool, into=into)
        return run(program, arrays, self.functions)

    def pull_back(self, adjoint_of: TileAdjoint, needs_tile: bool = True) -> dict[str, Array]:
        """Return the adjoints of the program's inputs, which can be written in place, given those of the tiles.

        Args:
            adjoint_of: called once for each tile; what it returns is not written to.
            needs_tile: whether it looks at the tile; else it gets None, and no tile is made that nobody needs.
        """
        nest, functions, head = self.nest, self.functions, self.nest.head_adjoint
        pool = Pool(next(iter(self.arrays.values())))
        made = run_in_place(head.forward, self.arrays, functions, pool)
        known = _named(nest.head, made, self.arrays)
        pieces = _pieces(nest, known, functions)
        totals = {name: functions.zeros_like(array) for name, array in pieces.items()}
        walk = _Walk(self, pieces, pool)
        walk.pull_back(_Place(0, 0, (0,) * len(nest.reads)), {}, totals, _Asked(adjoint_of, needs_tile))
        bars: dict[str, Array] = {}
        for read in nest.reads:
            total = totals[read.tensor.name]
            total = total if read.cut is None else read.cut.join(total, functions)
            _collect(bars, read.source.name, functions.reshape(total, known[read.source.name].shape))
        given = {seed.name: bars.pop(out.name) for seed, out in zip(head.seeds, nest.head.outputs, strict=True)}
        residuals = made[len(nest.head.outputs) :]
        given |= {tensor.name: array for tensor, array in zip(head.residuals, residuals, strict=True)}
        gradients = run_in_place(head.backward, {**self.arrays, **given}, functions, pool)
        for tensor, gradient in zip(head.reached, gradients, strict=True):
            _collect(bars, tensor.name, functions.reshape(gradient, self.arrays[tensor.name].shape))
        return bars


def _collect(bars: dict[str, Array], name: str, share: Array) -> None:
    bars[name] = bars[name] + share if name in bars else share


@dataclass(frozen=True)
class _Asked:
    """Where the adjoints of tiles come from."""

    adjoint_of: TileAdjoint
    needs_tile: bool


@dataclass(frozen=True)
class _Place:
    """Where in the loops: the stage, the first row so far, and for each read the number of the piece so far."""

    depth: int
    row: int
    pieces: tuple[int, ...]


def _named(program: Program, made: tuple[Array, ...], arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {**arrays, **{tensor.name: array for tensor, array in zip(program.outputs, made, strict=False)}}


def _pieces(nest: Nest, known: Mapping[str, Array], functions: Namespace) -> dict[str, Array]:
    """Return what the stages read, cut along the looped legs."""
    return {
        read.tensor.name: known[read.source.name] if read.cut is None else read.cut(known[read.source.name], functions)
        for read in nest.reads
    }


@dataclass(frozen=True)
class _Walk:
    """The loops over given pieces."""

    tiles_of: Tiles
    pieces: Mapping[str, Array]
    pool: Pool

    def _iterations(self, place: _Place) -> Iterator[_Place]:
        nest = self.tiles_of.nest
        for iteration, first in enumerate(nest.stages[place.depth].rows):
            if place.row + first < self.tiles_of.rows:
                numbers = (
                    number if read.cut is None else number + read.places[place.depth][iteration]
                    for number, read in zip(place.pieces, nest.reads, strict=True)
                )
                yield _Place(place.depth + 1, place.row + first, tuple(numbers))

    def _inputs(self, program: Program, place: _Place, made: Mapping[str, Array]) -> dict[str, Array]:
        wanted = {tensor.name for tensor in program.inputs}
        inputs = {name: array for name, array in made.items() if name in wanted}
        for read, number in zip(self.tiles_of.nest.reads, place.pieces, strict=True):
            if (name := read.tensor.name) in wanted:
                inputs[name] = self.pieces[name] if read.cut is None else self.pieces[name][number, ...]
        return inputs

    def _give(self, arrays: Iterable[Array]) -> None:
        for array in arrays:
            self.pool.give(array)

    def tiles(
        self, outside: _Place, made: Mapping[str, Array], destination: Destination
    ) -> Iterator[tuple[int, Array]]:
        nest = self.tiles_of.nest
        program = nest.stages[outside.depth].program
        innermost = outside.depth == len(nest.stages) - 1
        for place in self._iterations(outside):
            inputs = self._inputs(program, place, made)
            wanted = destination(place.row) if innermost else None
            into = {} if wanted is None else {nest.tile.name: wanted}
            results = self.tiles_of.run(program, inputs, self.pool, into)
            if innermost:
                yield place.row, results[0]
            else:
                yield from self.tiles(place, _named(program, results, made), destination)
            self._give(results)
            del results  # before the next ones are made

    def pull_back(self, outside: _Place, made: Mapping[str, Array], totals: Mapping[str, Array], asked: _Asked) -> None:
        """Add to the totals, in place, what the tiles of these loops contribute."""
        stage = self.tiles_of.nest.stages[outside.depth]
        for place in self._iterations(outside):
            self._pull_back_one(stage, place, made, totals, asked)

    def _pull_back_one(
        self, stage: Stage, place: _Place, made: Mapping[str, Array], totals: Mapping[str, Array], asked: _Asked
    ) -> None:
        """Do one iteration; all that it made is let go at its end."""
        nest, functions = self.tiles_of.nest, self.tiles_of.functions
        innermost = place.depth == len(nest.stages)
        unseen = innermost and not asked.needs_tile
        inputs = self._inputs(stage.program, place, made)
        forward = stage.residuals if unseen else stage.adjoint.forward
        results = run_in_place(forward, inputs, functions, self.pool)
        outputs = (None,) if unseen else results[: len(stage.program.outputs)]
        if innermost:
            seeds: tuple[Array, ...] = (asked.adjoint_of(place.row, outputs[0]),)
        else:
            seeds = tuple(self.pool.take(tensor.size) for tensor in stage.program.outputs)
            for seed in seeds:
                clear(seed)
            inside = {tensor.name: seed for tensor, seed in zip(stage.program.outputs, seeds, strict=True)}
            self.pull_back(place, _named(stage.program, outputs, made), {**totals, **inside}, asked)
        residuals = results if unseen else results[len(outputs) :]
        given = {tensor.name: array for tensor, array in zip(stage.adjoint.residuals, residuals, strict=True)}
        given |= {tensor.name: seed for tensor, seed in zip(stage.adjoint.seeds, seeds, strict=True)}
        sums = {}
        cut = nest.numbers_of_cut
        for tensor, gradient in zip(stage.adjoint.reached, stage.adjoint.backward.outputs, strict=True):
            total = totals[tensor.name]
            sums[gradient.name] = total[place.pieces[cut[tensor.name]]] if tensor.name in cut else total
        run_in_place(stage.adjoint.backward, {**inputs, **given}, functions, self.pool, totals=sums)
        self._give((*results, *seeds))
