"""Running a program on arrays of any library."""

from __future__ import annotations

from collections.abc import Mapping

from adntn.arrays import Array, Namespace
from adntn.program.ir import Contract, Pointwise, Program


def run(program: Program, arrays: Mapping[str, Array], functions: Namespace) -> tuple[Array, ...]:
    """Return the program's outputs, each as an array of any shape with its elements in row-major order of its legs.

    Nothing is checked here: `Generator` checks what users hand in. Results are let go after their last use.
    """
    values = dict(arrays)
    for step, releases in zip(program.steps, program.releases, strict=True):
        if isinstance(step, Contract):
            left, right = values[step.left.name], values[step.right.name]
            values[step.out.name] = step.form(
                functions.conj(left) if step.conjugate[0] else left,
                functions.conj(right) if step.conjugate[1] else right,
                functions,
            )
        else:
            values[step.out.name] = _pointwise(step, values, functions)
        for name in releases:
            del values[name]
    return tuple(values[tensor.name] for tensor in program.outputs)


def _pointwise(step: Pointwise, values: Mapping[str, Array], functions: Namespace) -> Array:
    first, *others = (values[tensor.name] for tensor in step.inputs)
    if step.kind == "add":
        return first + functions.reshape(others[0], first.shape)
    if step.activation is None:
        raise ValueError(f"the step {step} has no activation")
    if step.kind == "map":
        return step.activation.function(functions, first)
    slope = functions.conj(step.activation.derivative(functions, others[0]))
    return functions.reshape(first, slope.shape) * slope
