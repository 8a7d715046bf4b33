"""Contraction paths: found by any optimiser of opt_einsum or cotengra, then kept as data.

A path says which pair of tensors is contracted next; the result goes to the end of the list, as opt_einsum has it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import opt_einsum

from adntn.machine import DEFAULT
from adntn.network import Leg
from adntn.program.ir import Tensor

#: Pairs of positions in the list of the tensors that are left.
Path = tuple[tuple[int, int], ...]
#: A path for each level; None for a level that is contracted as `lower` decides.
Paths = tuple[Path | None, ...]
#: How often `quick_path` repeats its search. Of more trials there are fewer operations, but not always less time.
TRIALS = (32, 64)
#: What to do where an optimiser cannot search several levels.
ONE_USE = (
    "an optimiser that remembers its first contraction, as most of opt_einsum's and cotengra's HyperOptimizer do,"
    " serves one level: name the level, or take a ReusableHyperOptimizer"
)


def find_path(tensors: Sequence[Tensor], output: Sequence[Leg], optimize: Any, where: str) -> Path:
    """Return the path that an optimiser finds, or the given path, checked.

    Args:
        tensors: what is contracted.
        output: the legs that are left.
        optimize: a name that opt_einsum knows, an optimiser with opt_einsum's interface, a path, or what holds one: an
            `opt_einsum.contract.PathInfo` or a `cotengra.ContractionTree`.
        where: what is contracted, for errors.

    Raises:
        TypeError, ValueError: if `optimize` is no optimiser, unknown, or a path that does not contract the tensors.
    """
    if isinstance(optimize, str):
        optimize = _named(optimize)
    if not callable(optimize):
        return _checked(_held(optimize), len(tensors), where)
    try:
        return _checked(_search(tensors, output, optimize), len(tensors), where)
    except ValueError as error:
        if isinstance(optimize, opt_einsum.paths.PathOptimizer):
            raise ValueError(f"{error} (from {type(optimize).__name__}; {ONE_USE})") from error
        raise


def quick_path(tensors: Sequence[Sequence[Leg]], output: Sequence[Leg], many: Leg) -> Path:
    """Return the path of the least predicted time among those of a fraction of a second's search, always the same.

    opt_einsum's greedy search is repeated with noise. It looks for few operations; which of the paths that it finds is
    best is a question of operations and of bytes together. Searches for the best path of all take minutes where the
    networks of a weight have loops.

    Args:
        tensors: the legs of each.
        output: the legs that are left.
        many: a leg that may be much larger than the others; the search is also made as if it were not.
    """
    if len(tensors) <= 2:
        return ((0, 1),)[: len(tensors) - 1]
    # numbers instead of labels: sets of words have another order in each process
    number = {leg: place for place, leg in enumerate(dict.fromkeys(leg for legs in tensors for leg in legs))}
    inputs = [frozenset(number[leg] for leg in legs) for legs in tensors]
    left, sizes = frozenset(number[leg] for leg in output), {place: leg.size for leg, place in number.items()}
    state = random.getstate()  # each trial seeds the generator that users draw from
    try:
        found = [
            _checked(opt_einsum.RandomGreedy(max_repeats=trials)(inputs, left, assumed), len(tensors), "x @ W.T")
            for assumed in (sizes, {**sizes, number[many]: 1})
            for trials in TRIALS
        ]
    finally:
        random.setstate(state)
    return min(found, key=lambda path: _seconds(tensors, output, path))


def _seconds(tensors: Sequence[Sequence[Leg]], output: Sequence[Leg], path: Path) -> float:
    """Return the time that a path is predicted to take, on a common processor in float32."""
    remaining, total = [frozenset(legs) for legs in tensors], 0.0
    for pair in path:
        left, right = (remaining[place] for place in pair)
        remaining = [legs for place, legs in enumerate(remaining) if place not in pair]
        out = (left | right) & frozenset(output).union(*remaining)
        size = sum(math.prod(leg.size for leg in legs) for legs in (left, right, out))
        operations = 2 * math.prod(leg.size for leg in left | right)
        total += DEFAULT.seconds(operations, 4 * size)
        remaining.append(out)
    return total


def _named(name: str) -> Callable[..., Any]:
    try:
        optimiser: Callable[..., Any] = opt_einsum.paths.get_path_fn(name)
    except KeyError as error:
        raise ValueError(f"optimize must be a name that opt_einsum knows, got {name!r}: {error.args[0]}") from None
    return optimiser


def _search(tensors: Sequence[Tensor], output: Sequence[Leg], optimiser: Callable[..., Any]) -> Any:
    if len(tensors) <= 2:
        return [(0, 1)][: len(tensors) - 1]  # there is no choice, and some optimisers fail on it
    return optimiser(
        [frozenset(leg.label for leg in tensor.legs) for tensor in tensors],
        frozenset(leg.label for leg in output),
        {leg.label: leg.size for tensor in tensors for leg in tensor.legs},
    )


def _held(path: Any) -> Any:
    """Return the path that cotengra's tree or opt_einsum's account of a contraction holds; a plain path as it is."""
    return path.get_path() if hasattr(path, "get_path") else getattr(path, "path", path)


def _checked(path: Any, count: int, where: str) -> Path:
    """Return a path of `count` tensors as plain tuples."""
    try:
        steps = [tuple(position.__index__() for position in step) for step in path]
    except (AttributeError, TypeError):
        raise TypeError(
            "optimize must be a name, an optimiser of opt_einsum or cotengra, or a path such as [(0, 1), (0, 1)] or"
            f" their objects that hold one, got {path!r}"
        ) from None
    if len(steps) != count - 1:
        raise ValueError(f"the path of {where} must have {count - 1} steps for {count} tensors, got {len(steps)}")
    for step, left in zip(steps, range(count, 1, -1), strict=True):
        if len(step) != 2 or step[0] == step[1] or not all(0 <= position < left for position in step):
            raise ValueError(
                f"each step of the path of {where} must be two different positions among the tensors left,"
                f" 0 to {left - 1} here, got {step}"
            )
    return tuple((first, second) for first, second in steps)
