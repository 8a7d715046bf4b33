"""A contraction of two tensors of many small legs as one product of matrices.

Arrays stay matrix-shaped: neighbouring legs that travel together are one axis, and the large operand is not transposed
where that can be helped. Array libraries are slow with transposes of many axes, and compilers need minutes for them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from adntn.arrays import Array, Namespace
from adntn.network import Leg
from adntn.transposing import Transposition, transposition

Legs = tuple[Leg, ...]

#: An environment whose innermost sum is shorter than this is transposed first: many tiny products are slower.
SMALL_INNER = 8
#: Products whose result has fewer columns, and more rows than that, are a few times slower than their transposes.
NARROW = 8


@dataclass(frozen=True)
class MatrixForm:
    """How a contraction is run; `swap` exchanges the operands first, and each is brought to its shape.

    Kinds:
        "scalar": first (B, N) times second (B, 1).
        "sandwich": second (B, 1, M, K) times first (B, L, K, R) gives (B, L, M, R): first stays as it lies.
        "product": first (B, N, K) times second (B, K, M).
        "environment": first (B, L, K, R) times second (B, L, R, M) summed over L gives (B, K, M).
    """

    kind: Literal["scalar", "sandwich", "product", "environment"]
    swap: bool
    first: Transposition
    second: Transposition
    out: Transposition

    def __call__(self, left: Array, right: Array, functions: Namespace) -> Array:
        """Return the contraction of two arrays, flat or of any shape."""
        first, second = self._operands(left, right, functions)
        result = first * second if self.kind == "scalar" else functions.matmul(first, second)
        if self.kind == "environment":
            result = functions.sum(result, 1)
        return self.out(result, functions)

    @property
    def is_direct(self) -> bool:
        """Whether the result can be written where it is wanted: it needs no sum and no transposition afterwards."""
        return self.kind != "environment" and self.out.axes is None

    @property
    def transposed(self) -> int:
        """How many numbers are copied into another order before and after the product."""
        return sum(one.size for one in (self.first, self.second, self.out) if one.copies)

    def add(self, left: Array, right: Array, total: Array, functions: Namespace) -> None:
        """Add the contraction to a contiguous array of any shape; without a result in between where libraries can."""
        adds = functions.baddbmm
        if adds is None or not self.is_direct or self.kind == "scalar" or self.first.after[0] != 1:
            total += functions.reshape(self(left, right, functions), total.shape)
            return
        first, second = self._operands(left, right, functions)
        if self.kind == "sandwich":
            first, second = first[0], second[0]
            first = functions.broadcast_to(first, (second.shape[0], *first.shape[1:]))
        sums = functions.reshape(total, (first.shape[0], first.shape[1], second.shape[2]))
        adds(sums, first, second, out=sums)

    def write(self, left: Array, right: Array, into: Array, functions: Namespace) -> None:
        """Write the contraction into a contiguous array of any shape; the form is direct."""
        first, second = self._operands(left, right, functions)
        stacked = second if self.kind == "sandwich" else first
        shape = (*stacked.shape[:-2], first.shape[-2], second.shape[-1])
        if self.kind == "scalar":
            functions.multiply(first, second, out=functions.reshape(into, first.shape))
        else:
            functions.matmul(first, second, out=functions.reshape(into, shape))

    def _operands(self, left: Array, right: Array, functions: Namespace) -> tuple[Array, Array]:
        """Return the operands in the order and shapes of the product."""
        if self.swap:
            left, right = right, left
        first, second = self.first(left, functions), self.second(right, functions)
        return (second, first) if self.kind == "sandwich" else (first, second)


def _size(legs: Sequence[Leg]) -> int:
    return math.prod(leg.size for leg in legs)


def _reordered(source: Legs, target: Legs, after: tuple[int, ...]) -> Transposition:
    """Return the transposition from the order of legs `source` to the order `target`, shaped `after` at the end."""
    places = {leg: place for place, leg in enumerate(target)}
    return transposition([leg.size for leg in source], [places[leg] for leg in source], after)


def _common_prefix(one: Legs, other: Legs) -> int:
    length = 0
    while length < min(len(one), len(other)) and one[length] == other[length]:
        length += 1
    return length


def _around(one: Legs, other: Legs) -> tuple[Legs, Legs, Legs, Legs]:
    """Split two sequences into what they share in front, the middle of each, and what they share at the end."""
    front = _common_prefix(one, other)
    back = _common_prefix(one[front:][::-1], other[front:][::-1])
    return one[:front], one[front : len(one) - back], other[front : len(other) - back], one[len(one) - back :]


@lru_cache(maxsize=65536)
def matrix_form(left: Legs, right: Legs, out: Legs) -> MatrixForm:
    """Return how to contract tensors with legs `left` and `right` to the legs `out`.

    Legs that all three have are a batch; every other leg must be in exactly two of the three.
    """
    left, right, out = (tuple(leg for leg in legs if leg.size > 1) for legs in (left, right, out))
    batch = tuple(leg for leg in out if leg in left and leg in right)
    leads = all(legs[: len(batch)] == batch for legs in (left, right, out))
    if leads:
        bodies = [legs[len(batch) :] for legs in (left, right, out)]
        for find in (_scalar, _sandwich, _environment):
            for swap in (False, True):
                first, second = (bodies[1], bodies[0]) if swap else (bodies[0], bodies[1])
                form = find(batch, first, second, bodies[2], swap)
                if form is not None:
                    return form
    return _product(batch, left, right, out)


def _scalar(batch: Legs, first: Legs, second: Legs, out: Legs, swap: bool) -> MatrixForm | None:
    if second or first != out:
        return None
    count = _size(batch)
    plain = Transposition((), None, (count, _size(first)))
    return MatrixForm("scalar", swap, plain, Transposition((), None, (count, 1)), plain)


def _sandwich(batch: Legs, first: Legs, second: Legs, out: Legs, swap: bool) -> MatrixForm | None:
    front, summed, made, back = _around(first, out)
    if set(second) != {*summed, *made} or len(second) != len(summed) + len(made):
        return None
    count, rows, columns = _size(batch), _size(made), _size(summed)
    shape = (count, _size(front), columns, _size(back))
    end = Transposition((), None, (count, _size(out)))
    if _size(back) == 1:
        factor = _reordered((*batch, *second), (*batch, *summed, *made), (count, columns, rows))
        return MatrixForm("product", swap, Transposition((), None, (count, _size(front), columns)), factor, end)
    factor = _reordered((*batch, *second), (*batch, *made, *summed), (count, 1, rows, columns))
    return MatrixForm("sandwich", swap, Transposition((), None, shape), factor, end)


def _environment(batch: Legs, first: Legs, second: Legs, out: Legs, swap: bool) -> MatrixForm | None:
    front, mine, other, back = _around(first, second)
    if set(out) != {*mine, *other} or len(out) != len(mine) + len(other):
        return None
    count, outer, rows, columns, inner = (_size(legs) for legs in (batch, front, mine, other, back))
    if outer > 1 and 1 < inner < SMALL_INNER:
        return None
    if inner > 1 and columns < min(rows, NARROW):
        return None  # the other way round the result is wide
    end = _reordered((*batch, *mine, *other), (*batch, *out), (count, rows * columns))
    if inner == 1:  # transposes of a matrix cost nothing
        one = Transposition((count, outer, rows), (0, 2, 1), (count, rows, outer))
        return MatrixForm("product", swap, one, Transposition((), None, (count, outer, columns)), end)
    two = Transposition((count, outer, columns, inner), (0, 1, 3, 2), (count, outer, inner, columns))
    return MatrixForm("environment", swap, Transposition((), None, (count, outer, rows, inner)), two, end)


def _product(batch: Legs, left: Legs, right: Legs, out: Legs) -> MatrixForm:
    summed = tuple(leg for leg in left if leg in right and leg not in out)
    rows = tuple(leg for leg in left if leg in out and leg not in batch)
    columns = tuple(leg for leg in right if leg in out and leg not in batch)
    # keep the order in which the result wants its legs, so that it need not be transposed afterwards
    rows, columns = (tuple(sorted(legs, key=out.index)) for legs in (rows, columns))
    count = _size(batch)
    return MatrixForm(
        "product",
        False,
        _reordered(left, (*batch, *rows, *summed), (count, _size(rows), _size(summed))),
        _reordered(right, (*batch, *summed, *columns), (count, _size(summed), _size(columns))),
        _reordered((*batch, *rows, *columns), out, (_size(out),)),
    )
