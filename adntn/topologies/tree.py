"""Tree tensor network (TTN): at each level isometries turn legs into children; the leaves are the weight's legs.

The growth of a tree is shared with the topologies that add disentanglers to it (`augmented_tree`, `mera`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from adntn.activations import IDENTITY, Activation, activation_of
from adntn.network import Core, Leg, Level, Network, Node
from adntn.shapes import Layout, Order, layout_of
from adntn.topologies.topology import (
    Shape,
    activations_per_level,
    bonds_per_level,
    choice,
    count_of,
    topology,
)

Share = Literal["level", "all"] | None
#: Pairs of neighbouring legs to be mixed at a level, given the level and its groups of legs (one group per parent).
Boundaries = Callable[[int, tuple[range, ...]], Sequence[tuple[int, int]]]


@dataclass(frozen=True)
class TreeOptions:
    """The options that every topology built on a tree has; see `TTN`."""

    bond: int | Sequence[int] = 2
    arity: int = 2
    activation: str | Activation | Sequence[str | Activation] = "tanh"
    last_activation: str | Activation = IDENTITY
    mixing_activation: str | Activation = IDENTITY
    share: Share = None
    batch: int | None = None
    layout: Order = "interleaved"
    leg: int | None = None
    factors: Sequence[Sequence[int]] | None = None

    def leaves(self, shape: Shape) -> Layout:
        """Return the layout of the leaves."""
        bonds = self.bond if isinstance(self.bond, Sequence) else (self.bond,)
        largest = max((bond.__index__() for bond in bonds if hasattr(bond, "__index__")), default=1)
        leg = largest if self.leg is None else count_of(self.leg, "leg")
        return layout_of(shape, self.layout, self.factors, leg)


@topology("TTN")
def TTN(  # noqa: N802 (a constructor, named as the literature names it)
    shape: Shape,
    *,
    bond: int | Sequence[int] = 2,
    arity: int = 2,
    activation: str | Activation | Sequence[str | Activation] = "tanh",
    last_activation: str | Activation = "identity",
    share: Share = None,
    batch: int | None = None,
    layout: Order = "interleaved",
    leg: int | None = None,
    factors: Sequence[Sequence[int]] | None = None,
) -> Network:
    """Return a tree tensor network.

    >>> import adntn
    >>> adntn.TTN((25088, 4096), bond=4).parameters
    781

    The top core holds 2 to arity + 1 legs. At each level an isometry of shape (chi above, chi below, ...) replaces
    every leg by up to `arity` children; a lone leg passes through a matrix core. A bond is never larger than what the
    legs below it can carry.

    Args:
        shape: the weight's shape, rank 1 to 6, any sizes.
        bond: bond dimension, one or one per level from the top down.
        arity: the most children of an isometry.
        activation: name, or `adntn.Activation`, or one per level (without the last): what stands after a level. A small
            weight with large legs has one level only, and so none (`report()` says so); then take `leg=1`.
        last_activation: the same for the weight itself.
        share: None; "level": isometries of one shape are one core within a level; "all": in the whole tree.
        batch: generate that many weights along a leading axis.
        layout: "interleaved" (row, column, row ...), or "split" (rows, then columns), in which the bond between the two
            bounds the rank of the weight.
        leg: prime factors are multiplied together into legs of at most this size, by default the largest bond: the
            state before the last level then has about the square root of the weight's size.
        factors: sizes of the legs of each dimension, instead of the factorisation chosen here.

    Raises:
        TypeError, ValueError: if an argument is wrong; the message names it.

    Source: mathematics, section 2; Y.-Y. Shi, L.-M. Duan, G. Vidal, PRA 74, 022320 (2006).
    """
    options = TreeOptions(
        bond, arity, activation, last_activation, share=share, batch=batch, layout=layout, leg=leg, factors=factors
    )
    return grow("TTN", options.leaves(shape), options, lambda level, groups: ())


def grow(name: str, layout: Layout, options: TreeOptions, boundaries: Boundaries) -> Network:
    """Return a tree with disentanglers on the given boundaries of each level."""
    arity = count_of(options.arity, "arity", least=2)
    choice(options.share, (None, "level", "all"), "share")
    groups = _groups_per_level(len(layout.leg_sizes), arity)
    depth = len(groups)
    sizes = _sizes_per_level(layout.leg_sizes, groups, bonds_per_level(options.bond, depth))
    activations = activations_per_level(options.activation, options.last_activation, max(depth, 1))
    mixing = activation_of(options.mixing_activation)

    cores: dict[str, Core] = {}
    top = tuple(Leg(f"s0.{place}", size) for place, size in enumerate(sizes[0]))
    cores["top"] = Core("top", sizes[0])
    levels = [Level((Node("top", top),), top, IDENTITY if depth else activations[-1])]
    state = top
    for number in range(1, depth + 1):
        grown = _Growth(number, options.share, cores)
        branches = [
            grown.isometry(place, leg, [sizes[number][child] for child in children], children)
            for place, (leg, children) in enumerate(zip(state, groups[number - 1], strict=True))
        ]
        pairs = boundaries(number, groups[number - 1])
        levels += grown.levels(branches, pairs, activations[number - 1], mixing)
        state = levels[-1].output
    return Network(name, layout, tuple(cores.values()), tuple(levels), options.batch)


class _Growth:
    """One level while it grows: its cores join `cores`, its legs are relabelled as disentanglers act on them."""

    def __init__(self, number: int, share: Share, cores: dict[str, Core]) -> None:
        self.number, self.share, self.cores = number, share, cores

    def _core(self, kind: str, place: int, shape: tuple[int, ...], core: Core) -> str:
        sizes = "x".join(map(str, shape))
        names = {
            None: f"level{self.number}/{kind}{place}",
            "level": f"level{self.number}/{kind}-{sizes}",
            "all": f"{kind}-{sizes}",
        }
        name = names[self.share]
        self.cores.setdefault(name, Core(name, shape, core.inputs, core.start))
        return name

    def isometry(self, place: int, parent: Leg, sizes: Sequence[int], children: range) -> Node:
        shape = (parent.size, *sizes)
        name = self._core("isometry", place, shape, Core("", shape, inputs=(0,)))
        legs = (Leg(f"s{self.number}.{child}", size) for child, size in zip(children, sizes, strict=True))
        return Node(name, (parent, *legs))

    def disentangler(self, place: int, one: Leg, other: Leg) -> Node:
        shape = (one.size, other.size, one.size, other.size)
        name = self._core("disentangler", place, shape, Core("", shape, inputs=(2, 3), start="identity"))
        after = (Leg(f"{leg.label}'", leg.size) for leg in (one, other))
        return Node(name, (*after, one, other))

    def levels(
        self, branches: list[Node], pairs: Sequence[tuple[int, int]], activation: Activation, mixing: Activation
    ) -> list[Level]:
        """Return the level, or two where an activation stands between isometries and disentanglers."""
        legs = [leg for node in branches for leg in node.legs[1:]]
        grown = tuple(legs)
        disentanglers = []
        for place, (one, other) in enumerate(pairs):
            node = self.disentangler(place, legs[one], legs[other])
            legs[one], legs[other] = node.legs[:2]
            disentanglers.append((max(one, other) if one < other else len(legs), node))
        if disentanglers and not mixing.is_identity:
            mixers = tuple(node for _, node in disentanglers)
            return [Level(tuple(branches), grown, mixing), Level(mixers, tuple(legs), activation)]
        return [Level(_in_sweep_order(branches, disentanglers), tuple(legs), activation)]


def _in_sweep_order(branches: list[Node], disentanglers: list[tuple[int, Node]]) -> tuple[Node, ...]:
    """Put each disentangler behind the isometry that grows the last leg it acts on."""
    nodes: list[Node] = []
    waiting, grown = list(disentanglers), 0
    for branch in branches:
        nodes.append(branch)
        grown += len(branch.legs) - 1
        nodes += [node for last, node in waiting if last < grown]
        waiting = [(last, node) for last, node in waiting if last >= grown]
    return (*nodes, *(node for _, node in waiting))


def _groups_per_level(leaves: int, arity: int) -> list[tuple[range, ...]]:
    """Return, from the top down, the children of each leg: neighbouring positions in the level below."""
    widths = [leaves]
    while widths[0] > arity + 1:
        widths.insert(0, math.ceil(widths[0] / arity))
    return [_evenly(below, above) for above, below in pairwise(widths)]


def _evenly(count: int, groups: int) -> tuple[range, ...]:
    """Split 0 ... count - 1 into runs whose lengths differ by one at most, the longer ones first."""
    short, longer = divmod(count, groups)
    starts = [place * short + min(place, longer) for place in range(groups + 1)]
    return tuple(range(start, stop) for start, stop in pairwise(starts))


def _sizes_per_level(
    leaves: tuple[int, ...], groups: list[tuple[range, ...]], bonds: tuple[int, ...]
) -> list[tuple[int, ...]]:
    """Return the sizes of the legs of each level, from the top down, each capped by what its children can carry."""
    sizes = [leaves]
    for children, bond in zip(reversed(groups), reversed(bonds), strict=True):
        sizes.insert(0, tuple(min(bond, math.prod(sizes[0][child] for child in group)) for group in children))
    return sizes
