"""What a program costs: operations, bytes moved, calls and peak memory, counted from its steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from adntn.program.ir import Contract, Program, Step
from adntn.program.nest import Nest, Stage


@dataclass(frozen=True)
class Cost:
    """Counts for one run of a program.

    Attributes:
        operations: multiplications and additions of contractions, and one for each number of a pointwise map.
        bytes_moved: bytes that the steps read and write, if nothing stays in a cache.
        peak_bytes: the most bytes held at once, inputs and outputs included; workspace of the array library excluded.
        calls: number of steps.
    """

    operations: int
    bytes_moved: int
    peak_bytes: int
    calls: int

    def __add__(self, other: Cost) -> Cost:
        """Return the cost of both, one after the other, with nothing held in between."""
        return Cost(
            self.operations + other.operations,
            self.bytes_moved + other.bytes_moved,
            max(self.peak_bytes, other.peak_bytes),
            self.calls + other.calls,
        )

    def times(self, count: int) -> Cost:
        """Return the cost of a number of runs, with nothing held in between."""
        return Cost(self.operations * count, self.bytes_moved * count, self.peak_bytes, self.calls * count)

    def holding(self, held: int) -> Cost:
        """Return the cost while so many more bytes are held."""
        return Cost(self.operations, self.bytes_moved, self.peak_bytes + held, self.calls)


def cost(program: Program, itemsize: int = 4) -> Cost:
    """Return the cost of a program whose numbers take `itemsize` bytes."""
    return _cost(program, itemsize).holding(sum(tensor.size for tensor in program.inputs) * itemsize)


def _cost(program: Program, itemsize: int) -> Cost:
    """Return the cost of a program without its inputs, which somebody else holds."""
    alive: dict[str, int] = {}
    operations = moved = held = peak = 0
    for step, releases in zip(program.steps, program.releases, strict=True):
        operations += step_operations(step)
        moved += sum(tensor.size for tensor in (*step.inputs, step.out))
        alive[step.out.name] = step.out.size
        held += step.out.size
        peak = max(peak, held)
        for name in releases:
            held -= alive.pop(name, 0)  # inputs stay with the caller
    return Cost(operations, moved * itemsize, peak * itemsize, len(program.steps))


def step_operations(step: Step) -> int:
    """Return the multiplications and additions of a step; one for each number of a pointwise map."""
    if not isinstance(step, Contract):
        return step.out.size
    joint = math.prod(leg.size for leg in {*step.left.legs, *step.right.legs})
    return 2 * joint if step.summed else joint


def nest_cost(nest: Nest, itemsize: int = 4) -> Cost:
    """Return the cost of making all tiles, each let go before the next; the inputs are part of what is held."""
    held = _held_before_loops(nest) * itemsize
    head = cost(nest.head, itemsize)
    return head + _loops(nest.stages, itemsize).holding(held)


def nest_adjoint_cost(nest: Nest, itemsize: int = 4, needs_tile: bool = True) -> Cost:
    """Return the cost of making all tiles again and pulling their adjoints back.

    Args:
        nest: the loops.
        itemsize: bytes of a number.
        needs_tile: whether tiles are made where the adjoint itself does not need them.
    """
    head = nest.head_adjoint
    totals = sum(read.source.size for read in nest.reads)
    held = (_held_before_loops(nest) + sum(tensor.size for tensor in head.residuals) + totals) * itemsize
    loops = _adjoint_loops(nest.stages, itemsize, needs_tile).holding(held)
    return cost(head.forward, itemsize) + loops + _cost(head.backward, itemsize).holding(held)


def _held_before_loops(nest: Nest) -> int:
    """Return how many numbers are held during the loops: inputs, what the head made, and what of it was cut."""
    inputs = sum(tensor.size for tensor in nest.head.inputs)
    made = sum(tensor.size for tensor in nest.head.outputs)
    return inputs + made + sum(read.source.size for read in nest.reads if read.cut is not None)


def _loops(stages: Sequence[Stage], itemsize: int) -> Cost:
    first, *inside = stages
    once = _cost(first.program, itemsize)
    if inside:
        passed_on = sum(tensor.size for tensor in first.program.outputs) * itemsize
        once = once + _loops(inside, itemsize).holding(passed_on)
    return once.times(first.count)


def _adjoint_loops(stages: Sequence[Stage], itemsize: int, needs_tile: bool) -> Cost:
    first, *inside = stages
    adjoint = first.adjoint
    forward = adjoint.forward if inside or needs_tile else first.residuals
    seeds = sum(tensor.size for tensor in adjoint.seeds) * itemsize
    kept = sum(tensor.size for tensor in forward.outputs) * itemsize + seeds
    shares = sum(tensor.size for tensor in adjoint.reached)  # each is added to what other iterations contributed
    added = Cost(shares, 3 * shares * itemsize, 0, len(adjoint.reached))
    once = _cost(forward, itemsize) + _cost(adjoint.backward, itemsize).holding(kept) + added
    if inside:
        once = once + _adjoint_loops(inside, itemsize, needs_tile).holding(kept)
    return once.times(first.count)
