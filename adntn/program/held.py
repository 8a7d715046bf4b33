"""How much memory a nest holds: a rehearsal of `tiles` and `run_in_place` with sizes in place of arrays.

It follows them take by take, so that what a pool keeps, what is cut and copied, and the copies of operands that are
transposed all count. Where array libraries differ, NumPy is followed, which holds the most.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from adntn.program.ir import Contract, Pointwise, Program
from adntn.program.nest import Nest, Read, Stage
from adntn.transposing import Transposition

#: Arrays of an argument's size that a pointwise function holds in between, at most, besides its result.
WORKSPACE = 4


def copies(transposition: Transposition) -> bool:
    """Return whether the result is no view, but a copy.

    >>> copies(Transposition((2, 3, 4), (0, 2, 1), (2, 4, 3))), copies(Transposition((2, 3, 4), (0, 2, 1), (2, 12)))
    (False, True)
    """
    kept = [axis for axis in transposition.axes or () if transposition.before[axis] > 1]
    if kept == sorted(kept):
        return False
    after = [size for size in reversed(transposition.after) if size > 1]
    for axis in kept:
        left = transposition.before[axis]
        while left > 1:
            factor = after.pop()
            if left % factor:
                return True
            left //= factor
    return False


@dataclass(eq=False)
class _Held:
    """An array of that many numbers: one of the pool's buffers, an array of its own, or (0 numbers) somebody else's."""

    size: int
    pooled: bool = False


class Rehearsal:
    """What is held, in numbers: `peak` is the most so far, without what the caller holds.

    Args:
        is_complex: whether conjugating makes a copy.
    """

    def __init__(self, is_complex: bool) -> None:
        self.is_complex = is_complex
        self.peak = 0
        self._own = self._pool = 0
        self._free = Counter[int]()

    def generate(self, nest: Nest) -> None:
        """Make all tiles."""
        self._run(nest.head)
        self._cut(nest.reads)
        self._tiles(nest.stages)

    def pull_back(self, nest: Nest, needs_tile: bool) -> None:
        """Make all tiles again and pull their adjoints back, each of which somebody makes."""
        head = nest.head_adjoint
        self._run(head.forward)
        pieces = self._cut(nest.reads)
        self._array(sum(pieces))  # the totals
        self._pull_back(nest.stages, needs_tile)
        for read, size in zip(nest.reads, pieces, strict=True):
            self._moment(2 * size)
            self._array(read.source.size)
        self._run(head.backward)
        self._moment(sum(tensor.size for tensor in head.reached))

    def _moment(self, extra: int = 0) -> None:
        self.peak = max(self.peak, self._own + self._pool + extra)

    def _array(self, size: int) -> _Held:
        self._own += size
        self._moment()
        return _Held(size)

    def _take(self, size: int) -> _Held:
        if self._free[size]:
            self._free[size] -= 1
        else:
            self._pool += size
        self._moment()
        return _Held(size, pooled=True)

    def _let_go(self, arrays: Iterable[_Held]) -> None:
        for array in arrays:
            if array.pooled:
                self._free[array.size] += 1
            else:
                self._own -= array.size

    def _cut(self, reads: Iterable[Read]) -> list[int]:
        """Cut what the stages read; return the sizes of the pieces together."""
        sizes = []
        for read in reads:
            if read.cut is None:
                sizes.append(read.source.size)
                continue
            size = math.prod(read.cut.padded)
            self._moment(2 * size)  # what is padded and what is appended, or a permuted copy
            if copies(read.cut.into) or read.cut.sizes != read.cut.padded:
                self._array(size)
            sizes.append(size)
        return sizes

    def _tiles(self, stages: Sequence[Stage]) -> None:
        first, *inside = stages
        for _ in range(min(first.count, 2)):  # the second time with all buffers that there will be
            made = self._run(first.program)
            if inside:
                self._tiles(inside)
            self._let_go(made)

    def _pull_back(self, stages: Sequence[Stage], needs_tile: bool) -> None:
        first, *inside = stages
        both = first.adjoint
        for _ in range(min(first.count, 2)):
            made = self._run(both.forward if inside or needs_tile else first.residuals)
            make = self._take if inside else self._array
            seeds = [make(seed.size) for seed in both.seeds]
            if inside:
                self._pull_back(inside, needs_tile)
            self._let_go(self._run(both.backward, {tensor.name for tensor in both.backward.outputs}))
            self._let_go([*made, *seeds])

    def _run(self, program: Program, totals: Collection[str] = ()) -> list[_Held]:
        """Rehearse `run_in_place`; return what holds the outputs."""
        values: dict[str, _Held] = {}
        for step, releases in zip(program.steps, program.releases, strict=True):
            name, first = step.out.name, step.inputs[0].name
            if isinstance(step, Contract):
                values[name] = self._contract(step, adds=name in totals)
            elif step.overwrite is not None and first in values and first in releases:
                values[name] = values.pop(first)
            else:
                values[name] = self._pointwise(step)
            self._let_go(values.pop(released) for released in releases if released in values)
        return [values.get(tensor.name, _Held(0)) for tensor in program.outputs]

    def _contract(self, step: Contract, *, adds: bool) -> _Held:
        form, size = step.form, step.out.size
        operands = list(zip(step.inputs, step.conjugate, strict=True))
        first, second = reversed(operands) if form.swap else operands
        copied = 0
        for (tensor, conjugated), moved in ((first, form.first), (second, form.second)):
            copied += tensor.size * (copies(moved) + (conjugated and self.is_complex))
        if form.is_direct and not adds:
            result = self._take(size)
            self._moment(copied)
            return result
        outer = form.first.after[1] if form.kind == "environment" else 0
        self._moment(copied + max(outer * size + size, 2 * size if copies(form.out) else size))
        return _Held(0) if adds else self._array(size)

    def _pointwise(self, step: Pointwise) -> _Held:
        size = step.out.size
        if step.kind == "add":
            return self._array(size)
        if step.kind == "adjoint" and step.activation is not None and step.activation.pull is not None:
            result = self._take(size)
            self._moment(self.is_complex * size)
            return result
        self._moment((1 + WORKSPACE) * size)
        return self._array(size)
