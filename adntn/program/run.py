"""Running a program on arrays of any library."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from adntn.activations import Activation
from adntn.arrays import Array, Namespace
from adntn.program.ir import Contract, Kind, Pointwise, Program
from adntn.program.pool import Pool, may_share_memory


def run(program: Program, arrays: Mapping[str, Array], functions: Namespace) -> tuple[Array, ...]:
    """Return the program's outputs, each as an array of any shape with its elements in row-major order of its legs.

    Nothing is checked here: `Generator` checks what users hand in. Results are let go after their last use.
    """
    values = dict(arrays)
    for step, releases in zip(program.steps, program.releases, strict=True):
        if isinstance(step, Contract):
            left, right = _operands(step, values, functions)
            values[step.out.name] = step.form(left, right, functions)
        else:
            values[step.out.name] = _pointwise(step, values, functions)
        for name in releases:
            del values[name]
    return tuple(values[tensor.name] for tensor in program.outputs)


def run_in_place(
    program: Program,
    arrays: Mapping[str, Array],
    functions: Namespace,
    pool: Pool,
    *,
    into: Mapping[str, Array] | None = None,
    totals: Mapping[str, Array] | None = None,
) -> tuple[Array, ...]:
    """Return the same as `run`, for libraries whose arrays can be written: results lie in buffers of a pool.

    Buffers go back to the pool after their last use; those of the outputs the caller gives back.

    Args:
        program: the steps.
        arrays: its inputs, by name; they are not written.
        functions: of the arrays' library.
        pool: of buffers of the arrays' library and number type.
        into: contiguous arrays that the results of these names, which are outputs, are written into.
        totals: contiguous arrays that the results of these names, which are outputs, are added to.
    """
    values, made = dict(arrays), set[str]()
    wanted = {**(into or {}), **(totals or {})}
    for step, releases in zip(program.steps, program.releases, strict=True):
        name, first = step.out.name, step.inputs[0].name
        if isinstance(step, Contract):
            values[name] = _contracted(step, values, functions, pool, wanted.get(name), adds=name in (totals or {}))
        elif step.overwrite is not None and first in made and first in releases:
            values[name] = values.pop(first)
            step.overwrite(functions, values[name])
        else:
            values[name] = _pointwise(step, values, functions, pool)
        made.add(name)
        if name in wanted and values[name] is not wanted[name]:
            _deliver(values[name], wanted[name], functions, adds=name in (totals or {}))
            pool.give(values[name])
            values[name] = wanted[name]
        for released in releases:
            if released in values and released in made:
                pool.give(values.pop(released))
    return tuple(values[tensor.name] for tensor in program.outputs)


def _contracted(
    step: Contract, values: Mapping[str, Array], functions: Namespace, pool: Pool, wanted: Array | None, *, adds: bool
) -> Array:
    """Return a contraction: where it is wanted if it can be written there, else in a buffer or an array of its own."""
    left, right = _operands(step, values, functions)
    if wanted is not None and adds:
        step.form.add(left, right, wanted, functions)
        return wanted
    if not step.form.is_direct:
        return step.form(left, right, functions)
    result = pool.take(step.out.size) if wanted is None else wanted
    step.form.write(left, right, result, functions)
    return result


def _operands(step: Contract, values: Mapping[str, Array], functions: Namespace) -> tuple[Array, Array]:
    left, right = values[step.left.name], values[step.right.name]
    return (
        functions.conj(left) if step.conjugate[0] else left,
        functions.conj(right) if step.conjugate[1] else right,
    )


def _deliver(made: Array, wanted: Array, functions: Namespace, *, adds: bool) -> None:
    """Put a result where it is wanted."""
    arrived = functions.reshape(made, wanted.shape)
    if adds:
        wanted += arrived
    else:
        wanted[...] = arrived


def _pointwise(step: Pointwise, values: Mapping[str, Array], functions: Namespace, pool: Pool | None = None) -> Array:
    arrays = _aligned(step, values, functions)
    last = arrays[-1]
    if step.kind == "add":
        return arrays[0] + arrays[1]
    if step.activation is None:
        raise ValueError(f"the step {step} has no activation")
    if pool is not None and step.kind == "adjoint" and step.activation.pull is not None:
        buffer = pool.take(step.out.size)
        step.activation.pull(functions, *arrays, out=functions.reshape(buffer, last.shape))
        return buffer
    if functions.fuse is None:
        result = _computed(step.kind, step.activation, functions, *arrays)
    else:
        result = _fused(step.kind, step.activation, functions, functions.fuse)(*arrays)
    if pool is not None and may_share_memory(result, last):  # a user's map that returns what it was given
        buffer = pool.take(step.out.size)
        functions.reshape(buffer, result.shape)[...] = result
        return buffer
    return result


def _aligned(step: Pointwise, values: Mapping[str, Array], functions: Namespace) -> tuple[Array, ...]:
    """Return the inputs of a step in shapes that fit; along a leg that only the first has, the second is repeated."""
    *others, last = (values[tensor.name] for tensor in step.inputs)
    if step.repeats is None:
        return *(functions.reshape(other, last.shape) for other in others), last
    before, count, after = step.repeats
    (first,) = others
    return functions.reshape(first, (before, count, after)), functions.reshape(last, (before, 1, after))


def _computed(kind: Kind, activation: Activation, functions: Namespace, *arrays: Array) -> Array:
    if kind == "map":
        return activation.function(functions, arrays[0])
    derivative = activation.derivative(functions, arrays[1])
    return arrays[0] * (functions.conj(derivative) if kind == "adjoint" else derivative)


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
