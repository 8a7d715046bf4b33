"""What a generator is, as pure data: cores joined by legs, level by level, with an activation after each level.

Nothing here computes. Topologies build networks, `program.lower` turns them into programs.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from adntn.activations import Activation
from adntn.shapes import Layout

#: The core that holds the one scalar s in front of the weight.
SCALE = "scale"
#: The label of the leg that counts the weights of a batch.
BATCH = "batch"
#: Names that programs give to their own tensors, and dots, which separate names in the state dicts of frameworks.
RESERVED = re.compile(r"[XZ]\d+|level\d+/part\d+|scaled .*|.*_bar.*|.*\..*|")


@dataclass(frozen=True)
class Leg:
    """An index of a tensor: a label and the number of its values."""

    label: str
    size: int

    def __str__(self) -> str:
        return self.label


@dataclass(frozen=True)
class Core:
    """A small tensor of numbers to learn.

    Attributes:
        name: its key in the mapping of cores, such as "level1/isometry0".
        shape: sizes of its axes, without the batch axis.
        inputs: the axes that point to the level above; read as a matrix, a core maps these to its other axes.
        start: how it begins: a random "isometry", or the "identity" of a disentangler of shape (p, p', p, p').
    """

    name: str
    shape: tuple[int, ...]
    inputs: tuple[int, ...] = ()
    start: Literal["isometry", "identity"] = "isometry"

    @property
    def size(self) -> int:
        """Number of parameters, without the batch axis."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Node:
    """A core at its place in a level: which leg each of its axes is. A shared core has several nodes."""

    core: str
    legs: tuple[Leg, ...]


@dataclass(frozen=True)
class Level:
    """A linear block and the pointwise map after it.

    A leg that appears twice, in two nodes or in a node and the state before, is summed over; the others are the legs of
    the state after. Nodes stand in an order in which a sweep from the first leg to the last meets them.
    """

    nodes: tuple[Node, ...]
    output: tuple[Leg, ...]
    activation: Activation


