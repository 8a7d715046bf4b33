"""The tangent of a program: the same two kinds of step, forward (mathematics, section 3).

For c = sum a b, c_dot = sum a_dot b + a b_dot; for x = f(z), x_dot = z_dot f'. Many directions at once are one leg more
on all that moves: what they share is made once. The result is a program like any other, so it is printed, costed, cut
into tiles and run on any array library. There is no conjugate anywhere: activations of complex cores are holomorphic.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from adntn.network import BATCH, Leg
from adntn.program.ir import Contract, Pointwise, Program, Step, Tensor


@dataclass(frozen=True)
class Tangent:
    """A program with its derivative along directions in its inputs.

    Attributes:
        program: from the inputs, then the directions, to the results, then their derivatives.
        derivatives: the tangents of the results, in their order.
    """

    program: Program
    derivatives: tuple[Tensor, ...]

    @property
    def alone(self) -> Program:
        """The program that returns nothing but the derivatives."""
        return self.program.returning(self.derivatives)


def dotted(name: str) -> str:
    """Return the name of a tensor's tangent."""
    return f"{name}_dot"


def tangent(program: Program, moving: Collection[str] | None = None, count: int | None = None) -> Tangent:
    """Return the tangent of a program, whose outputs are results of its steps.

    Args:
        program: of contractions and maps.
        moving: names of the inputs that have a direction, on which every output depends; None for all.
        count: of directions at once: a leg of that size, behind the batch axis, on all that moves; None for one
            direction, without a leg.
    """
    lead = () if count is None else (Leg(_new_label(program), count),)

    def dot(tensor: Tensor, name: str | None = None) -> Tensor:
        after = sum(leg.label == BATCH for leg in tensor.legs[:1])
        return Tensor(name or dotted(tensor.name), (*tensor.legs[:after], *lead, *tensor.legs[after:]))

    moved = {tensor.name for tensor in program.inputs if moving is None or tensor.name in moving}
    directions = [dot(tensor) for tensor in program.inputs if tensor.name in moved]
    steps: list[Step] = []
    for step in program.steps:
        steps.append(step)
        parts = [place for place, tensor in enumerate(step.inputs) if tensor.name in moved]
        if not parts:
            continue
        moved.add(step.out.name)
        out = dot(step.out)
        if isinstance(step, Pointwise):
            (before,) = step.inputs
            if step.kind != "map" or step.activation is None:
                raise NotImplementedError("the tangent of an adjoint or tangent program is not defined")
            kept = step.out if step.activation.derivative_of == "output" else before
            steps.append(Pointwise("tangent", out, (dot(before), kept), step.activation))
            continue
        shares = [out] if len(parts) == 1 else [dot(step.out, f"{out.name} (share {place})") for place in parts]
        for place, share in zip(parts, shares, strict=True):
            left, right = (dot(tensor) if place == own else tensor for own, tensor in enumerate(step.inputs))
            steps.append(Contract(share, left, right, step.conjugate))
        if len(shares) > 1:
            steps.append(Pointwise("add", out, tuple(shares)))
    derivatives = tuple(dot(tensor) for tensor in program.outputs)
    inputs = (*program.inputs, *directions)
    return Tangent(Program(inputs, tuple(steps), (*program.outputs, *derivatives)), derivatives)


def _new_label(program: Program) -> str:
    """Return a label that no leg of the program has."""
    used = {leg.label for step in program.steps for tensor in (*step.inputs, step.out) for leg in tensor.legs}
    label = "direction"
    while label in used:
        label += "_"
    return label
