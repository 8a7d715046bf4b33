"""The program of the product x @ W.T that never forms W: x is contracted with the cores (mathematics, section 4).

The levels up to the last activation are lowered as they are. All that comes after is linear: the state, the cores, the
scale and x are one network, contracted along the path that is predicted to take the least time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache

from adntn.network import SCALE, Leg, Level, Network
from adntn.program.adjoint import Adjoint, adjoint
from adntn.program.ir import Contract, Pointwise, Program, Step, Tensor
from adntn.program.leg_order import contract_along
from adntn.program.lower import batch_legs, core_legs, lower_levels
from adntn.program.path import Paths, quick_path

#: From so many rows it is seen how large the results of many rows are.
FEW_ROWS = 32
#: The most numbers that a result in between holds where x is contracted in slabs of rows.
LARGEST = 2**19


def why_not_contract(network: Network) -> str:
    """Return what keeps x from going into the cores, in words; "" if nothing does."""
    last = network.levels[-1].activation
    if not last.is_identity:
        return f'needs last_activation="identity", but {last} stands after the last level; "stream" forms no weight'
    if len(network.layout.shape) != 2:
        return f"needs a matrix (out, in), but the weight's shape is {network.layout.shape}"
    return ""


def check_contracts(network: Network) -> None:
    """Check that x can go into the cores.

    Raises:
        ValueError: if an activation stands after the last level, or the weight is no matrix.
    """
    if reason := why_not_contract(network):
        raise ValueError(f'schedule "contract" {reason}')


@lru_cache(maxsize=256)
def contraction(network: Network, rows: int, paths: Paths = (), like: int | None = None) -> Program:
    """Return the program that computes y = x @ W.T from the cores, the scale and x, its last input.

    The legs of x are its rows and the columns of the padded weight; those of y its rows and the rows of the padded
    weight; behind the batch leg, if there is one. Numbers of rows between two powers of two share their search.

    Args:
        network: of a matrix (out, in).
        rows: how many rows x has, at least 1.
        paths: contraction paths of the levels up to the last activation, None where the order is chosen here.
        like: the number of rows to search an order for; by default the same.

    Raises:
        ValueError: if the weight is no matrix, or an activation stands after the last level.
    """
    likely = 1 << ((like or rows) - 1).bit_length()
    planned = _planned(network, likely, paths)
    if likely == rows:
        return planned
    leg = planned.inputs[-1].legs[0 if network.batch is None else 1]
    return resized(planned, leg, Leg(leg.label, rows))


@dataclass(frozen=True)
class Halves:
    """A contraction in two programs: what the cores make alone, and what is made with rows of x.

    Attributes:
        head: from the cores and the scale to what the tail reads.
        tail: from these, cores and x, its last input, to y.
    """

    head: Program
    tail: Program

    @property
    def x(self) -> Tensor:
        """The rows of x."""
        return self.tail.inputs[-1]

    @cached_property
    def head_adjoint(self) -> Adjoint:
        """The adjoint of the head."""
        return adjoint(self.head)

    @cached_property
    def tail_adjoint(self) -> Adjoint:
        """The adjoint of the tail."""
        return adjoint(self.tail)


@lru_cache(maxsize=256)
def halves(network: Network, rows: int, paths: Paths = (), like: int | None = None) -> Halves:
    """Return the two halves of `contraction`; with the same `like`, all numbers of rows share the head."""
    program = contraction(network, rows, paths, like)
    *cores, x = program.inputs
    late = {x.name}
    for step in program.steps:
        if late.intersection(tensor.name for tensor in step.inputs):
            late.add(step.out.name)
    made = {step.out.name: step.out for step in program.steps if step.out.name not in late}
    after = [step for step in program.steps if step.out.name in late]
    read = dict.fromkeys(tensor.name for step in after for tensor in step.inputs if tensor.name not in late)
    head = Program(tuple(cores), program.steps, ()).returning(made[name] for name in read if name in made)
    direct = (core for core in cores if core.name in read)
    return Halves(head, Program((*direct, *head.outputs, x), tuple(after), program.outputs))


@lru_cache(maxsize=256)
def slab_rows(network: Network, rows: int, largest: int, paths: Paths = ()) -> int:
    """Return of how many rows slabs of x should be, so that no result made from one holds more than `largest` numbers.

    They are as even as can be; a single row may need more than `largest`.
    """
    few = min(rows, FEW_ROWS)
    most = 1 << max((largest * few // _largest(network, few, paths)).bit_length() - 1, 0)
    slab = _even(rows, most)
    while slab > 1 and _largest(network, slab, paths) > largest:  # of more rows, larger results may be worth their time
        slab = _even(rows, slab // 2)
    return slab


def _largest(network: Network, rows: int, paths: Paths) -> int:
    return max(step.out.size for step in halves(network, rows, paths, rows).tail.steps)


def _even(rows: int, most: int) -> int:
    return math.ceil(rows / math.ceil(rows / most))


@lru_cache(maxsize=256)
def _planned(network: Network, rows: int, paths: Paths) -> Program:
    check_contracts(network)
    first, batch = network.first_linear_level, batch_legs(network)
    before = lower_levels(network, paths)[:first]
    state = [before[-1].state] if before else []
    nodes, after = joined([leg for tensor in state for leg in tensor.legs], network.levels[first:])
    factors = [*state, *(Tensor(name, (*batch, *legs)) for name, legs in nodes)]

    used = {leg.label for tensor in factors for leg in tensor.legs}
    lead = (*batch, Leg(free_name("row", used), rows))
    order = sorted(range(len(after)), key=lambda place: network.layout.order[place])
    rows_and_columns = [tuple(after[leg] for leg in order if network.layout.order[leg][0] == side) for side in (0, 1)]
    x = Tensor(free_name("x", set(network.core)), lead + rows_and_columns[1])
    y = Tensor(free_name("y", set(network.core)), lead + rows_and_columns[0])

    inputs = [Tensor(name, core_legs(network, name)) for name in network.core]
    scale = Tensor(SCALE, batch)
    place = min(range(len(factors)), key=lambda place: factors[place].size)
    smallest = factors[place]
    factors[place] = Tensor(f"scaled {smallest.name}", smallest.legs)
    factors.append(x)
    path = quick_path([tensor.legs[len(batch) :] for tensor in factors], y.legs[len(batch) :], lead[-1])
    names = (f"level{first}/part{number}" for number in range(len(factors)))
    steps: list[Step] = [step for level in before for step in level.steps]
    steps += [Contract(factors[place], smallest, scale), *contract_along(factors, path, y, batch, names)]
    return Program((*inputs, scale, x), tuple(steps), (y,))


def joined(state: Iterable[Leg], levels: Iterable[Level]) -> tuple[list[tuple[str, tuple[Leg, ...]]], tuple[Leg, ...]]:
    """Return the cores of several levels, with legs named apart, and the legs that are left.

    Within a level each label is one leg; a later level may give the label of a leg that has been summed to another.
    """
    now = {leg: leg for leg in state}
    used = {leg.label for leg in now}
    nodes = []
    for level in levels:
        for leg in dict.fromkeys(leg for node in level.nodes for leg in node.legs if leg not in now):
            now[leg] = Leg(free_name(leg.label, used), leg.size)
            used.add(now[leg].label)
        nodes += [(node.core, tuple(now[leg] for leg in node.legs)) for node in level.nodes]
        now = {leg: now[leg] for leg in level.output}
    return nodes, tuple(now.values())


def free_name(name: str, used: set[str]) -> str:
    """Return a name, with as many primes as it takes for it not to be in use."""
    while name in used:
        name += "'"
    return name


def resized(program: Program, old: Leg, new: Leg) -> Program:
    """Return the program with another size of one leg."""

    def changed(tensor: Tensor) -> Tensor:
        return Tensor(tensor.name, tuple(new if leg == old else leg for leg in tensor.legs))

    def again(step: Step) -> Step:
        if isinstance(step, Contract):
            return Contract(changed(step.out), changed(step.left), changed(step.right), step.conjugate)
        return Pointwise(step.kind, changed(step.out), tuple(map(changed, step.inputs)), step.activation)

    return Program(
        tuple(map(changed, program.inputs)), tuple(map(again, program.steps)), tuple(map(changed, program.outputs))
    )
