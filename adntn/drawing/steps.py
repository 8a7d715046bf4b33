"""What each step of a program costs, as rows of a picture: operations, bytes moved, seconds by the roofline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from adntn.machine import Machine
from adntn.program.cost import step_bytes, step_operations
from adntn.program.ir import Contract, Program, Step
from adntn.program.seconds import step_seconds

#: So many steps are shown; of longer programs those that take the most time, and the others together.
MOST_STEPS = 24


@dataclass(frozen=True)
class StepCost:
    """What a step costs, or several together.

    Attributes:
        step: what is done, as a short formula.
        operations: multiplications and additions; one for each number of a pointwise map.
        bytes_moved: read and written, if nothing stays in a cache.
        seconds: predicted by the roofline of a machine.
    """

    step: str
    operations: int
    bytes_moved: int
    seconds: float


@dataclass(frozen=True)
class CostsPicture:
    """The costs of a program's steps, in the order in which they run."""

    title: str
    steps: tuple[StepCost, ...]

    @property
    def total(self) -> StepCost:
        """The cost of all steps."""
        return _together("all steps", self.steps)


def costs_picture(title: str, program: Program, machine: Machine, itemsize: int) -> CostsPicture:
    """Return the costs of a program's steps.

    Args:
        title: of the picture.
        program: whose steps.
        machine: on which they would run.
        itemsize: bytes of a number.
    """
    steps = [_cost(step, machine, itemsize) for step in program.steps]
    if len(steps) <= MOST_STEPS:
        return CostsPicture(title, tuple(steps))
    by_time = sorted(range(len(steps)), key=lambda number: -steps[number].seconds)
    shown, others = sorted(by_time[: MOST_STEPS - 1]), by_time[MOST_STEPS - 1 :]
    rest = _together(f"{len(others)} other steps", [steps[number] for number in others])
    return CostsPicture(title, (*(steps[number] for number in shown), rest))


def _cost(step: Step, machine: Machine, itemsize: int) -> StepCost:
    if isinstance(step, Contract):
        formula = f"{step.out.name} = {step.left.name} · {step.right.name}"
    else:
        formula = f"{step.out.name} = {step.activation}({step.inputs[0].name})"
    moved = step_bytes(step, itemsize)
    return StepCost(formula, step_operations(step), moved, step_seconds(step, machine, itemsize))


def _together(name: str, steps: Sequence[StepCost]) -> StepCost:
    return StepCost(
        name,
        sum(one.operations for one in steps),
        sum(one.bytes_moved for one in steps),
        sum(one.seconds for one in steps),
    )


def quantity(number: float, unit: str) -> str:
    """Return a number of a unit to two or three digits, with the prefix that it needs.

    >>> quantity(33_554_432, "B"), quantity(2.1e-5, "s"), quantity(0, "s"), quantity(7, "")
    ('33.6 MB', '21 µs', '0 s', '7')
    """
    prefixes = {1e12: "T", 1e9: "G", 1e6: "M", 1e3: "k", 1.0: "", 1e-3: "m", 1e-6: "µ", 1e-9: "n"}
    scale = next((scale for scale in prefixes if number >= scale), 1.0 if number == 0 else 1e-9)
    return f"{number / scale:.3g} {prefixes[scale]}{unit}".rstrip()
