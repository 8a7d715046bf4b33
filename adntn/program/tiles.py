"""Running a nest: the tiles, on arrays of any library; and, on arrays that can be written in place, the adjoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from adntn.arrays import Array, Namespace, can_be_written, clear, zeros_in_rows
from adntn.program.ir import Program
from adntn.program.nest import Nest, Stage
from adntn.program.pool import Pool
from adntn.program.run import run, run_in_place

#: Views of so many pieces of a tensor are kept.
FEW = 64
#: From the number of a tile's first row and the tile to the adjoint of the tile; None for tiles that nobody needs.
TileAdjoint = Callable[[int, Any], Array]
#: From the number of a tile's first row to the tile, which was made before.
Made = Callable[[int], Array]
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
        nest, (functions, pool) = self.nest, self._working()
        made = self.run(nest.head, self.arrays, functions, pool)
        pieces = _pieces(nest, _named(nest.head, made, self.arrays), functions)
        walk = _Walk(self, functions, pool, _apart(nest, pieces, pool))
        yield from walk.tiles(_Place(0, 0, (0,) * len(nest.reads)), {}, destination)

    def run(
        self,
        program: Program,
        arrays: Mapping[str, Array],
        functions: Namespace,
        pool: Pool,
        into: Mapping[str, Array] | None = None,
    ) -> tuple[Array, ...]:
        """Return a program's outputs, in buffers of the pool where the library's arrays can be written in place."""
        if can_be_written(pool.like):
            return run_in_place(program, arrays, functions, pool, into=into)
        return run(program, arrays, functions)

    def pull_back(
        self, adjoint_of: TileAdjoint, needs_tile: bool = True, made_before: Made | None = None
    ) -> dict[str, Array]:
        """Return the adjoints of the program's inputs, which can be written in place, given those of the tiles.

        Args:
            adjoint_of: called once for each tile; what it returns is not written to.
            needs_tile: whether it looks at the tile; else it gets None, and no tile is made that nobody needs.
            made_before: the tiles, where they are known; none is made then.
        """
        nest, head, (functions, pool) = self.nest, self.nest.head_adjoint, self._working()
        made = run_in_place(head.forward, self.arrays, functions, pool)
        known = _named(nest.head, made, self.arrays)
        pieces = _pieces(nest, known, functions)
        totals = {name: zeros_in_rows(array) for name, array in pieces.items()}
        walk = _Walk(self, functions, pool, _apart(nest, pieces, pool))
        sums = _apart(nest, totals, pool)
        walk.pull_back(_Place(0, 0, (0,) * len(nest.reads)), {}, sums, _Asked(adjoint_of, needs_tile, made_before))
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

    def _working(self) -> tuple[Namespace, Pool]:
        """Return the library's functions with a pool of buffers, whose views are used again."""
        pool = Pool(next(iter(self.arrays.values())))
        return replace(self.functions, reshape=pool.reshape), pool


def _collect(bars: dict[str, Array], name: str, share: Array) -> None:
    bars[name] = bars[name] + share if name in bars else share


@dataclass(frozen=True)
class _Asked:
    """Where the adjoints of tiles come from."""

    adjoint_of: TileAdjoint
    needs_tile: bool
    made_before: Made | None


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


class _Pieces(Protocol):
    """The pieces of a tensor, by number."""

    def __getitem__(self, number: int) -> Array: ...


@dataclass(frozen=True)
class _Cut:
    """Many pieces, each of which is looked up when it is needed: views are Python objects, which take room, too."""

    array: Array

    def __getitem__(self, number: int) -> Array:
        return self.array[number, ...]


def _apart(nest: Nest, pieces: Mapping[str, Array], pool: Pool) -> dict[str, _Pieces]:
    """Return pieces one by one; what is not cut is one piece. Few pieces are read often: their views are kept."""
    cut = nest.numbers_of_cut
    apart: dict[str, _Pieces] = {}
    for name, array in pieces.items():
        if name not in cut:
            apart[name] = (pool.keep(array),)
        elif array.shape[0] <= FEW:
            apart[name] = [pool.keep(array[number, ...]) for number in range(array.shape[0])]
        else:
            apart[name] = _Cut(array)
    return apart


@dataclass(frozen=True)
class _Walk:
    """The loops over given pieces.

    Attributes:
        tiles_of: what is looped over.
        functions: of the arrays' library, with views that are used again.
        pool: of buffers.
        pieces: what the stages read, by name and number.
    """

    tiles_of: Tiles
    functions: Namespace
    pool: Pool
    pieces: Mapping[str, _Pieces]

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
        wanted = program.input_names
        inputs = {name: array for name, array in made.items() if name in wanted}
        for read, number in zip(self.tiles_of.nest.reads, place.pieces, strict=True):
            if (name := read.tensor.name) in wanted:
                inputs[name] = self.pieces[name][number]
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
            results = self.tiles_of.run(program, inputs, self.functions, self.pool, into)
            if innermost:
                yield place.row, results[0]
            else:
                yield from self.tiles(place, _named(program, results, made), destination)
            self._give(results)
            del results  # before the next ones are made

    def pull_back(
        self, outside: _Place, made: Mapping[str, Array], totals: Mapping[str, _Pieces], asked: _Asked
    ) -> None:
        """Add to the totals, in place, what the tiles of these loops contribute."""
        stage = self.tiles_of.nest.stages[outside.depth]
        for place in self._iterations(outside):
            self._pull_back_one(stage, place, made, totals, asked)

    def _pull_back_one(
        self,
        stage: Stage,
        place: _Place,
        made: Mapping[str, Array],
        totals: Mapping[str, _Pieces],
        asked: _Asked,
    ) -> None:
        """Do one iteration; all that it made is let go at its end."""
        nest, functions = self.tiles_of.nest, self.functions
        innermost = place.depth == len(nest.stages)
        inputs = self._inputs(stage.program, place, made)
        known = asked.made_before(place.row) if innermost and asked.made_before is not None else None
        if known is not None:
            forward = stage.others
        elif innermost and not asked.needs_tile:
            forward = stage.residuals
        else:
            forward = stage.adjoint.forward
        results = run_in_place(forward, inputs, functions, self.pool)
        values = _named(forward, results, {} if known is None else {nest.tile.name: known})
        outputs = tuple(values.get(tensor.name) for tensor in stage.program.outputs)
        if innermost:
            seeds: tuple[Array, ...] = (asked.adjoint_of(place.row, outputs[0] if asked.needs_tile else None),)
        else:
            seeds = tuple(self.pool.take(tensor.size) for tensor in stage.program.outputs)
            for seed in seeds:
                clear(seed)
            inside = {tensor.name: (seed,) for tensor, seed in zip(stage.program.outputs, seeds, strict=True)}
            self.pull_back(place, _named(stage.program, outputs, made), {**totals, **inside}, asked)
        given = {tensor.name: values[tensor.name] for tensor in stage.adjoint.residuals}
        given |= {tensor.name: seed for tensor, seed in zip(stage.adjoint.seeds, seeds, strict=True)}
        sums = {}
        cut = nest.numbers_of_cut
        for tensor, gradient in zip(stage.adjoint.reached, stage.adjoint.backward.outputs, strict=True):
            sums[gradient.name] = totals[tensor.name][place.pieces[cut[tensor.name]] if tensor.name in cut else 0]
        run_in_place(stage.adjoint.backward, {**inputs, **given}, functions, self.pool, totals=sums)
        self._give((*results, *seeds))
