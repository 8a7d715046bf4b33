"""A weight in tiles of rows under JAX: scans over the loops of a nest, as `program.tiles` runs it where arrays change.

What is kept for the backward pass are the cores and x. It makes each tile again, and takes the library's adjoint of the
stage that made it; the scans, their accumulators and what becomes of a tile are differentiated by JAX. A derivative of
our own for all of it would be mapped over a batch as a whole, with a tile's adjoint for each example; so there is one
for all of them.
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

from adntn.arrays import SHORT_DTYPES, namespace_of
from adntn.network import SCALE
from adntn.program.adjoint import Adjoint
from adntn.program.ir import Tensor
from adntn.program.lower import row_legs
from adntn.program.nest import Nest, Read
from adntn.program.run import run
from adntn.tiling import Tiling
from adntn.transposing import transposition
from adntn_jax.again import any_number, made_again

Arrays = Mapping[str, jax.Array]
#: From a tile of rows of the weight, and x, to these rows of the output.
Product = Callable[[jax.Array, Any], jax.Array]
#: From what is carried, a tile and the number of its first row to what is carried on, and what the tile gives.
OfTile = Callable[[Any, jax.Array, jax.Array], tuple[Any, Any]]


def weight(tiles: Tiling, cores: Arrays) -> jax.Array:
    """Return the whole weight; its gradient needs nothing but the cores, and makes the tiles again.

    >>> import adntn
    >>> from adntn.tiling import Plan, tiling
    >>> generator = adntn.MERA((16, 16), bond=2)
    >>> cores = generator.init(backend="jax")
    >>> tiles = tiling(generator.network, (), Plan(4))
    >>> bool(jnp.allclose(weight(tiles, cores), generator.weight(cores), atol=1e-6))
    True

    Args:
        tiles: the weight in tiles.
        cores: JAX arrays by name, checked.
    """
    return _weight(tiles, dict(cores))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _weight(tiles: Tiling, cores: Arrays) -> jax.Array:
    batch, (rows, *columns) = tiles.network.batch, tiles.network.layout.shape
    lead = () if batch is None else (batch,)
    padded = jnp.broadcast_to(any_number(cores), (*lead, _padded_rows(tiles), *columns))  # all will be overwritten

    def write(padded: jax.Array, tile: jax.Array, row: jax.Array) -> tuple[jax.Array, None]:
        return jax.lax.dynamic_update_slice_in_dim(padded, tile, row, tiles.lead), None

    padded, _ = _scan(tiles, cores, write, padded)
    return jax.lax.slice_in_dim(padded, 0, rows, axis=tiles.lead)


def _weight_forward(tiles: Tiling, cores: Arrays) -> tuple[jax.Array, Arrays]:
    return _weight(tiles, cores), cores


def _weight_backward(tiles: Tiling, cores: Arrays, weight_bar: jax.Array) -> tuple[Arrays]:
    """Return the derivative of the sum of weight_bar W: JAX would carry weight_bar through the scans and copy it."""
    beyond = _padded_rows(tiles) - weight_bar.shape[tiles.lead]
    weight_bar = jnp.pad(weight_bar, [(0, beyond if axis == tiles.lead else 0) for axis in range(weight_bar.ndim)])

    def multiply(_: None, tile: jax.Array, row: jax.Array) -> tuple[None, jax.Array]:
        bar = jax.lax.dynamic_slice_in_dim(weight_bar, row, tiles.nest.tile_rows, tiles.lead)
        return None, (bar * tile).sum()

    total, pull_back = jax.vjp(lambda cores: _scan(tiles, cores, multiply, None)[1].sum(), cores)
    gradients: tuple[Arrays] = pull_back(jnp.ones_like(total))
    return gradients


_weight.defvjp(_weight_forward, _weight_backward)


def _padded_rows(tiles: Tiling) -> int:
    return tiles.nest.tile_rows + sum(max(stage.rows) for stage in tiles.nest.stages)


def streamed(tiles: Tiling, cores: Arrays, x: Any, product: Product, axis: int) -> jax.Array:
    """Return the output of a layer, made tile by tile: neither the weight nor its gradient ever exists.

    >>> import adntn
    >>> from adntn.tiling import Plan, tiling
    >>> generator = adntn.TTN((16, 8), bond=2)
    >>> cores, x = generator.init(backend="jax"), jnp.ones((3, 8))
    >>> tiles = tiling(generator.network, (), Plan(4))
    >>> y = streamed(tiles, cores, x, lambda tile, x: x @ tile.T, axis=1)
    >>> bool(jnp.allclose(y, generator.apply(cores, x), atol=1e-6))
    True

    It may be jitted, mapped, scanned and sharded, and differentiated in reverse mode with respect to the cores and x.

    Args:
        tiles: the weight in tiles of rows.
        cores: JAX arrays by name, checked.
        x: what a tile is multiplied by: an array, or a tree of arrays.
        product: from a tile, of shape (tile rows, ...) and the cores' number type, and x to the tile's rows of the
            output. It also gets rows beyond the last one, whose output is dropped.
        axis: the axis of the output that counts the rows.
    """
    dtypes = jax.tree.map(lambda array: array.dtype, x)

    # 16-bit gradients with respect to x are added up over the tiles in float32
    def rounded(tile: jax.Array, widened: Any) -> jax.Array:
        return product(tile, jax.tree.map(lambda array, dtype: array.astype(dtype), widened, dtypes))

    def made(cores: Arrays, widened: Any) -> jax.Array:
        _, stacked = _scan(tiles, cores, lambda _, tile, row: (None, rounded(tile, widened)), None)
        return _in_row_order(stacked, tiles, axis)

    return made_again(made, dict(cores), jax.tree.map(wide, x))  # the head's results, too


def wide(array: jax.Array) -> jax.Array:
    """Return an array in the number type to compute in: float32 for 16 bits."""
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


def _scan(tiles: Tiling, cores: Arrays, of_tile: OfTile, carried: Any) -> tuple[Any, Any]:
    """Return what is carried from tile to tile at the end, and what each gives, stacked in the order of the loops.

    Args:
        tiles: the weight in tiles.
        cores: JAX arrays by name.
        of_tile: from what is carried, a tile and the number of its first row to what is carried on, and what it gives.
        carried: to the first tile.
    """
    computed = {name: wide(core) for name, core in cores.items()}
    functions, nest = namespace_of(computed.values()), tiles.nest
    known = {**computed, **_named(nest.head_adjoint, nest.head.outputs, computed)}
    whole, pieces = {}, {}
    for read in nest.reads:
        if read.cut is None:
            whole[read.tensor.name] = known[read.source.name]
        else:
            pieces[read.tensor.name] = read.cut(known[read.source.name], functions)

    def rounded(carried: Any, state: jax.Array, row: jax.Array) -> tuple[Any, Any]:
        rows = tiles.as_weight(tiles.assembly.assemble(state, functions), computed[SCALE])
        return of_tile(carried, rows.astype(cores[SCALE].dtype), row)

    return _stage(nest, 0, _Outside(whole, pieces, 0), rounded, carried)


@dataclass(frozen=True)
class _Outside:
    """What a stage finds.

    Attributes:
        made: what was read whole, and what the loops around it made.
        pieces: of what is cut, those that are left.
        row: the first row so far.
    """

    made: Arrays
    pieces: Arrays
    row: Any


def _stage(nest: Nest, depth: int, outside: _Outside, of_tile: OfTile, carried: Any) -> tuple[Any, Any]:
    """Return what is carried to the end of a stage, and what its tiles give, stacked."""
    stage = nest.stages[depth]
    parts = {
        read.tensor.name: _parts(read, depth, outside.pieces[read.tensor.name])
        for read in nest.reads
        if read.cut is not None
    }

    def iteration(carried: Any, scanned: tuple[jax.Array, dict[str, Any]]) -> tuple[Any, Any]:
        row = outside.row + scanned[0]
        left = {name: pick(scanned[1][name]) for name, (_, pick) in parts.items()}
        first = {name: part[0] for name, part in left.items()}  # the only one, once every loop is entered
        results = _named(stage.adjoint, stage.program.outputs, {**outside.made, **first})
        if depth < len(nest.stages) - 1:
            return _stage(nest, depth + 1, _Outside({**outside.made, **results}, left, row), of_tile, carried)
        return of_tile(carried, results[nest.tile.name], row)

    # inside of a scan the compiler cannot merge what is made again with what was made before
    again = jax.checkpoint(iteration, prevent_cse=False)
    scanned = jnp.asarray(stage.rows, "int32"), {name: part for name, (part, _) in parts.items()}
    made: tuple[Any, Any] = jax.lax.scan(again, carried, scanned)
    return made


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
