"""What a program costs: operations, bytes moved and peak memory, counted from its steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

from adntn.program.ir import Contract, Program, Step


@dataclass(frozen=True)
class Cost:
    """Counts for one run of a program.

    Attributes:
        operations: multiplications and additions of contractions, and one for each number of a pointwise map.
        bytes_moved: bytes that the steps read and write, if nothing stays in a cache.
        peak_bytes: the most bytes held at once, inputs and outputs included; workspace of the array library excluded.
    """

    operations: int
    bytes_moved: int
    peak_bytes: int


def cost(program: Program, itemsize: int = 4) -> Cost:
    """Return the cost of a program whose numbers take `itemsize` bytes."""
    alive: dict[str, int] = {}
    operations = moved = 0
    peak = held = sum(tensor.size for tensor in program.inputs)
    for step, releases in zip(program.steps, program.releases, strict=True):
        operations += _operations(step)
        moved += sum(tensor.size for tensor in (*step.inputs, step.out))
        alive[step.out.name] = step.out.size
        held += step.out.size
        peak = max(peak, held)
        for name in releases:
            held -= alive.pop(name, 0)  # inputs stay with the caller
    return Cost(operations, moved * itemsize, peak * itemsize)


def _operations(step: Step) -> int:
    if not isinstance(step, Contract):
        return step.out.size
    joint = math.prod(leg.size for leg in {*step.left.legs, *step.right.legs})
    return 2 * joint if step.summed else joint
