"""From a network to its program: which tensors are contracted in which order.

A level is swept from its first leg to its last. Neighbouring cores are multiplied out into one *group* (a Kronecker
product, with the disentanglers between them) before they meet the state, so that the large state is read and written a
few times instead of once per core. Blocks that are no such sweep go through opt_einsum's path search. A level for which
the user has chosen a path is contracted along it instead.
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


def lower_levels(network: Network, paths: Paths = ()) -> tuple[LoweredLevel, ...]:
    """Return the steps of every level, without the scale; levels with a path of their own follow it."""
    lowered = []
    state: Tensor | None = None
    for number in range(len(network.levels)):
        lowered.append(_lower_level(network, number, state, paths[number] if paths else None))
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
            state = None if number == 0 else Tensor(f"X{number - 1}", _batch_legs(network) + legs)
            tensors = _level_tensors(network, own, state)
            paths[number] = find_path(tensors, _batch_legs(network) + own.output, optimize, f"level {number}")
    return tuple(paths)


def lower(network: Network, paths: Paths = ()) -> Program:
    """Return the program that computes the network's last state, times the scale, from its cores.

    The scale is multiplied into the smallest state that it commutes with: the one before the last linear levels.

    Args:
        network: what to compute.
        paths: a contraction path for each level, None where the order is chosen here; () for none at all.
    """
    levels = lower_levels(network, paths)
    steps = [step for level in levels for step in level.steps]
    result = levels[-1].state
    inputs = tuple(Tensor(name, _core_legs(network, name)) for name in network.core)
    scale = Tensor(SCALE, _batch_legs(network))

    plain = _where_scale_commutes(network, levels, inputs)
    scaled = Tensor(f"scaled {plain.name}", plain.legs)
    made = [position for position, step in enumerate(steps) if step.out.name == plain.name]
    first = made[0] + 1 if made else 0
    after = [step.renamed(plain.name, scaled.name) for step in steps[first:]]
    steps = [*steps[:first], Contract(scaled, plain, scale), *after]
    if result.name == plain.name:
        result = Tensor(scaled.name, result.legs)
    return Program((*inputs, scale), tuple(steps), (result,))


def _where_scale_commutes(network: Network, levels: tuple[LoweredLevel, ...], inputs: tuple[Tensor, ...]) -> Tensor:
    """Return the state before the last linear levels or, if all levels are linear, the smallest core used once."""
    where = len(levels)
    while where > 0 and network.levels[where - 1].activation.is_identity:
        where -= 1
    if where > 0:
        return levels[where - 1].state
    uses = Counter(node.core for level in network.levels for node in level.nodes)
    candidates = [tensor for tensor in inputs if uses[tensor.name] == 1]
    return min(candidates, key=lambda tensor: tensor.size, default=levels[0].state)


def _batch_legs(network: Network) -> tuple[Leg, ...]:
    return () if network.batch is None else (Leg(BATCH, network.batch),)


def _core_legs(network: Network, name: str) -> tuple[Leg, ...]:
    axes = tuple(Leg(f"axis{axis}", size) for axis, size in enumerate(network.core[name].shape))
    return _batch_legs(network) + axes


def _target_order(network: Network) -> dict[Leg, int]:
    return dict(zip(network.levels[-1].output, network.layout.rank_in_weight, strict=True))


def _level_tensors(network: Network, level: Level, state: Tensor | None) -> list[Tensor]:
    """Return what a level contracts: the state before it, if there is one, then the cores at their places."""
    batch = _batch_legs(network)
    factors = [Tensor(node.core, batch + node.legs) for node in level.nodes]
    return factors if state is None else [state, *factors]


def _lower_level(network: Network, number: int, state: Tensor | None, path: Path | None) -> LoweredLevel:
    """Return a level's steps; the last level's aim at the order of its legs in the weight."""
    level, batch = network.levels[number], _batch_legs(network)
    target = _target_order(network) if number == len(network.levels) - 1 else None
    block = _Block(number, batch, level.output, target)
    groups = None if state is None or path is not None else _groups(level.nodes, state.legs[len(batch) :])
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


def _groups(nodes: Sequence[Node], state: tuple[Leg, ...]) -> list[list[Node]] | None:
    """Return runs of nodes to be multiplied out, or None if some node touches neither state nor earlier nodes."""
    groups: list[list[Node]] = []
    line, entering = set(state), set[Leg]()
    for node in nodes:
        consumed = line.intersection(node.legs)
        if not consumed:
            return None
        made_here = set() if not groups else set(_open_legs(other.legs for other in groups[-1])) - entering
        wider = entering | (consumed - made_here)
        if groups and _size(wider) <= GROUP_INPUT:
            groups[-1].append(node)
            entering = wider
        else:
            groups.append([node])
            entering = consumed
        line = (line - consumed) | (set(node.legs) - consumed)
    return groups


class _Block:
    """The linear block of one level while it is lowered: collects steps and names their results."""

    def __init__(
        self, number: int, batch: tuple[Leg, ...], output: tuple[Leg, ...], target: dict[Leg, int] | None
    ) -> None:
        self.number, self.batch, self.target = number, batch, target
        self.name = f"Z{number}"
        # rows before columns as early as possible: the last transpose then has fewer axes
        self.order = {leg: place for place, leg in enumerate(output)} if target is None else target
        self.output = (*batch, *sorted(output, key=self.order.__getitem__))
        self.steps: list[Step] = []
        self.count = 0

    def _next_name(self) -> str:
        self.count += 1
        return f"level{self.number}/part{self.count - 1}"

    def sweep(self, state: Tensor, groups: list[list[Node]]) -> Tensor:
        """Apply the groups to the state one after another, each in the place of the legs that it takes."""
        for group in groups:
            own = _open_legs(node.legs for node in group)
            entering = tuple(leg for leg in state.legs if leg in own)
            made = sorted((leg for leg in own if leg not in entering), key=self._place)
            factors = [Tensor(node.core, self.batch + node.legs) for node in group]
            operator = self.contract(factors, (*self.batch, *made, *entering), self._next_name())
            first = state.legs.index(entering[0])
            kept = tuple(leg for leg in state.legs if leg not in entering)
            last = group is groups[-1]
            legs = self.output if last and self.target is None else (*kept[:first], *made, *kept[first:])
            after = Tensor(self.name if last else self._next_name(), legs)
            self.steps.append(Contract(after, state, operator))
            state = after
        return state

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

    def _place(self, leg: Leg) -> int:
        return self.order.get(leg, len(self.order))
