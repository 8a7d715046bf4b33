"""Augmented tree tensor network (aTTN): a tree whose leaves are mixed across the borders of their parents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from adntn.activations import Activation
from adntn.network import Network
from adntn.shapes import Order
from adntn.topologies.topology import Shape, topology
from adntn.topologies.tree import Boundaries, Share, TreeOptions, grow


@topology("AugmentedTTN")
def AugmentedTTN(  # noqa: N802 (a constructor, named as the literature names it)
    shape: Shape,
    *,
    bond: int | Sequence[int] = 2,
    arity: int = 2,
    boundaries: Literal["all"] | Sequence[int] = "all",
    activation: str | Activation | Sequence[str | Activation] = "tanh",
    last_activation: str | Activation = "identity",
    mixing_activation: str | Activation = "identity",
    share: Share = None,
    batch: int | None = None,
    layout: Order = "interleaved",
    leg: int | None = None,
    factors: Sequence[Sequence[int]] | None = None,
) -> Network:
    """Return a TTN whose last block ends with boundary disentanglers.

    >>> import adntn
    >>> adntn.AugmentedTTN((16, 16), bond=2, boundaries=[3]).parameters
    69

    A disentangler of shape (p, p', p, p') mixes neighbouring leaves that hang from different parents. It starts at the
    identity, so an augmented TTN starts as the TTN of the same seed.

    Args:
        boundaries: "all", or the leaves j for which leaves j and j + 1 are mixed.
        mixing_activation: a further activation between the isometries and the disentanglers.
        shape, bond, arity, activation, last_activation, share, batch, layout, leg, factors: as for `TTN`.

    Raises:
        TypeError, ValueError: if an argument is wrong, such as a boundary inside one parent.

    Source: T. Felser, S. Notarnicola, S. Montangero, PRL 126, 170603 (2021).
    """
    options = TreeOptions(
        bond, arity, activation, last_activation, mixing_activation, share, batch, layout, leg, factors
    )
    leaves = options.leaves(shape)
    if boundaries != "all" and (isinstance(boundaries, str) or not isinstance(boundaries, Sequence)):
        raise ValueError(f'boundaries must be "all" or a list of leaves, got {boundaries!r}')
    network = grow("AugmentedTTN", leaves, options, _last_level(boundaries, len(leaves.leg_sizes)))
    if boundaries != "all" and boundaries and len(network.levels) == 1:
        raise ValueError(f"boundaries {boundaries} lie on no level: the top core itself has the weight's legs")
    return network


def _last_level(boundaries: Literal["all"] | Sequence[int], leaves: int) -> Boundaries:
    def pairs(level: int, groups: tuple[range, ...]) -> list[tuple[int, int]]:
        if groups[-1].stop < leaves:
            return []
        possible = {group.stop - 1: (group.stop - 1, group.stop) for group in groups[:-1]}
        if boundaries == "all":
            return list(possible.values())
        for leaf in boundaries:
            if leaf not in possible:
                raise ValueError(
                    f"boundaries must be leaves whose right neighbour has another parent"
                    f" ({', '.join(map(str, possible))}), got {leaf!r}"
                )
        return [possible[leaf] for leaf in sorted(set(boundaries))]

    return pairs
