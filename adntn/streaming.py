"""The schedule *stream* for linear layers: tiles of a weight are made, multiplied with x and dropped, both ways.

Neither the weight nor its adjoint ever exists. For libraries whose arrays can be written in place; torch's layers call
this inside their own differentiation.
"""

from __future__ import annotations

from collections.abc import Mapping

from adntn.arrays import Array, Namespace, as_dtype, dtype_name, namespace_of
from adntn.network import SCALE
from adntn.tiling import LateScale, Tiling


def stream(tiling: Tiling, cores: Mapping[str, Array], x: Array, out: Array) -> None:
    """Write x @ W.T into `out`.

    Args:
        tiling: the weight in tiles.
        cores: checked, of the number type to compute in.
        x: shape (rows, in), or (G, rows, in) with a batch axis.
        out: shape (rows, out), or (G, rows, out).
    """
    functions = namespace_of([x])
    late = _scales_late(tiling, cores, x)
    for rows, tile in tiling.generate(cores):
        weight = tile if late else tiling.as_weight(tile, cores[SCALE])
        product = functions.matmul(x, turned(as_dtype(weight, dtype_name(x)), functions))
        out[..., rows] = product
    if late:
        LateScale(tiling, cores).multiply(out)


def stream_back(
    tiling: Tiling, cores: Mapping[str, Array], x: Array, out_bar: Array, x_bar: Array | None
) -> dict[str, Array]:
    """Return dL/d(core) for every core, and add dL/dx to `x_bar` if it is given.

    Args:
        tiling, cores, x: as for `stream`.
        out_bar: dL/d(out), of the shape of `out`.
        x_bar: zeros, to which dL/dx is added, of the number type to compute in: sums of many tiles lose more in 16
            bits.
    """
    functions = namespace_of([x])
    computed, late, scale = dtype_name(cores[SCALE]), _scales_late(tiling, cores, x), LateScale(tiling, cores)
    meets_tiles = scale.is_there and (x_bar is None or not late)

    def adjoint_of(rows: slice, tile: Array | None) -> Array:
        arriving = out_bar[..., rows]
        if x_bar is not None and tile is not None:
            weight = tile if late else tiling.as_weight(tile, cores[SCALE])
            _add_product(x_bar, arriving, functions.conj(as_dtype(weight, dtype_name(x))), functions)
        bar = as_dtype(functions.matmul(turned(arriving, functions), functions.conj(x)), computed)
        if meets_tiles:
            scale.meet(bar, tile)
        return bar

    gradients = tiling.pull_back(cores, adjoint_of, needs_tile=x_bar is not None or meets_tiles)
    if x_bar is not None and not meets_tiles:
        scale.meet(x_bar, x)
        scale.multiply(x_bar, adjoint=True)
    return scale.gradients(gradients)


def _scales_late(tiling: Tiling, cores: Mapping[str, Array], x: Array) -> bool:
    """Return whether tiles are multiplied without their scale, if it comes last: not in 16 bits of short range."""
    return not tiling.scales or dtype_name(x) == dtype_name(cores[SCALE])


def turned(array: Array, functions: Namespace) -> Array:
    """Return the array with its last two axes exchanged."""
    axes = tuple(range(len(array.shape)))
    return functions.permute(array, (*axes[:-2], axes[-1], axes[-2]))


def _add_product(total: Array, left: Array, right: Array, functions: Namespace) -> None:
    """Add left @ right to the total, with no more memory than `right` takes."""
    same = dtype_name(total) == dtype_name(right)
    if same and len(total.shape) == 2 and hasattr(total, "addmm_"):  # torch does both at once
        total.addmm_(left, right)
        return
    step = max(1, right.shape[-2])
    for first in range(0, total.shape[-2], step):
        part = slice(first, first + step)
        total[..., part, :] += as_dtype(functions.matmul(left[..., part, :], right), dtype_name(total))
