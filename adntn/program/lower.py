"""From a network to its program: which tensors are contracted in which order.

A level is swept from its first leg to its last. Neighbouring cores are multiplied out into one *group* (a Kronecker
product, with the disentanglers between them) before they meet the state, so that the large state is read and written a
few times instead of once per core. Blocks that are no such sweep go through opt_einsum's path search. A level for which
the user has chosen a path is contracted along it instead.

A program that is to run tile by tile (`nest`) is swept in its last level from the last leg to the first: what all tiles
share comes first, and each step then reads the large state in the order in which its result lies in the weight.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from adntn.network import BATCH, SCALE, Leg, Level, Network, Node
from adntn.program.ir import Contract, Pointwise, Program, Step, Tensor
from adntn.program.path import Path, Paths, find_path

#: Cores are grouped while a group's input has at most this many values: the operations that a group spends on each
#: number of its output. Few enough to stay bound by memory traffic, many enough to save passes over the state.
GROUP_INPUT = 16


@dataclass(frozen=True)
class LoweredLevel:
    """The steps of one level.

    Attributes:
        contractions: the linear block.
        block: Z[l], the state before the activation.
        activation: the step from Z[l] to X[l]; None where they are the same.
    """

    contractions: tuple[Step, ...]
    block: Tensor
    activation: Pointwise | None

    @property
    def steps(self) -> tuple[Step, ...]:
        """All steps of the level."""
        return self.contractions if self.activation is None else (*self.contractions, self.activation)

    @property
    def state(self) -> Tensor:
        """X[l], the state after the level."""
        return self.block if self.activation is None else self.activation.out


def lower_levels(network: Network, paths: Paths = (), sweep: Sweep | None = None) -> tuple[LoweredLevel, ...]:
    """Return the steps of every level, without the scale; levels with a path of their own follow it."""
    lowered = []
    state: Tensor | None = None
    last = len(network.levels) - 1
    for number in range(len(network.levels)):
        path = paths[number] if paths else None
        lowered.append(_lower_level(network, number, state, path, sweep if number == last else None))
        state = lowered[-1].state
    return tuple(lowered)


def choose_paths(network: Network, optimize: Any, level: int | None, known: Paths = ()) -> Paths:
    """Return a path for the given level, or for all, found by the optimiser; the other levels keep what is known.

    Raises:
        TypeError, ValueError: if there is no such level, or `optimize` does not fit (see `path.find_path`).
    """
    last = len(network.levels) - 1
    if level is not None and (isinstance(level, bool) or not hasattr(level, "__index__") or not 0 <= level <= last):
        raise ValueError(f"level must be an integer from 0 to {last}, or None for all levels, got {level!r}")
    paths = list(known or (None,) * len(network.levels))
    for number, (legs, own) in enumerate(network.states()):
        if level is None or number == level:
            state = None if number == 0 else Tensor(f"X{number - 1}", batch_legs(network) + legs)
            tensors = _level_tensors(network, own, state)
            paths[number] = find_path(tensors, batch_legs(network) + own.output, optimize, f"level {number}")
    return tuple(paths)


@dataclass(frozen=True)
class Sweep:
    """How the last level is contracted for tiles.

    Attributes:
        looped: how many of the first row legs have one value (or few) in each tile.
        group_input: cores are grouped while the group's input has at most this many values.
    """

    looped: int
    group_input: int = GROUP_INPUT


def lower(network: Network, paths: Paths = (), sweep: Sweep | None = None) -> Program:
    """Return the program that computes the network's last state, times the scale, from its cores.

    The scale is multiplied into the smallest tensor that it commutes with: the state before the last linear levels, or
    a core that stands once in them.

    Args:
        network: what to compute.
        paths: a contraction path for each level, None where the order is chosen here; () for none at all.
        sweep: how the last level is contracted if the program is to run tile by tile.
    """
    levels = lower_levels(network, paths, sweep)
    steps = [step for level in levels for step in level.steps]
    result = levels[-1].state
    inputs = tuple(Tensor(name, core_legs(network, name)) for name in network.core)
    scale = Tensor(SCALE, batch_legs(network))

    plain = _where_scale_commutes(network, levels)
    scaled = Tensor(f"scaled {plain.name}", plain.legs)
    made = [position for position, step in enumerate(steps) if step.out.name == plain.name]
    first = made[0] + 1 if made else 0
    after = [step.renamed(plain.name, scaled.name) for step in steps[first:]]
    steps = [*steps[:first], Contract(scaled, plain, scale), *after]
    if result.name == plain.name:
        result = Tensor(scaled.name, result.legs)
    return Program((*inputs, scale), tuple(steps), (result,))


def _where_scale_commutes(network: Network, levels: tuple[LoweredLevel, ...]) -> Tensor:
    """Return the smallest of the state before the last linear levels and the cores that stand once, in these."""
    where = network.first_linear_level
    uses = Counter(node.core for level in network.levels for node in level.nodes)
    linear = (node for level in network.levels[where:] for node in level.nodes)
    once = [Tensor(node.core, batch_legs(network) + node.legs) for node in linear if uses[node.core] == 1]
    return min([levels[max(where - 1, 0)].state, *once], key=lambda tensor: tensor.size)


def batch_legs(network: Network) -> tuple[Leg, ...]:
    """Return the leg that counts the weights of a batch, if there is one."""
    return () if network.batch is None else (Leg(BATCH, network.batch),)


def core_legs(network: Network, name: str) -> tuple[Leg, ...]:
    """Return the legs of a core as a program's input, where it stands at no place in particular."""
    axes = tuple(Leg(f"axis{axis}", size) for axis, size in enumerate(network.core[name].shape))
    return batch_legs(network) + axes


