"""What a program costs: operations, bytes moved, calls and peak memory, counted from its steps."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from adntn.program.held import Rehearsal
from adntn.program.ir import Contract, Program, Step
from adntn.program.nest import Nest


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
        moved += step_bytes(step, itemsize)
        alive[step.out.name] = step.out.size
        held += step.out.size
        peak = max(peak, held)
        for name in releases:
            held -= alive.pop(name, 0)  # inputs stay with the caller
    return Cost(operations, moved, peak * itemsize, len(program.steps))


def step_operations(step: Step) -> int:
    """Return the multiplications and additions of a step; one for each number of a pointwise map."""
    if not isinstance(step, Contract):
        return step.out.size
    joint = math.prod(leg.size for leg in {*step.left.legs, *step.right.legs})
    return 2 * joint if any(leg.size > 1 for leg in step.summed) else joint


def step_bytes(step: Step, itemsize: int) -> int:
    """Return the bytes that a step reads and writes, if nothing stays in a cache."""
    return sum(tensor.size for tensor in (*step.inputs, step.out)) * itemsize


def nest_cost(nest: Nest, itemsize: int = 4, *, is_complex: bool = False) -> Cost:
    """Return the cost of making all tiles, each let go before the next; the inputs are part of what is held.

    Its peak is that of `tiles`, the buffers that it keeps for the next tiles included.
    """
    rehearsal = Rehearsal(is_complex)
    rehearsal.generate(nest)
    counted, runs = _cost(nest.head, itemsize), 1
    for stage in nest.stages:
        runs *= stage.count
        counted = counted + _cost(stage.program, itemsize).times(runs)
    return _peaking(counted, nest, rehearsal, itemsize)


def nest_adjoint_cost(nest: Nest, itemsize: int = 4, needs_tile: bool = True, *, is_complex: bool = False) -> Cost:
    """Return the cost of making all tiles again and pulling their adjoints back.

    The gradients are part of what is held, and so is the adjoint of one tile.

    Args:
        nest: the loops.
        itemsize: bytes of a number.
        needs_tile: whether tiles are made where the adjoint itself does not need them.
        is_complex: whether the numbers are complex.
    """
    rehearsal = Rehearsal(is_complex)
    rehearsal.pull_back(nest, needs_tile)
    head = nest.head_adjoint
    counted, runs = _cost(head.forward, itemsize) + _cost(head.backward, itemsize), 1
    for number, stage in enumerate(nest.stages):
        runs *= stage.count
        adjoint = stage.adjoint
        seen = needs_tile or number < len(nest.stages) - 1
        shares = sum(tensor.size for tensor in adjoint.reached)  # each is added to what other iterations contributed
        added = Cost(shares, 3 * shares * itemsize, 0, len(adjoint.reached))
        forward = _cost(adjoint.forward if seen else stage.residuals, itemsize)
        counted = counted + (forward + _cost(adjoint.backward, itemsize) + added).times(runs)
    return _peaking(counted, nest, rehearsal, itemsize)


def _peaking(counted: Cost, nest: Nest, rehearsal: Rehearsal, itemsize: int) -> Cost:
    held = rehearsal.peak + sum(tensor.size for tensor in nest.head.inputs)
    return replace(counted, peak_bytes=held * itemsize)
