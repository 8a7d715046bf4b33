"""A program run tile by tile: loops over the first legs of the weight's rows, with everything in its place.

A *nest* is a program and the legs that it loops over. Small tensors, and those without a looped leg, are made once, in
the *head*; the others are made in *stages*, loops inside loops, each as far out as its legs allow: a stage holds only
the part of a state that its tiles share. The adjoint runs through the same loops: it makes a tile again, takes the
adjoint of the tile, and adds its share to the adjoints of all that the tile was made from. Neither the weight nor its
adjoint ever has to exist as a whole (mathematics, section 4).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

from adntn.arrays import Array, Namespace
from adntn.network import Leg
from adntn.program.adjoint import Adjoint, adjoint
from adntn.program.ir import Contract, Pointwise, Program, Step, Tensor
from adntn.transposing import Transposition, padded, transposition


@dataclass(frozen=True)
class Loop:
    """A leg of which each tile has `step` neighbouring values; the last ones may lie beyond the leg's size."""

    leg: Leg
    step: int = 1

    @property
    def count(self) -> int:
        """Number of iterations."""
        return -(-self.leg.size // self.step)

    @property
    def inner(self) -> Leg:
        """The leg as it is inside the loop."""
        return Leg(self.leg.label, self.step)


@dataclass(frozen=True)
class Cut:
    """How a tensor made before the loops is cut along its looped legs: into a row for each combination of iterations.

    Attributes:
        sizes: of the tensor's legs.
        padded: the same with looped legs up to a multiple of their step.
        into: to (number of pieces, size of a piece).
        back: the reverse, without the cropping.
    """

    sizes: tuple[int, ...]
    padded: tuple[int, ...]
    into: Transposition
    back: Transposition

    def __call__(self, array: Array, functions: Namespace) -> Array:
        """Return the pieces of a tensor, as rows."""
        if self.sizes != self.padded:
            array = functions.reshape(array, self.sizes)
            for axis, (size, whole) in enumerate(zip(self.sizes, self.padded, strict=True)):
                array = padded(array, axis, size, whole, functions)
        return self.into(array, functions)

    def join(self, pieces: Array, functions: Namespace) -> Array:
        """Return the tensor of these pieces: the adjoint of cutting."""
        array = self.back(pieces, functions)
        if self.sizes == self.padded:
            return array
        return functions.reshape(array, self.padded)[tuple(slice(0, size) for size in self.sizes)]


@dataclass(frozen=True)
class Read:
    """What the stages read of a tensor made before them.

    Attributes:
        source: the tensor's name in the head.
        tensor: name and legs inside the loops.
        cut: how it is cut; None where every tile reads the whole.
        places: for each stage, what each of its iterations adds to the number of the piece.
    """

    source: Tensor
    tensor: Tensor
    cut: Cut | None
    places: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Stage:
    """One loop: what it makes in each iteration from what was read and what the loops around it made.

    Attributes:
        loops: the legs that this loop binds.
        program: one iteration; returns what the loops inside need or, in the innermost stage, the tile.
        rows: what each iteration adds to the number of the tile's first row.
    """

    loops: tuple[Loop, ...]
    program: Program
    rows: tuple[int, ...]

    @property
    def count(self) -> int:
        """Number of iterations, for each iteration of the loops around it."""
        return len(self.rows)

    @cached_property
    def adjoint(self) -> Adjoint:
        """The adjoint of one iteration."""
        return adjoint(self.program)

    @cached_property
    def residuals(self) -> Program:
        """One iteration without the tile, where only its adjoint is wanted."""
        return self.program.returning(self.adjoint.residuals)

    @cached_property
    def others(self) -> Program:
        """One iteration where the results are known already and only their adjoint is wanted."""
        known = {tensor.name for tensor in self.program.outputs}
        return self.program.returning(tensor for tensor in self.adjoint.residuals if tensor.name not in known)


@dataclass(frozen=True)
class Nest:
    """A program as a head and loops inside loops.

    Attributes:
        head: what is made once, from the program's inputs.
        reads: what the stages read of the head's results and of the inputs.
        stages: from the outermost loop to the innermost.
        tile_rows: how many rows of the (padded) weight a tile has.
    """

    head: Program
    reads: tuple[Read, ...]
    stages: tuple[Stage, ...]
    tile_rows: int

    @cached_property
    def head_adjoint(self) -> Adjoint:
        """The adjoint of the head."""
        return adjoint(self.head)

    @cached_property
    def numbers_of_cut(self) -> dict[str, int]:
        """The number of each read that is cut, by its name inside the loops."""
        return {read.tensor.name: number for number, read in enumerate(self.reads) if read.cut is not None}

    @cached_property
    def first_rows(self) -> tuple[int, ...]:
        """The number of each tile's first row, in the order of the loops."""
        return tuple(sum(rows) for rows in product(*(stage.rows for stage in self.stages)))

    @property
    def tile(self) -> Tensor:
        """The tile that the innermost stage makes."""
        return self.stages[-1].program.outputs[0]

    def __str__(self) -> str:
        lines = [str(step) for step in self.head.steps]
        for depth, stage in enumerate(self.stages):
            over = " ".join(f"{loop.leg}" + (f" by {loop.step}" if loop.step > 1 else "") for loop in stage.loops)
            lines.append("    " * depth + f"for each {over or 'tile'}:")
            lines += ["    " * (depth + 1) + str(step) for step in stage.program.steps]
        return "\n".join([*lines, "    " * len(self.stages) + f"return {self.tile.name}"])


def loops_of(rows: Sequence[Leg], tile_rows: int) -> tuple[Loop, ...]:
    """Return loops over the first row legs that leave about `tile_rows` rows to a tile.

    >>> [(loop.count, loop.step) for loop in loops_of([Leg("a", 4), Leg("b", 4), Leg("c", 4)], 8)]
    [(4, 1), (2, 2)]
    """
    loops: list[Loop] = []
    left = math.prod(leg.size for leg in rows)
    for leg in rows:
        if left <= tile_rows:
            break
        left //= leg.size
        wanted = max(1, tile_rows // left)
        dividing = max(step for step in range(1, wanted + 1) if leg.size % step == 0)
        # only beyond the first leg's last value there are no other rows
        step = dividing if 2 * dividing > wanted or loops else wanted
        loops.append(Loop(leg, step))
        left *= step
        if step > 1:
            break
    return tuple(loops)


def nest(program: Program, rows: Sequence[Leg], loops: Sequence[Loop], whole_size: int) -> Nest:
    """Return a program as loops over legs of its one output.

    Args:
        program: the program; a step that reads two tensors that both depend on a looped leg has it in its result.
        rows: all legs of the rows, in the order in which they count them.
        loops: the legs to loop over: the first rows.
        whole_size: tensors of at most so many numbers are made once with their looped legs, if they can be.
    """
    (result,) = program.outputs
    looped = _looped_legs(program, loops)
    head: list[Step] = []
    depth: dict[str, int] = {}  # of the stage in which a tensor is made
    bound: list[list[Loop]] = []
    stages: list[list[Step]] = []
    whole = {tensor.name for tensor in program.inputs}
    for step in program.steps:
        legs = looped[step.out.name]
        free = step.out.name != result.name and (not legs or step.out.size <= whole_size)
        if free and all(tensor.name in whole for tensor in step.inputs):
            head.append(step)
            whole.add(step.out.name)
            continue
        known = {loop.leg for group in bound for loop in group}
        new = [loop for loop in loops if loop.leg in legs and loop.leg not in known]
        if new or not bound:
            bound.append(new)
            stages.append([])
        own = [number for number, group in enumerate(bound) if any(loop.leg in legs for loop in group)]
        depth[step.out.name] = max([*own, *(depth.get(tensor.name, 0) for tensor in step.inputs)])
        stages[depth[step.out.name]].append(step)
    return _assembled(program, rows, loops, head=head, bound=bound, stages=stages, looped=looped)


def _looped_legs(program: Program, loops: Sequence[Loop]) -> dict[str, set[Leg]]:
    """Return, for each step's result, which of its legs are looped; another leg may have the same label."""
    (result,) = program.outputs
    legs = {loop.leg for loop in loops}
    looped: dict[str, set[Leg]] = {result.name: {leg for leg in result.legs if leg in legs}}
    for step in reversed(program.steps):
        own = looped.setdefault(step.out.name, set())
        for tensor in step.inputs:
            looped.setdefault(tensor.name, set()).update(own.intersection(tensor.legs))
    return looped


def _assembled(
    program: Program,
    rows: Sequence[Leg],
    loops: Sequence[Loop],
    *,
    head: list[Step],
    bound: list[list[Loop]],
    stages: list[list[Step]],
    looped: Mapping[str, set[Leg]],
) -> Nest:
    inner = {loop.leg: loop.inner for loop in loops}
    reads: dict[Tensor, Read] = {}
    made = {step.out.name for steps in stages for step in steps}

    def inside(tensor: Tensor, legs: set[Leg]) -> Tensor:
        shrunk = Tensor(tensor.name, tuple(inner[leg] if leg in legs else leg for leg in tensor.legs))
        if tensor.name in made:
            return shrunk
        if tensor not in reads:
            shrunk = Tensor(f"{tensor.name} (read {len(reads)})", shrunk.legs)
            reads[tensor] = _read(tensor, shrunk, legs, bound)
        return reads[tensor].tensor

    within: list[list[Step]] = []
    for steps in stages:
        within.append([])
        for step in steps:
            legs = looped[step.out.name]
            out = inside(step.out, legs)
            if isinstance(step, Contract):
                left, right = (inside(tensor, legs.intersection(tensor.legs)) for tensor in step.inputs)
                within[-1].append(Contract(out, left, right, step.conjugate))
            else:
                inputs = tuple(inside(tensor, legs.intersection(tensor.legs)) for tensor in step.inputs)
                within[-1].append(Pointwise(step.kind, out, inputs, step.activation))
    sources = dict.fromkeys(read.source.name for read in reads.values())
    results = {step.out.name: step.out for step in head}
    sizes = {loop.leg: loop.step for loop in loops}
    strides = {
        leg: stride * sizes.get(leg, 1) for leg, stride in zip(rows, _strides([leg.size for leg in rows]), strict=True)
    }
    return Nest(
        Program(program.inputs, tuple(head), tuple(results[name] for name in sources if name in results)),
        tuple(reads.values()),
        tuple(
            Stage(tuple(group), body, _numbers(group, strides))
            for group, body in zip(bound, _programs(within), strict=True)
        ),
        math.prod(sizes.get(leg, leg.size) for leg in rows),
    )


def _programs(stages: list[list[Step]]) -> list[Program]:
    """Return each stage's steps as a program that returns what is read further in; the last one the tile."""
    programs = []
    for number, steps in enumerate(stages):
        made = {step.out.name for step in steps}
        inputs = {tensor.name: tensor for step in steps for tensor in step.inputs if tensor.name not in made}
        inside = {tensor.name for later in stages[number + 1 :] for step in later for tensor in step.inputs}
        outputs = [step.out for step in steps if step.out.name in inside]
        if number == len(stages) - 1:
            outputs = [steps[-1].out]
        programs.append(Program(tuple(inputs.values()), tuple(steps), tuple(outputs)))
    return programs


def _strides(sizes: Sequence[int]) -> list[int]:
    return [math.prod(sizes[place + 1 :]) for place in range(len(sizes))]


def _numbers(group: Sequence[Loop], strides: Mapping[Leg, int]) -> tuple[int, ...]:
    """Return what each iteration over a group adds to a row-major number in which looped legs have these strides."""
    iterations = product(*(range(loop.count) for loop in group))
    own = [strides.get(loop.leg, 0) for loop in group]
    return tuple(sum(number * stride for number, stride in zip(numbers, own, strict=True)) for numbers in iterations)


def _read(tensor: Tensor, inside: Tensor, legs: set[Leg], bound: Sequence[Sequence[Loop]]) -> Read:
    loops = [loop for group in bound for loop in group if loop.leg in legs]
    if not loops:
        return Read(tensor, inside, None, ())
    of = {loop.leg: loop for loop in loops}
    split: list[int] = []  # sizes of the axes, a looped leg being two: number of the piece, place in it
    goes_to: list[tuple[int, int]] = []
    whole: list[int] = []
    for place, leg in enumerate(tensor.legs):
        if leg in of:
            split.append(of[leg].count)
            goes_to.append((0, loops.index(of[leg])))
        split.append(of[leg].step if leg in of else leg.size)
        goes_to.append((1, place))
        whole.append(of[leg].count * of[leg].step if leg in of else leg.size)
    pieces = math.prod(loop.count for loop in loops)
    order = sorted(range(len(split)), key=goes_to.__getitem__)
    ranks = [order.index(axis) for axis in range(len(split))]
    cut = Cut(
        tuple(leg.size for leg in tensor.legs),
        tuple(whole),
        transposition(split, ranks, (pieces, inside.size)),
        transposition([split[axis] for axis in order], order, (math.prod(whole),)),
    )
    strides = dict(zip((loop.leg for loop in loops), _strides([loop.count for loop in loops]), strict=True))
    return Read(tensor, inside, cut, tuple(_numbers(group, strides) for group in bound))
