"""Buffers that are used again: fresh memory costs more than the arithmetic in it, on a CPU."""

from __future__ import annotations

import autoray

from adntn.arrays import Array, empty, namespace_of


class Pool:
    """Flat arrays of one library, by size; what is given back is taken again.

    >>> import numpy
    >>> pool = Pool(numpy.zeros(1))
    >>> first = pool.take(8)
    >>> pool.give(first)
    >>> pool.take(8) is first, pool.take(8) is first
    (True, False)

    Their views are used again, too: making one takes a library as long as a look at thousands of numbers.

    >>> pool.reshape(first, (2, 4)) is pool.reshape(first, (2, 4))
    True
    """

    def __init__(self, like: Array) -> None:
        self.like = like
        self._reshape = namespace_of([like]).reshape
        self._free: dict[int, list[Array]] = {}
        self._taken: dict[int, tuple[int, Array]] = {}
        self._views: dict[int, tuple[Array, dict[tuple[int, ...], Array]]] = {}

    def take(self, size: int) -> Array:
        """Return a flat array of that many numbers, of any values."""
        free = self._free.get(size)
        array = free.pop() if free else self.keep(empty((size,), self.like))
        self._taken[id(array)] = size, array
        return array

    def give(self, array: Array) -> None:
        """Take an array back; others than its own are left alone."""
        size, own = self._taken.pop(id(array), (0, None))
        if own is not None:
            self._free.setdefault(size, []).append(own)

    def keep(self, array: Array) -> Array:
        """Hold an array as long as the pool lasts, so that its views can be used again; return it."""
        self._views[id(array)] = array, {}
        return array

    def reshape(self, array: Array, shape: tuple[int, ...]) -> Array:
        """Return an array in another shape, of arrays that are kept a view."""
        _, views = self._views.get(id(array), (None, None))
        if views is None:
            return self._reshape(array, shape)
        view = views.get(shape)
        if view is None:
            view = views[shape] = self._reshape(array, shape)
        return view


def may_share_memory(one: Array, other: Array) -> bool:
    """Return whether an array may be another one, or a view of it."""
    if hasattr(one, "untyped_storage"):  # torch, which has no such function
        storages = one.untyped_storage(), other.untyped_storage()
        # fake tensors of any device have none
        without_memory = any(storage.device.type == "meta" for storage in storages)
        return without_memory or bool(storages[0].data_ptr() == storages[1].data_ptr())
    return bool(autoray.do("may_share_memory", one, other))
