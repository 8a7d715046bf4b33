"""Transpositions of many axes, worked out ahead, and padding: with functions that every array library has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from adntn.arrays import Array, Namespace


def merged_permutation(sizes: Sequence[int], destination: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shape and the axes of a transposition in which neighbours that stay neighbours are one axis.

    Args:
        sizes: sizes of the axes.
        destination: where each axis goes: any distinct numbers, of which only the order counts.
    """
    kept = [axis for axis, size in enumerate(sizes) if size != 1]  # where the others go makes no difference
    sizes, destination = [sizes[axis] for axis in kept], [destination[axis] for axis in kept]
    order = sorted(range(len(sizes)), key=lambda axis: destination[axis])
    target = {axis: position for position, axis in enumerate(order)}
    runs: list[list[int]] = []
    for axis in range(len(sizes)):
        if runs and target[axis] == target[axis - 1] + 1:
            runs[-1].append(axis)
        else:
            runs.append([axis])
    shape = tuple(math.prod(sizes[axis] for axis in run) for run in runs)
    axes = sorted(range(len(runs)), key=lambda run: target[runs[run][0]])
    return shape, tuple(axes)


@dataclass(frozen=True)
class Transposition:
    """Reshape, permute (if need be), reshape: worked out ahead, so that running it is nothing else."""

    before: tuple[int, ...]
    axes: tuple[int, ...] | None
    after: tuple[int, ...]

    @property
    def copies(self) -> bool:
        """Whether numbers are copied into another order; if not, the result is a view."""
        return self.axes is not None and self.after != tuple(self.before[axis] for axis in self.axes)

    @property
    def size(self) -> int:
        """How many numbers the array has."""
        return math.prod(self.after)

    def __call__(self, array: Array, functions: Namespace) -> Array:
        """Return the transposed array."""
        if self.axes is not None:
            array = functions.permute(functions.reshape(array, self.before), self.axes)
        return array if array.shape == self.after else functions.reshape(array, self.after)


def transposition(sizes: Sequence[int], destination: Sequence[int], after: tuple[int, ...]) -> Transposition:
    """Return how a row-major array of axes `sizes` gets its axes sorted by destination, and the shape `after`.

    Axes that move together are merged first: compilers and libraries are slow with transposes of many small axes.
    """
    before, axes = merged_permutation(sizes, destination)
    return Transposition(before, None if axes == tuple(range(len(axes))) else axes, after)


def padded(array: Array, axis: int, size: int, whole: int, functions: Namespace) -> Array:
    """Append zeros along one axis, with nothing but slicing and concatenation (every array library has them)."""
    while size < whole:
        extra = min(size, whole - size)
        part = array[(*(slice(None),) * axis, slice(0, extra), ...)]
        array = functions.concatenate([array, functions.zeros_like(part)], axis)
        size += extra
    return array
