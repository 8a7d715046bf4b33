"""Tensor train, also called matrix product state; with a depth, chained matrix product operators with activations."""

from __future__ import annotations

import math
from collections.abc import Sequence

from adntn.activations import Activation
from adntn.network import Core, Leg, Level, Network, Node
from adntn.shapes import Order, layout_of
from adntn.topologies.topology import Shape, activations_per_level, bonds_per_level, count_of, topology


@topology("TensorTrain")
def TensorTrain(  # noqa: N802 (a constructor, named as the literature names it)
    shape: Shape,
    *,
    bond: int | Sequence[int] = 2,
    depth: int = 1,
    activation: str | Activation | Sequence[str | Activation] = "tanh",
    last_activation: str | Activation = "identity",
    batch: int | None = None,
    layout: Order = "interleaved",
    factors: Sequence[Sequence[int]] | None = None,
) -> Network:
    """Return a tensor train: one block, a chain with one core for each leg.

    >>> import adntn
    >>> adntn.TensorTrain((8, 8), bond=2).core_shapes["block0/core1"]
    (2, 2, 2)

    With `depth` above 1, each further block is a chain of cores of shape (bond, p out, p in, bond) on all legs (a
    matrix product operator), and an activation stands between the blocks.

    Args:
        bond: bond dimension, one or one per block; at most what the legs on either side can carry.
        depth: number of blocks, at least 1.
        activation: between the blocks, one or one per block (without the last); with depth 1 there is none.
        layout: "interleaved" by default, so that the bond between rows and columns does not bound the rank.
        shape, last_activation, batch, factors: as for `TTN`.

    Raises:
        TypeError, ValueError: if an argument is wrong; the message names it.

    Source: I. Oseledets, SIAM J. Sci. Comput. 33, 2295 (2011); A. Novikov et al., arXiv:1509.06569.
    """
    count_of(depth, "depth")
    leaves = layout_of(shape, layout, factors)
    bonds = bonds_per_level(bond, depth)
    activations = activations_per_level(activation, last_activation, depth)
    cores: list[Core] = []
    levels: list[Level] = []
    for block in range(depth):
        before = levels[-1].output if levels else ()
        after = tuple(Leg(f"s{block}.{place}", size) for place, size in enumerate(leaves.leg_sizes))
        chain = _chain(block, before, after, bonds[block])
        cores += [core for core, _ in chain]
        levels.append(Level(tuple(node for _, node in chain), after, activations[block]))
    return Network("TensorTrain", leaves, tuple(cores), tuple(levels), batch)


def _chain(block: int, before: tuple[Leg, ...], after: tuple[Leg, ...], bond: int) -> list[tuple[Core, Node]]:
    """Return the cores and nodes of one block."""
    carried = [leg.size * (before[place].size if before else 1) for place, leg in enumerate(after)]
    bonds = [
        Leg(f"b{block}.{place}", min(bond, math.prod(carried[:place]), math.prod(carried[place:])))
        for place in range(1, len(after))
    ]
    chain = []
    for place, leg in enumerate(after):
        left = bonds[place - 1 : place] if place else []
        legs = (*left, leg, *before[place : place + 1], *bonds[place : place + 1])
        inputs = tuple(axis for axis, own in enumerate(legs) if own in left or own in before)
        name = f"block{block}/core{place}"
        chain.append((Core(name, tuple(own.size for own in legs), inputs), Node(name, legs)))
    return chain
