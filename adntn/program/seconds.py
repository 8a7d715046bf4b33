"""How long a program takes, predicted from the roofline of a machine, step by step."""

from __future__ import annotations

from adntn.machine import Machine
from adntn.program.cost import step_bytes, step_operations
from adntn.program.ir import Contract, Program, Step
from adntn.program.nest import Nest

#: Seconds that running a step takes beyond the array library's own call: Python, and threads that meet.
STEP = 2e-5
#: Products of small matrices move numbers at about so much of the speed of a copy.
SMALL = 0.6
#: Transposes of many axes move them at about so much of the speed of a copy in memory, however small they are.
TRANSPOSED = 0.5


def program_seconds(program: Program, machine: Machine, itemsize: int, step: float = STEP) -> float:
    """Return the predicted time of a program, step by step."""
    return sum(step_seconds(one, machine, itemsize, step) for one in program.steps)


def step_seconds(one: Step, machine: Machine, itemsize: int, step: float = STEP) -> float:
    """Return the predicted time of a step; `step` are the seconds that any takes."""
    moved = step_bytes(one, itemsize)
    if isinstance(one, Contract):
        computed = machine.seconds(step_operations(one), moved, SMALL)
        return step + computed + transposing_seconds(one.form.transposed, machine, itemsize)
    return step + max(one.out.size / machine.tanh, machine.seconds(0, moved, SMALL))


def transposing_seconds(numbers: int, machine: Machine, itemsize: int) -> float:
    """Return the predicted time of copying so many numbers into another order."""
    return 2 * numbers * itemsize / (TRANSPOSED * machine.bandwidth)


def nest_seconds(nest: Nest, machine: Machine, itemsize: int, step: float = STEP) -> float:
    """Return the predicted time of making all tiles."""
    total, runs = program_seconds(nest.head, machine, itemsize, step), 1
    for stage in nest.stages:
        runs *= stage.count
        total += runs * program_seconds(stage.program, machine, itemsize, step)
    return total


def nest_adjoint_seconds(
    nest: Nest, machine: Machine, itemsize: int, needs_tile: bool | None, step: float = STEP
) -> float:
    """Return the predicted time of pulling the adjoints of all tiles back.

    The tiles are made again before, or what their adjoint needs if `needs_tile` is false; None if they were kept.
    """
    head = nest.head_adjoint
    total, runs = sum(program_seconds(program, machine, itemsize, step) for program in (head.forward, head.backward)), 1
    for number, stage in enumerate(nest.stages):
        runs *= stage.count
        seen = needs_tile or number < len(nest.stages) - 1
        forward = stage.adjoint.forward if seen else stage.others if needs_tile is None else stage.residuals
        added = sum(tensor.size for tensor in stage.adjoint.reached) * itemsize * 3 / machine.cached_bandwidth
        programs = (forward, stage.adjoint.backward)
        total += runs * (added + sum(program_seconds(program, machine, itemsize, step) for program in programs))
    return total
