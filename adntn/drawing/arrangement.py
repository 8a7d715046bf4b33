"""Where the cores and legs of any network stand: rows from the top down, and a lane of its own for every leg.

Nothing here knows what a tree or a MERA is, and nothing paints. A leg runs straight down in its lane from the core that
makes it to the core, or to the weight, that it ends on; a core stands across the lanes of its legs. The lanes of the
weight's legs are 0, 1, 2 ... in the network's order, and those of others follow from what they grow into.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from adntn.network import Core, Leg, Level, Network, Node

Kind = Literal["top", "isometry", "disentangler", "gate", "core"]

#: Of a core, beyond its outermost lanes.
MARGIN = 0.31
#: Between the lanes of legs that are there at the same time, at least.
BETWEEN_LANES = 0.25
#: Between the legs that enter a core which makes another number of legs.
BETWEEN_INPUTS = 0.5


@dataclass(frozen=True)
class Edge:
    """A leg on its way.

    Attributes:
        leg: which one.
        start: number of the place that makes it.
        end: number of the place that it ends on; None for the weight.
        lane: how far to the right it runs; None if it joins places of a chain, which stand side by side.
    """

    leg: Leg
    start: int
    end: int | None
    lane: float | None = None


@dataclass(frozen=True)
class Place:
    """A core where it stands.

    Attributes:
        level: number of its level.
        node: the core's name and its legs.
        kind: what it does there.
        row: counted from the top.
        inputs: lanes of the legs that it ends, from the left.
        outputs: lanes of the legs that it makes, likewise.
    """

    level: int
    node: Node
    kind: Kind
    row: int
    inputs: tuple[float, ...]
    outputs: tuple[float, ...]

    @property
    def lanes(self) -> tuple[float, ...]:
        """The lanes of all its legs; for a core without legs, the first one."""
        return (*self.inputs, *self.outputs) or (0.0,)

    @property
    def left(self) -> float:
        """Its left end."""
        return min(self.lanes) - MARGIN

    @property
    def right(self) -> float:
        """Its right end."""
        return max(self.lanes) + MARGIN


@dataclass(frozen=True)
class Arrangement:
    """The places of all cores, in the order of the network's nodes, and the legs between them."""

    places: tuple[Place, ...]
    edges: tuple[Edge, ...]

    def is_bridge(self, number: int) -> bool:
        """Return whether legs of others run past a place between its ends, so that it must not cover them."""
        place = self.places[number]
        return any(
            place.left < edge.lane < place.right
            for edge in self.edges
            if edge.lane is not None
            and self.places[edge.start].row < place.row
            and (edge.end is None or place.row < self.places[edge.end].row)
        )


def arrange(network: Network) -> Arrangement:
    """Return where the cores and legs of a network stand.

    >>> import adntn
    >>> for place in arrange(adntn.MERA((4, 4), leg=2).network).places:
    ...     print(place.row, place.kind, place.outputs)
    0 top (0.5, 2.5)
    1 isometry (0.0, 1.0)
    1 isometry (2.0, 3.0)
    2 disentangler (1.0, 2.0)
    """
    nodes = [(number, node) for number, level in enumerate(network.levels) for node in level.nodes]
    chains = [_is_chain(network, level) for level in network.levels]
    edges = _edges([node for _, node in nodes], network.levels[-1].output)
    beside = [edge for edge in edges if _is_in_chain(edge, [chains[level] for level, _ in nodes], nodes)]
    down = [edge for edge in edges if edge not in beside]
    rows = _rows([level for level, _ in nodes], down)
    lanes = _lanes([node for _, node in nodes], rows, down)
    places = []
    for number, (level, node) in enumerate(nodes):
        inputs = tuple(sorted(lanes[edge] for edge in down if edge.end == number))
        outputs = tuple(sorted(lanes[edge] for edge in down if edge.start == number))
        kind = _kind(network.core[node.core], [edge for edge in down if number in (edge.start, edge.end)], number)
        places.append(Place(level, node, "core" if chains[level] else kind, rows[number], inputs, outputs))
    return Arrangement(_stacked(places), tuple(replace(edge, lane=lanes.get(edge)) for edge in edges))


def _edges(nodes: Iterable[Node], weight: Iterable[Leg]) -> list[Edge]:
    """Return the legs from node to node: of two nodes of a level that share one, the first makes it."""
    edges: list[Edge] = []
    makers: dict[Leg, int] = {}
    for number, node in enumerate(nodes):
        for leg in node.legs:
            if leg in makers:
                edges.append(Edge(leg, makers.pop(leg), number))
            else:
                makers[leg] = number
    return edges + [Edge(leg, makers[leg], None) for leg in weight]


