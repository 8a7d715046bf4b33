"""Buffers that are used again: fresh memory costs more than the arithmetic in it, on a CPU."""

from __future__ import annotations

import autoray

from adntn.arrays import Array, empty


class Pool:
    """Flat arrays of one library, by size; what is given back is taken again.

    >>> import numpy
    >>> pool = Pool(numpy.zeros(1))
    >>> first = pool.take(8)
    >>> pool.give(first)
    >>> pool.take(8) is first, pool.take(8) is first
    (True, False)
    """

    def __init__(self, like: Array) -> None:
        self.like = like
        self._free: dict[int, list[Array]] = {}
        self._taken: dict[int, tuple[int, Array]] = {}

    def take(self, size: int) -> Array:
        """Return a flat array of that many numbers, of any values."""
        free = self._free.get(size)
        array = free.pop() if free else empty((size,), self.like)
        self._taken[id(array)] = size, array
        return array

    def give(self, array: Array) -> None:
        """Take an array back; others than its own are left alone."""
        size, own = self._taken.pop(id(array), (0, None))
        if own is not None:
            self._free.setdefault(size, []).append(own)


def may_share_memory(one: Array, other: Array) -> bool:
    """Return whether an array may be another one, or a view of it."""
    if hasattr(one, "untyped_storage"):  # torch, which has no such function
        return bool(one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr())
    return bool(autoray.do("may_share_memory", one, other))