def _target_order(network: Network) -> dict[Leg, int]:
    return dict(zip(network.levels[-1].output, network.layout.rank_in_weight, strict=True))


def row_legs(network: Network) -> tuple[Leg, ...]:
    """Return the legs of the weight's rows, in the order in which they count the rows."""
    legs = zip(network.layout.order, network.levels[-1].output, strict=True)
    return tuple(leg for (dimension, _), leg in sorted(legs, key=lambda pair: pair[0]) if dimension == 0)


def _level_tensors(network: Network, level: Level, state: Tensor | None) -> list[Tensor]:
    """Return what a level contracts: the state before it, if there is one, then the cores at their places."""
    batch = batch_legs(network)
    factors = [Tensor(node.core, batch + node.legs) for node in level.nodes]
    return factors if state is None else [state, *factors]


def _lower_level(
    network: Network, number: int, state: Tensor | None, path: Path | None, sweep: Sweep | None
) -> LoweredLevel:
    """Return a level's steps; the last level's aim at the order of its legs in the weight."""
    level, batch = network.levels[number], batch_legs(network)
    target = _target_order(network) if number == len(network.levels) - 1 else None
    rows = row_legs(network) if sweep is not None else ()
    block = _Block(number, batch, level.output, target=target, rows=rows, sweep=sweep)
    groups = None if state is None or path is not None else block.groups(level.nodes, state.legs[len(batch) :])
    if state is not None and groups is not None:
        after = block.sweep(state, groups)
    else:
        after = block.contract(_level_tensors(network, level, state), block.output, block.name, path or "auto")
    if level.activation.is_identity:
        return LoweredLevel(tuple(block.steps), after, None)
    activation = Pointwise("map", Tensor(f"X{number}", after.legs), (after,), level.activation)
    return LoweredLevel(tuple(block.steps), after, activation)


def _size(legs: Iterable[Leg]) -> int:
    return math.prod(leg.size for leg in legs)


def _open_legs(tensors: Iterable[tuple[Leg, ...]]) -> tuple[Leg, ...]:
    """Return the legs that appear once."""
    seen: dict[Leg, int] = {}
    for legs in tensors:
        for leg in legs:
            seen[leg] = seen.get(leg, 0) + 1
    return tuple(leg for leg, count in seen.items() if count == 1)


def _groups(
    nodes: Sequence[Node], state: tuple[Leg, ...], group_input: int, looped: frozenset[Leg], whole: frozenset[Leg]
) -> list[list[Node]] | None:
    """Return runs of nodes to be multiplied out, or None if some node touches neither state nor earlier nodes.

    No group makes both `looped` rows and others: those of one tile are shared by many.
    """
    groups: list[list[Node]] = []
    line, entering, made_rows = set(state), set[Leg](), set[Leg]()
    for node in nodes:
        consumed = line.intersection(node.legs)
        if not consumed:
            return None
        made_here = set() if not groups else set(_open_legs(other.legs for other in groups[-1])) - entering
        wider = entering | (consumed - made_here)
        mixed = bool(looped.intersection(node.legs) and whole & made_rows)
        if groups and _size(wider) <= group_input and not mixed:
            groups[-1].append(node)
            entering = wider
        else:
            groups.append([node])
            entering, made_rows = consumed, set()
        made_rows |= {*node.legs} & (looped | whole)
        line = (line - consumed) | (set(node.legs) - consumed)
    return groups