def _is_chain(network: Network, level: Level) -> bool:
    """Return whether a level is a chain: cores side by side, each joined to the next and with open legs of its own."""
    nodes = level.nodes
    if len(nodes) < 2 or any(network.core[node.core].start == "identity" for node in nodes):
        return False
    if any({*one.legs}.isdisjoint(other.legs) for one, other in pairwise(nodes)):
        return False
    made = [[place for place, leg in enumerate(level.output) if leg in node.legs] for node in nodes]
    return all(made) and all(one[-1] < other[0] for one, other in pairwise(sorted(made)))


def _is_in_chain(edge: Edge, chained: Sequence[bool], nodes: Sequence[tuple[int, Node]]) -> bool:
    return edge.end is not None and chained[edge.start] and nodes[edge.start][0] == nodes[edge.end][0]


def _rows(levels: Sequence[int], down: Iterable[Edge]) -> list[int]:
    """Return the row of each place: below the level before, and below those of its own level whose legs it ends."""
    makers: dict[int, list[int]] = {}
    for edge in down:
        if edge.end is not None:
            makers.setdefault(edge.end, []).append(edge.start)
    rows: list[int] = []
    first = 0
    for number, level in enumerate(levels):
        if number and level != levels[number - 1]:
            first = max(rows) + 1
        rows.append(max([first, *(rows[maker] + 1 for maker in makers.get(number, ()))]))
    return rows


def _lanes(nodes: Sequence[Node], rows: Sequence[int], down: Iterable[Edge]) -> dict[Edge, float]:
    """Return the lane of every leg that runs down, from the weight's legs upwards."""
    entering: dict[int | None, list[Edge]] = {}
    made: dict[int, list[Edge]] = {}
    for edge in down:
        entering.setdefault(edge.end, []).append(edge)
        made.setdefault(edge.start, []).append(edge)
    lanes = {edge: float(lane) for lane, edge in enumerate(entering[None])}
    beyond = len(lanes)  # lanes for legs that end on cores which make none
    for number in reversed(range(len(nodes))):
        inputs = entering.get(number, [])
        outputs = [lanes[edge] for edge in sorted(made.get(number, ()), key=lambda e: nodes[number].legs.index(e.leg))]
        if not outputs:
            wanted = [float(beyond + place) for place in range(len(inputs))]
            beyond += len(inputs)
        elif len(inputs) == len(outputs):
            wanted = outputs
        else:
            first = math.fsum(outputs) / len(outputs) - BETWEEN_INPUTS * (len(inputs) - 1) / 2
            wanted = [first + BETWEEN_INPUTS * place for place in range(len(inputs))]
        for edge, lane in zip(inputs, wanted, strict=True):
            taken = [other_lane for other, other_lane in lanes.items() if _meet(edge, other, rows)]
            lanes[edge] = _nearest_free(lane, taken)
    return lanes


def _nearest_free(wanted: float, taken: Sequence[float]) -> float:
    """Return the lane nearest to the wanted one that keeps its distance from those that are taken."""
    tries = (wanted + sign * step * BETWEEN_LANES for step in range(2 * len(taken) + 2) for sign in (1, -1))
    return next(lane for lane in tries if all(abs(lane - other) >= BETWEEN_LANES for other in taken))


def _meet(one: Edge, other: Edge, rows: Sequence[int]) -> bool:
    """Return whether two legs are there at the same height; where a core ends one and makes the other, they are not."""
    if one.end == other.start or one.start == other.end:
        return False
    ends = [len(rows) if edge.end is None else rows[edge.end] for edge in (one, other)]
    return max(rows[one.start], rows[other.start]) <= min(ends)


def _kind(core: Core, edges: Iterable[Edge], number: int) -> Kind:
    if core.start == "identity":
        return "disentangler"
    inputs = sorted(edge.leg.size for edge in edges if edge.end == number)
    outputs = sorted(edge.leg.size for edge in edges if edge.start == number)
    if not inputs:
        return "top"
    return "gate" if len(inputs) > 1 and inputs == outputs else "isometry"


def _stacked(places: Iterable[Place]) -> tuple[Place, ...]:
    """Return the places with further rows where cores of one row would overlap."""
    stacks: dict[int, list[list[Place]]] = {}
    within = []
    for place in places:
        stack = stacks.setdefault(place.row, [])
        number = next((n for n, row in enumerate(stack) if not any(_overlap(place, one) for one in row)), len(stack))
        if number == len(stack):
            stack.append([])
        stack[number].append(place)
        within.append((place, number))
    above = {row: sum(len(stack) for other, stack in stacks.items() if other < row) for row in stacks}
    return tuple(replace(place, row=above[place.row] + number) for place, number in within)


def _overlap(one: Place, other: Place) -> bool:
    return one.left < other.right and other.left < one.right
