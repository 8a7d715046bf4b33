"""Pieces of an array by number, and their adjoint: shares of pieces added up. Each library has its own names for it."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import autoray

from adntn.arrays import Array, backend_of

#: From an array, the numbers of pieces and the axis along which they lie to these pieces.
Take = Callable[[Array, Array, int], Array]
#: From sums, the numbers of pieces, their shares and the axis along which they lie to the sums with the shares added.
Add = Callable[[Array, Array, Array, int], Array]

#: Functions found so far; plain mappings, because compilers look through them.
_TAKES: dict[str, Take] = {}
_ADDS: dict[str, Add] = {}


def take(array: Array, numbers: Array, axis: int) -> Array:
    """Return the pieces with these numbers along an axis; differentiable where the library is.

    >>> import numpy
    >>> take(numpy.arange(6).reshape(3, 2), numpy.array([2, 0, 2]), 0).tolist()
    [[4, 5], [0, 1], [4, 5]]
    """
    backend = backend_of(array)
    if backend not in _TAKES:
        _TAKES[backend] = _take_of(backend)
    return _TAKES[backend](array, numbers, axis)


def add(total: Array, numbers: Array, shares: Array, axis: int) -> Array:
    """Return the sums with each share added to the piece of its number; `total` may be written into.

    >>> import numpy
    >>> add(numpy.zeros((3, 1)), numpy.array([2, 0, 2]), numpy.ones((3, 1)), 0).tolist()
    [[1.0], [0.0], [2.0]]
    """
    backend = backend_of(total)
    if backend not in _ADDS:
        _ADDS[backend] = _add_of(backend)
    return _ADDS[backend](total, numbers, shares, axis)


def _take_of(backend: str) -> Take:
    if backend == "torch":  # autoray's translation is not for compilers
        select = autoray.get_lib_fn(backend, "index_select")
        return lambda array, numbers, axis: select(array, axis, numbers)
    own = autoray.get_lib_fn(backend, "take")
    return lambda array, numbers, axis: own(array, numbers, axis=axis)


def _add_of(backend: str) -> Add:
    if backend == "torch":
        index_add = autoray.get_lib_fn(backend, "index_add")
        return lambda total, numbers, shares, axis: index_add(total, axis, numbers, shares)
    if backend == "jax":
        return lambda total, numbers, shares, axis: total.at[_index(numbers, axis)].add(shares)
    if backend in {"numpy", "cupy"}:
        return _adding_in_place(importlib.import_module(backend).add)
    return _adding_through_numpy(autoray.get_lib_fn(backend, "asarray"))


def _index(numbers: Array, axis: int) -> tuple[Array, ...]:
    return (*(slice(None),) * axis, numbers)


def _adding_in_place(ufunc: Array) -> Add:
    def add_at(total: Array, numbers: Array, shares: Array, axis: int) -> Array:
        ufunc.at(total, _index(numbers, axis), shares)
        return total

    return add_at


def _adding_through_numpy(asarray: Callable[[Array], Array]) -> Add:
    in_place = _adding_in_place(importlib.import_module("numpy").add)

    def add_on_host(total: Array, numbers: Array, shares: Array, axis: int) -> Array:
        given = autoray.to_numpy(numbers), autoray.to_numpy(shares)
        return asarray(in_place(autoray.to_numpy(total).copy(), given[0], given[1], axis))

    return add_on_host