def _from_the_end(nodes: Sequence[Node], state: tuple[Leg, ...]) -> list[Node]:
    """Return the nodes in an order from the last leg to the first; each still follows those whose legs it reads."""
    maker: dict[Leg, int] = {}
    reads: list[set[int]] = []
    for number, node in enumerate(nodes):
        reads.append({maker[leg] for leg in node.legs if leg in maker})
        maker |= {leg: number for leg in node.legs if leg not in maker and leg not in state}
    order: list[int] = []
    for first in reversed([number for number, before in enumerate(reads) if not before]):
        order.append(first)
        while ready := [
            number for number, before in enumerate(reads) if before and number not in order and before <= {*order}
        ]:
            order.append(ready[-1])
    return [nodes[number] for number in order]


class _Block:
    """The linear block of one level while it is lowered: collects steps and names their results."""

    def __init__(
        self,
        number: int,
        batch: tuple[Leg, ...],
        output: tuple[Leg, ...],
        *,
        target: dict[Leg, int] | None,
        rows: tuple[Leg, ...],
        sweep: Sweep | None,
    ) -> None:
        self.number, self.batch, self.target, self.sweep_of_tiles = number, batch, target, sweep
        self.name = f"Z{number}"
        self.looped = frozenset(rows[: sweep.looped] if sweep is not None else ())
        self.rows = frozenset(rows) - self.looped  # whole in every tile
        # rows before columns as early as possible: the last transpose then has fewer axes
        self.order = {leg: place for place, leg in enumerate(output)} if target is None else target
        self.output = (*batch, *sorted(output, key=self._place))
        self.steps: list[Step] = []
        self.count = 0

    def _next_name(self) -> str:
        self.count += 1
        return f"level{self.number}/part{self.count - 1}"

    def _place(self, leg: Leg) -> tuple[int, int]:
        """What legs are sorted by: for tiles whole rows, looped rows, bonds, columns; else bonds come last."""
        if self.sweep_of_tiles is None:
            return 0, self.order.get(leg, len(self.order))
        kind = 0 if leg in self.rows else 1 if leg in self.looped else 3 if leg in self.order else 2
        return kind, self.order.get(leg, 0)

    def groups(self, nodes: Sequence[Node], state: tuple[Leg, ...]) -> list[list[Node]] | None:
        """Return the level's nodes in the groups that meet the state one after another; None if it is no sweep."""
        if self.sweep_of_tiles is None:
            return _groups(nodes, state, GROUP_INPUT, frozenset(), frozenset())
        return _groups(_from_the_end(nodes, state), state, self.sweep_of_tiles.group_input, self.looped, self.rows)

    def sweep(self, state: Tensor, groups: list[list[Node]]) -> Tensor:
        """Apply the groups to the state one after another, each in the place of the legs that it takes."""
        for group in groups:
            own = _open_legs(node.legs for node in group)
            entering = tuple(leg for leg in state.legs if leg in own)
            made = sorted((leg for leg in own if leg not in entering), key=self._place)
            factors = [Tensor(node.core, self.batch + node.legs) for node in group]
            operator = self.contract(factors, (*self.batch, *made, *entering), self._next_name())
            last = group is groups[-1]
            legs = self.output if last and self.target is None else self._after(state.legs, entering, made)
            after = Tensor(self.name if last else self._next_name(), legs)
            self.steps.append(Contract(after, state, operator))
            state = after
        return state

    def _after(self, legs: tuple[Leg, ...], entering: tuple[Leg, ...], made: list[Leg]) -> tuple[Leg, ...]:
        """Return the legs after a group: what it makes stands where its input stood, whole rows in front of all."""
        first = legs.index(entering[0])
        kept = [leg for leg in legs if leg not in entering]
        placed = [*kept[:first], *made, *kept[first:]]
        rows = sorted((leg for leg in placed if leg in self.rows), key=self._place)
        others = [leg for leg in placed if leg not in self.rows and leg not in self.batch]
        return (*self.batch, *rows, *others)

    def contract(
        self, tensors: list[Tensor], output: tuple[Leg, ...], name: str, optimize: str | Path = "auto"
    ) -> Tensor:
        """Contract tensors pairwise along a path; a lone tensor is returned as it is."""
        if len(tensors) == 1:
            return tensors[0]
        remaining = list(tensors)
        for pair in find_path(tensors, output, optimize, f"level {self.number}"):
            left, right = (remaining[place] for place in sorted(pair))
            remaining = [tensor for place, tensor in enumerate(remaining) if place not in pair]
            if remaining:
                elsewhere = {*output, *(leg for tensor in remaining for leg in tensor.legs)}
                joint = dict.fromkeys((*left.legs, *right.legs))
                free = sorted((leg for leg in joint if leg in elsewhere and leg not in self.batch), key=self._place)
                out = Tensor(self._next_name(), (*self.batch, *free))
            else:
                out = Tensor(name, output)
            self.steps.append(Contract(out, left, right))
            remaining.append(out)
        return remaining[0]
