"""A weight in tiles of rows under JAX: scans over the loops of a nest, as `program.tiles` runs it where arrays change.

What is kept for the backward pass are the cores and x. It makes each tile again, and takes the library's adjoint of the
stage that made it; the scans, their accumulators and what becomes of a tile are differentiated by JAX. So a layer that
is mapped over a batch still has one tile for all examples, forward and backward.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy

from adntn import Generator
from adntn.arrays import SHORT_DTYPES, Namespace, namespace_of, transposition
from adntn.network import SCALE
from adntn.program.adjoint import Adjoint
from adntn.program.ir import Tensor
from adntn.program.lower import row_legs
from adntn.program.nest import Read
from adntn.program.run import run
from adntn.tiling import Plan, Tiling, tiling

Arrays = Mapping[str, jax.Array]
#: From a tile of rows of the weight, and x, to these rows of the output.
Product = Callable[[jax.Array, Any], jax.Array]

#: About how many numbers a tile has where nobody says: few enough for a processor's cache, enough to be worth a step.
TILE_SIZE = 2**18


def tiled(generator: Generator, tile_rows: int | None = None) -> Tiling:
    """Return a generator's weight in tiles.

    >>> import adntn
    >>> tiled(adntn.TTN((4096, 4096), bond=2)).nest.tile_rows
    64

    Args:
        generator: what is generated.
        tile_rows: about how many rows a tile has; None for tiles of about 2**18 numbers.
    """
    size = generator.fan_in * (generator.network.batch or 1)
    rows = max(1, TILE_SIZE // size) if tile_rows is None else tile_rows
    return tiling(generator.network, generator.paths, Plan(rows))


def weight(tiles: Tiling, cores: Arrays) -> jax.Array:
    """Return the whole weight; its gradient needs nothing but the cores, and makes the tiles again.

    >>> import adntn
    >>> generator = adntn.MERA((16, 16), bond=2)
    >>> cores = generator.init(backend="jax")
    >>> bool(jnp.allclose(weight(tiled(generator, 4), cores), generator.weight(cores), atol=1e-6))
    True

    Args:
        tiles: the weight in tiles.
        cores: JAX arrays by name, checked.
    """
    return streamed(tiles, cores, None, lambda tile, _: tile, tiles.lead)


def streamed(tiles: Tiling, cores: Arrays, x: Any, product: Product, axis: int) -> jax.Array:
    """Return the output of a layer, made tile by tile: neither the weight nor its gradient ever exists.

    >>> import adntn
    >>> generator = adntn.TTN((16, 8), bond=2)
    >>> cores, x = generator.init(backend="jax"), jnp.ones((3, 8))
    >>> y = streamed(tiled(generator, 4), cores, x, lambda tile, x: x @ tile.T, axis=1)
    >>> bool(jnp.allclose(y, generator.apply(cores, x), atol=1e-6))
    True

    It may be jitted, mapped, scanned and sharded, and differentiated in reverse mode with respect to the cores and x.

    Args:
        tiles: the weight in tiles of rows.
        cores: JAX arrays by name, checked.
        x: what a tile is multiplied by: an array, or a tree of arrays.
        product: from a tile, of shape (tile rows, ...) and the cores' number type, and x to the tile's rows of the
            output; what it differentiates by has to come through x. It also gets rows beyond the last one.
        axis: the axis of the output that counts the rows.
    """
    dtypes = jax.tree.map(lambda array: array.dtype, x)

    # 16-bit gradients with respect to x are added up over the tiles in float32
    def rounded(tile: jax.Array, wide: Any) -> jax.Array:
        return product(tile, jax.tree.map(lambda array, dtype: array.astype(dtype), wide, dtypes))

    def made(cores: Arrays, wide: Any) -> jax.Array:
        computed = {name: _wide(core) for name, core in cores.items()}
        functions = namespace_of(computed.values())
        scan = _Scan(tiles, partial(rounded, wide=wide), cores[SCALE].dtype, functions)
        return _in_row_order(scan.outputs(computed), tiles, axis)

    # the head's results are made again as well
    output: jax.Array = jax.checkpoint(made)(dict(cores), jax.tree.map(_wide, x))
    return output


def _wide(array: jax.Array) -> jax.Array:
    return array.astype("float32") if array.dtype.name in SHORT_DTYPES else array


def _in_row_order(stacked: jax.Array, tiles: Tiling, axis: int) -> jax.Array:
    """Return the output of its tiles, which the scans have stacked in the order of their loops.

    Args:
        stacked: shape (iterations of the first stage, of the second ..., *those of a tile of the output).
        tiles: the weight in tiles.
        axis: the output's axis of rows.
    """
    stages = tiles.nest.stages
    loops = [loop for stage in stages for loop in stage.loops]
    counts = [loop.count for loop in loops]
    before, (rows, *after) = stacked.shape[len(stages) :][:axis], stacked.shape[len(stages) + axis :]
    order = row_legs(tiles.network)
    goes_to = [(1, order.index(loop.leg)) for loop in loops]
    goes_to += [(0, place) for place in range(axis)] + [(2, place) for place in range(1 + len(after))]
    ranks = [sorted(goes_to).index(place) for place in goes_to]
    joined = transposition([*counts, *before, rows, *after], ranks, (*before, math.prod(counts) * rows, *after))
    output: jax.Array = joined(stacked, namespace_of([stacked]))
    return jax.lax.slice_in_dim(output, 0, tiles.network.layout.shape[0], axis=axis)


@dataclass(frozen=True)
class _Scan:
    """The loops over the tiles.

    Attributes:
        tiles: the weight in tiles.
        of_tile: from a tile to its rows of the output.
        dtype: the tiles' number type.
        functions: JAX's, for the number type to compute in.
    """

    tiles: Tiling
    of_tile: Callable[[jax.Array], jax.Array]
    dtype: Any
    functions: Namespace

    def outputs(self, cores: Arrays) -> jax.Array:
        """Return the output's tiles, stacked in the order of the loops."""
        nest = self.tiles.nest
        known = {**cores, **_named(nest.head_adjoint, nest.head.outputs, cores)}
        whole, pieces = {}, {}
        for read in nest.reads:
            if read.cut is None:
                whole[read.tensor.name] = known[read.source.name]
            else:
                pieces[read.tensor.name] = read.cut(known[read.source.name], self.functions)
        return self._stage(0, whole, pieces)

    def _stage(self, depth: int, made: Arrays, pieces: Arrays) -> jax.Array:
        """Return the output's tiles from a stage and those inside it.

        Args:
            depth: the stage's number.
            made: what was read whole, and what the loops around this one made.
            pieces: of what is cut, those that are left.
        """
        nest = self.tiles.nest
        stage = nest.stages[depth]
        parts = {
            read.tensor.name: _parts(read, depth, pieces[read.tensor.name])
            for read in nest.reads
            if read.cut is not None
        }

        def iteration(_: None, scanned: dict[str, Any]) -> tuple[None, jax.Array]:
            left = {name: pick(scanned[name]) for name, (_, pick) in parts.items()}
            first = {name: part[0] for name, part in left.items()}  # the only one, once every loop is entered
            results = _named(stage.adjoint, stage.program.outputs, {**made, **first})
            if depth < len(nest.stages) - 1:
                return None, self._stage(depth + 1, {**made, **results}, left)
            tile = self.tiles.assembly.assemble(results[nest.tile.name], self.functions)
            return None, self.of_tile(tile.astype(self.dtype))

        # inside of a scan the compiler cannot merge what is made again with what was made before
        again = jax.checkpoint(iteration, prevent_cse=False)
        _, outputs = jax.lax.scan(again, None, {name: part for name, (part, _) in parts.items()}, length=stage.count)
        stacked: jax.Array = outputs
        return stacked


