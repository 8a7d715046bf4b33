"""How far two computations of the same numbers may be apart."""

from __future__ import annotations

from adntn.arrays import SHORT_DTYPES
from adntn.generator import Generator

#: The distance from 1 to the next number of a type (of its real and imaginary parts).
EPSILON = {
    "float16": 2.0**-10,
    "bfloat16": 2.0**-7,
    "float32": 2.0**-23,
    "complex64": 2.0**-23,
    "float64": 2.0**-52,
    "complex128": 2.0**-52,
}
#: How much of a relative change of cores and dL/dW may arrive in a result, at least and at most, for a tolerance.
WELL_CONDITIONED, ILL_CONDITIONED = 16.0, 1024.0


def depth(generator: Generator) -> int:
    """Return the length of the longest chain of steps, each reading the one before, in the program and its adjoint.

    >>> import adntn
    >>> depth(adntn.LowRank((4, 4), rank=2))
    2
    """
    steps = (*generator.adjoint.forward.steps, *generator.adjoint.backward.steps)
    longest: dict[str, int] = {}
    for step in steps:
        longest[step.out.name] = 1 + max(longest.get(tensor.name, 0) for tensor in step.inputs)
    return max(longest.values(), default=0)


def tolerance(dtype: str, depth: int, condition: float = WELL_CONDITIONED) -> float:
    """Return the largest relative error, in the norm of a weight or of one core's gradient, that counts as agreement.

    Every step rounds, by about epsilon relative to the norm of its result (the errors in a sum have both signs), and
    what a step has rounded arrives in the end as a change of its input would: multiplied by at most the condition of
    the whole. The sum over the longest chain of steps is `condition * depth * epsilon`. Generators are verified at
    cores where the condition is below `WELL_CONDITIONED`, which then stands in its place; a generator that has no such
    cores within easy reach is granted its own condition, up to `ILL_CONDITIONED`. The 16-bit types are computed in
    float32 and rounded once, at the end, which adds one epsilon of theirs.

    >>> tolerance("float64", 10) < 1e-13, tolerance("float32", 10) < 2e-5, tolerance("bfloat16", 10) < 1e-2
    (True, True, True)

    Args:
        dtype: the number type that is computed in.
        depth: of the program and its adjoint, see `depth`.
        condition: how much of a relative change of cores and dL/dW arrives in the results.
    """
    amplified = min(max(condition, WELL_CONDITIONED), ILL_CONDITIONED) * depth
    if dtype in SHORT_DTYPES:
        return EPSILON[dtype] + amplified * EPSILON["float32"]
    return amplified * EPSILON[dtype]