@dataclass(frozen=True)
class Network:
    """Cores, levels and the layout of the weight; validated, immutable and hashable.

    Attributes:
        topology: the name of the constructor, for people.
        layout: how the legs of the last state become the weight.
        cores: every core, once.
        levels: the first one makes the state X[0] from nothing.
        batch: how many weights the cores hold along a leading axis; None for a single weight without the axis.

    Raises:
        ValueError: if legs dangle or do not fit, naming the level, the core and the leg.
    """

    topology: str
    layout: Layout
    cores: tuple[Core, ...]
    levels: tuple[Level, ...]
    batch: int | None = None

    def __post_init__(self) -> None:
        _check_batch(self.batch)
        names = [core.name for core in self.cores]
        if doubled := [name for name, count in Counter([*names, SCALE]).items() if count > 1]:
            raise ValueError(f"core names must be unique, got {doubled[0]!r} twice ({SCALE!r} is taken)")
        if reserved := [name for name in names if RESERVED.fullmatch(name)]:
            raise ValueError(
                f"core name {reserved[0]!r} is reserved: names must not be empty, contain a dot or _bar, or look like"
                " X0, Z0, level0/part0 or 'scaled ...', which programs call their own tensors"
            )
        state: tuple[Leg, ...] = ()
        for number, level in enumerate(self.levels):
            for node in level.nodes:
                self._check_node(number, node)
            _check_legs(number, state, level)
            if self.batch is not None and any(leg.label == BATCH for node in level.nodes for leg in node.legs):
                raise ValueError(
                    f"no leg may be called {BATCH!r} where the network has a batch axis, level {number} has"
                )
            state = level.output
        if unused := set(names) - {node.core for level in self.levels for node in level.nodes}:
            raise ValueError(f"core {min(unused)!r} stands in no level")
        if tuple(leg.size for leg in state) != self.layout.leg_sizes:
            raise ValueError(
                f"the last level's legs must have the sizes {self.layout.leg_sizes} of the weight's layout,"
                f" got {tuple(leg.size for leg in state)}"
            )

    def _check_node(self, number: int, node: Node) -> None:
        if node.core not in self.core:
            raise ValueError(f"level {number} uses the core {node.core!r}, which the network does not have")
        sizes = tuple(leg.size for leg in node.legs)
        if sizes != self.core[node.core].shape:
            raise ValueError(
                f"core {node.core!r} of shape {self.core[node.core].shape} stands in level {number} with legs {sizes}"
            )

    @cached_property
    def _hash(self) -> int:
        return hash((self.topology, self.layout, self.cores, self.levels, self.batch))

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "_hash"}  # another process, another hash

    def __hash__(self) -> int:
        return self._hash  # computed once: networks are keys of caches that are asked in every step

    @cached_property
    def core(self) -> dict[str, Core]:
        """The cores by name."""
        return {core.name: core for core in self.cores}

    @cached_property
    def core_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every array that a generator needs, the scale and the batch axis included."""
        lead = () if self.batch is None else (self.batch,)
        return {core.name: lead + core.shape for core in self.cores} | {SCALE: lead}

    @property
    def parameters(self) -> int:
        """Number of stored numbers."""
        return sum(math.prod(shape) for shape in self.core_shapes.values())

    @property
    def first_linear_level(self) -> int:
        """The number of the first level after the last activation; of all levels, if none comes after it."""
        numbers = (number + 1 for number, level in enumerate(self.levels) if not level.activation.is_identity)
        return max(numbers, default=0)

    def states(self) -> Iterator[tuple[tuple[Leg, ...], Level]]:
        """Yield each level with the legs of the state before it."""
        state: tuple[Leg, ...] = ()
        for level in self.levels:
            yield state, level
            state = level.output

    def __str__(self) -> str:
        shape = " x ".join(map(str, self.layout.shape))
        lead = "" if self.batch is None else f"{self.batch} weights of "
        lines = [f"{self.topology}: {lead}{shape} from {self.parameters:,} parameters"]
        for number, level in enumerate(self.levels):
            names = ", ".join(f"{node.core}{self.core[node.core].shape}" for node in level.nodes[:3])
            more = f", ... {len(level.nodes) - 3} more" if len(level.nodes) > 3 else ""
            after = "" if level.activation.is_identity else f" then {level.activation}"
            lines.append(f"  level {number}: {len(level.output)} legs from {names}{more}{after}")
        return "\n".join(lines)


def _check_batch(batch: int | None) -> None:
    if batch is not None and (isinstance(batch, bool) or not isinstance(batch, int) or batch < 1):
        raise ValueError(f"batch must be a positive integer or None, got {batch!r}")


def _check_legs(number: int, state: tuple[Leg, ...], level: Level) -> None:
    tensors = [state, *(node.legs for node in level.nodes)]
    count = Counter(leg.label for legs in tensors for leg in legs)
    sizes: dict[str, int] = {}
    for legs in tensors:
        if len({leg.label for leg in legs}) < len(legs):
            raise ValueError(f"level {number} joins a leg of a tensor to itself: {' '.join(map(str, legs))}")
        for leg in legs:
            if sizes.setdefault(leg.label, leg.size) != leg.size:
                raise ValueError(f"leg {leg} in level {number} has the sizes {sizes[leg.label]} and {leg.size}")
    if crowded := [label for label, times in count.items() if times > 2]:
        raise ValueError(f"leg {crowded[0]} in level {number} joins more than two tensors")
    loose = {label for label, times in count.items() if times == 1}
    given = {leg.label for leg in level.output}
    if loose != given or len(given) < len(level.output):
        wrong = min(loose ^ given, default="(one leg twice)")
        raise ValueError(f"level {number} must put out each of its open legs once, but {wrong} does not fit")
    for leg in level.output:
        if sizes[leg.label] != leg.size:
            raise ValueError(f"leg {leg} in level {number} has the sizes {sizes[leg.label]} and {leg.size}")