def _parts(read: Read, depth: int, pieces: jax.Array) -> tuple[Any, Callable[[Any], jax.Array]]:
    """Return what a stage scans of the pieces that are left, and the way from that to what one iteration leaves.

    Pieces in the order of the iterations are scanned themselves: the adjoint then writes each piece once, where that of
    an index adds an array of all pieces in each iteration.
    """
    inside = 1 + sum(max(places) for places in read.places[depth + 1 :])
    order = [place // inside for place in read.places[depth]]
    parts = pieces.reshape(-1, inside, pieces.shape[-1])
    if len(parts) == 1:
        return None, lambda _: parts[0]
    if order == list(range(len(parts))):
        return parts, lambda part: part
    return numpy.asarray(order), lambda number: parts[number]


def _named(adjoint: Adjoint, outputs: tuple[Tensor, ...], arrays: Arrays) -> dict[str, jax.Array]:
    """Return a program's outputs by name, differentiable by its adjoint."""
    if not outputs:
        return {}
    results = _run(adjoint, {tensor.name: arrays[tensor.name] for tensor in adjoint.reached})
    return {tensor.name: result for tensor, result in zip(outputs, results, strict=True)}


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(adjoint: Adjoint, arrays: Arrays) -> tuple[jax.Array, ...]:
    return _forward(adjoint, arrays)[0]


def _forward(adjoint: Adjoint, arrays: Arrays) -> tuple[tuple[jax.Array, ...], tuple[tuple[jax.Array, ...], Arrays]]:
    results = run(adjoint.forward, arrays, namespace_of(arrays.values()))
    count = len(adjoint.seeds)
    return results[:count], (results[count:], arrays)


def _backward(
    adjoint: Adjoint, kept: tuple[tuple[jax.Array, ...], Arrays], bars: tuple[jax.Array, ...]
) -> tuple[dict[str, jax.Array]]:
    """Return the adjoints of the arrays: the library's, which for complex numbers are the conjugates of JAX's."""
    residuals, arrays = kept
    given = {tensor.name: array for tensor, array in zip(adjoint.residuals, residuals, strict=True)}
    given |= {tensor.name: jnp.conj(bar) for tensor, bar in zip(adjoint.seeds, bars, strict=True)}
    gradients = run(adjoint.backward, {**arrays, **given}, namespace_of(arrays.values()))
    return (
        {
            tensor.name: jnp.conj(gradient).reshape(arrays[tensor.name].shape)
            for tensor, gradient in zip(adjoint.reached, gradients, strict=True)
        },
    )


_run.defvjp(_forward, _backward)
