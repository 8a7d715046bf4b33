"""Brickwall circuit of two-leg gates (the ADTN of Qing et al.)."""

from __future__ import annotations

from collections.abc import Sequence

from adntn.activations import Activation
from adntn.network import Core, Leg, Level, Network, Node
from adntn.shapes import Order, layout_of
from adntn.topologies.topology import Shape, activations_per_level, choice, count_of, topology
from adntn.topologies.tree import Share


@topology("Brickwall")
def Brickwall(  # noqa: N802 (a constructor, named as the literature names it)
    shape: Shape,
    *,
    depth: int = 1,
    activation: str | Activation | Sequence[str | Activation] = "tanh",
    last_activation: str | Activation = "identity",
    share: Share = None,
    batch: int | None = None,
    layout: Order = "interleaved",
    factors: Sequence[Sequence[int]] | None = None,
) -> Network:
    """Return a brickwall circuit: blocks of two staggered layers of gates, with an activation between the blocks.

    >>> import adntn
    >>> adntn.Brickwall((16, 16), depth=2).parameters
    177

    All legs are there from the beginning. The circuit starts from a fixed product state; the gates of its first layer
    meet nothing else, so that only their images of it count: these are stored, as cores of shape (p, p'). All other
    gates have the shape (p, p', p, p').

    Args:
        depth: number of blocks, at least 1.
        activation: between the blocks, one or one per block (without the last).
        shape, last_activation, share, batch, layout, factors: as for `TTN`.

    Raises:
        TypeError, ValueError: if an argument is wrong; the message names it.

    Source: Y. Qing, K. Li, P.-F. Zhou, S.-J. Ran, arXiv:2305.06058.
    """
    count_of(depth, "depth")
    choice(share, (None, "level", "all"), "share")
    leaves = layout_of(shape, layout, factors)
    activations = activations_per_level(activation, last_activation, depth)
    cores: dict[str, Core] = {}
    levels: list[Level] = []
    for block, activation_after in enumerate(activations):
        wall = _Wall(block, share, cores, leaves.leg_sizes, levels[-1].output if levels else None)
        levels.append(Level(wall.nodes(), wall.output(), activation_after))
    return Network("Brickwall", leaves, tuple(cores.values()), tuple(levels), batch)


class _Wall:
    """One block while it is built; `legs` are those after the gates so far, None before the very first layer."""

    def __init__(
        self,
        block: int,
        share: Share,
        cores: dict[str, Core],
        sizes: tuple[int, ...],
        before: tuple[Leg, ...] | None,
    ) -> None:
        self.block, self.share, self.cores, self.sizes = block, share, cores, sizes
        self.legs: list[Leg | None] = list(before) if before else [None] * len(sizes)

    def nodes(self) -> tuple[Node, ...]:
        """Return the gates of both layers in sweep order: each of the second layer as soon as its legs are there."""
        nodes: list[Node] = []
        width = len(self.sizes)
        for place in range(0, width, 2):
            nodes.append(self._gate(range(place, min(place + 2, width)), "a"))
            if place > 0:
                nodes.append(self._gate(range(place - 1, place + 1), "b"))
        return tuple(nodes)

    def output(self) -> tuple[Leg, ...]:
        """Return the legs after the block."""
        return tuple(leg for leg in self.legs if leg is not None)

    def _gate(self, places: range, layer: str) -> Node:
        before = tuple(leg for leg in (self.legs[place] for place in places) if leg is not None)
        after = tuple(Leg(f"s{self.block}{layer}.{place}", self.sizes[place]) for place in places)
        self.legs[places.start : places.stop] = after
        legs = (*after, *before)
        shape = tuple(leg.size for leg in legs)
        name = self._name(f"gate{layer}{places.start // 2}", shape)
        self.cores.setdefault(name, Core(name, shape, tuple(range(len(after), len(legs)))))
        return Node(name, legs)

    def _name(self, gate: str, shape: tuple[int, ...]) -> str:
        sizes = "x".join(map(str, shape))
        names = {None: f"block{self.block}/{gate}", "level": f"block{self.block}/gate-{sizes}", "all": f"gate-{sizes}"}
        return names[self.share]
