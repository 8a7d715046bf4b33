"""The schedule *materialise* for linear layers: the weight is made once and kept, its adjoint is never whole.

The weight lies as its tiles are made, before a scale that comes last; their adjoint reads them there, and nothing is
made again but what little they are made from. dL/dW is multiplied out for some hundred rows at a time: products of a
few rows are slower, and the whole is as large as the weight. For libraries whose arrays can be written in place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from adntn.arrays import SHORT_DTYPES, Array, Namespace, empty, namespace_of
from adntn.network import Network
from adntn.streaming import turned
from adntn.tiling import LateScale, Tiling

#: dL/dW is made for so many rows at a time, or an eighth of them if that is less; or for one tile, if that is more.
SLAB_ROWS = 512


def can_be_kept(network: Network, dtype: str) -> bool:
    """Return whether `materialise` may be used: for one matrix, multiplied in the number type that it is made in."""
    return network.batch is None and len(network.layout.shape) == 2 and dtype not in SHORT_DTYPES


def materialise(tiling: Tiling, cores: Mapping[str, Array], x: Array, out: Array, kept: Array) -> None:
    """Write x @ W.T into `out`, and the tiles of W into `kept`, for `materialise_back`.

    Args:
        tiling: the weight in tiles.
        cores: checked, of the number type to compute in.
        x: shape (rows, in), of that number type.
        out: shape (rows, out).
        kept: a contiguous array of shape (out, in).
    """
    functions = namespace_of([x])
    tiling.write(cores, kept, scaled=False)
    functions.matmul(x, turned(kept, functions), out=out)
    LateScale(tiling, cores).multiply(out)


def materialise_back(
    tiling: Tiling, cores: Mapping[str, Array], x: Array, out_bar: Array, *, kept: Array, x_bar: Array | None
) -> dict[str, Array]:
    """Return dL/d(core) for every core, and write dL/dx into `x_bar` if it is given.

    Args:
        tiling, cores, x: as for `materialise`.
        out_bar: dL/d(out).
        kept: what `materialise` has written.
        x_bar: an array of the shape of x.
    """
    functions, scale = namespace_of([x]), LateScale(tiling, cores)
    if x_bar is not None:
        functions.matmul(functions.conj(out_bar), kept, out=x_bar)  # the conjugate of W would be as large as W
        if functions.is_complex:
            x_bar[...] = functions.conj(x_bar)
        scale.meet(x_bar, x)
        scale.multiply(x_bar, adjoint=True)
    bars = _bars(tiling, x, out_bar, functions)

    def adjoint_of(rows: slice, _: None) -> Array:
        bar = next(bars)
        if x_bar is None:
            scale.meet(bar, kept[rows])
        return bar

    return scale.gradients(tiling.pull_back(cores, adjoint_of, needs_tile=False, made_before=kept))


def slab_tiles(tiling: Tiling) -> int:
    """Return for how many tiles dL/dW is made at a time."""
    return max(1, min(SLAB_ROWS, tiling.network.layout.shape[0] // 8) // tiling.nest.tile_rows)


def _bars(tiling: Tiling, x: Array, out_bar: Array, functions: Namespace) -> Iterator[Array]:
    """Yield the rows of dL/dW that belong to each tile, in the order of the tiles."""
    together, conjugate = slab_tiles(tiling), functions.conj(x)
    slab = empty((together * tiling.nest.tile_rows, x.shape[-1]), x)
    for first in range(0, len(tiling.first_rows), together):
        rows = [tiling.rows(row) for row in tiling.first_rows[first : first + together]]
        arriving = functions.concatenate([out_bar[:, one] for one in rows], 1)
        bar = functions.matmul(turned(arriving, functions), conjugate, out=slab[: arriving.shape[1]])
        start = 0
        for one in rows:
            stop = start + one.stop - one.start
            yield bar[start:stop]
            start = stop
