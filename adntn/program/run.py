"""Running a program on arrays of any library."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from adntn.activations import Activation
from adntn.arrays import Array, Namespace
from adntn.program.ir import Contract, Kind, Pointwise, Program


def run(
    program: Program,
    arrays: Mapping[str, Array],
    functions: Namespace,
    into: Array | None = None,
    totals: Mapping[str, Array] | None = None,
) -> tuple[Array, ...]:
    """Return the program's outputs, each as an array of any shape with its elements in row-major order of its legs.

    Nothing is checked here: `Generator` checks what users hand in. Results are let go after their last use.

    Args:
        program: the steps.
        arrays: its inputs, by name.
        functions: of the arrays' library.
        into: a contiguous array that the first output, a step's result, is written into; only where libraries can.
        totals: contiguous arrays that outputs of these names, results of steps that nothing else reads, are added to.
    """
    values = dict(arrays)
    written = None if into is None else program.outputs[0].name
    totals = totals or {}
    for step, releases in zip(program.steps, program.releases, strict=True):
        if isinstance(step, Contract):
            left, right = (
                functions.conj(values[tensor.name]) if conjugate else values[tensor.name]
                for tensor, conjugate in zip(step.inputs, step.conjugate, strict=True)
            )
            if step.out.name in totals:
                step.form.add(left, right, totals[step.out.name], functions)
                values[step.out.name] = totals[step.out.name]
            elif step.out.name == written and step.form.is_direct:
                step.form.write(left, right, into, functions)
                values[step.out.name] = into
            else:
                values[step.out.name] = step.form(left, right, functions)
        else:
            values[step.out.name] = _pointwise(step, values, functions)
            if step.out.name in totals:
                total = totals[step.out.name]
                total += functions.reshape(values[step.out.name], total.shape)
        if into is not None and step.out.name == written and values[written] is not into:
            into[...] = functions.reshape(values[written], into.shape)
            values[written] = into
        for name in releases:
            del values[name]
    return tuple(values[tensor.name] for tensor in program.outputs)


def _pointwise(step: Pointwise, values: Mapping[str, Array], functions: Namespace) -> Array:
    *others, last = (values[tensor.name] for tensor in step.inputs)
    arrays = (*(functions.reshape(other, last.shape) for other in others), last)
    if step.kind == "add":
        return arrays[0] + arrays[1]
    if step.activation is None:
        raise ValueError(f"the step {step} has no activation")
    if functions.fuse is None:
        return _computed(step.kind, step.activation, functions, *arrays)
    return _fused(step.kind, step.activation, functions, functions.fuse)(*arrays)


def _computed(kind: Kind, activation: Activation, functions: Namespace, *arrays: Array) -> Array:
    if kind == "map":
        return activation.function(functions, arrays[0])
    return arrays[0] * functions.conj(activation.derivative(functions, arrays[1]))


#: Fused kernels made so far, by library, whether it is complex, kind and activation.
_FUSED: dict[tuple[str, bool, Kind, Activation], Callable[..., Array]] = {}


def _fused(kind: Kind, activation: Activation, functions: Namespace, fuse: Callable[..., Any]) -> Callable[..., Array]:
    """Return the kernel of a pointwise step, one pass over its arrays; step by step where it cannot be fused."""
    key = functions.backend, functions.is_complex, kind, activation
    if key not in _FUSED:
        traced = replace(functions, zeros_like=_traced_zeros)

        def plain(*arrays: Array) -> Array:
            return _computed(kind, activation, functions, *arrays)

        def pointwise(*arrays: Array) -> Array:
            return _computed(kind, activation, traced, *arrays)

        kernel = fuse(pointwise)

        def attempted(*arrays: Array) -> Array:
            try:
                return kernel(*arrays)
            except (AttributeError, NotImplementedError, TypeError):  # a user's activation that cannot be traced
                _FUSED[key] = plain
                return plain(*arrays)

        _FUSED[key] = attempted
    return _FUSED[key]


def _traced_zeros(array: Array) -> Array:
    """Return zeros without asking for a shape, which arrays do not have while they are traced; NaN gives zero too."""
    return (array > array).astype(array.dtype)  # noqa: PLR0124 (false everywhere)
