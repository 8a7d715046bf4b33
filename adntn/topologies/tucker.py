"""Tucker: a small core tensor with one factor matrix for each dimension."""

from __future__ import annotations

from collections.abc import Sequence

from adntn.activations import Activation, activation_of
from adntn.network import Core, Leg, Level, Network, Node
from adntn.shapes import checked_shape, layout_of
from adntn.topologies.topology import Shape, bonds_per_level, topology


@topology("Tucker")
def Tucker(  # noqa: N802 (a constructor, named as the literature names it)
    shape: Shape,
    *,
    rank: int | Sequence[int] = 8,
    activation: str | Activation = "identity",
    last_activation: str | Activation = "identity",
    batch: int | None = None,
) -> Network:
    """Return a Tucker decomposition: the core `top` of shape (rank, ...) and a factor (rank, size) for each dimension.

    >>> import adntn
    >>> adntn.Tucker((512, 512, 3, 3), rank=(16, 16, 3, 3)).core_shapes["factor0"]
    (16, 512)

    Dimensions are not factorised, so nothing is padded.

    Args:
        shape: the weight's shape, rank 1 to 6.
        rank: one, or one for each dimension; at most the dimension's size is used.
        activation: a pointwise map of the core before the factors.
        last_activation: a pointwise map of the weight.
        batch: generate that many weights along a leading axis.

    Raises:
        TypeError, ValueError: if an argument is wrong; the message names it.

    Source: L. De Lathauwer, B. De Moor, J. Vandewalle, SIAM J. Matrix Anal. Appl. 21, 1253 (2000).
    """
    sizes = checked_shape(shape)
    ranks = bonds_per_level(rank, len(sizes), "rank")
    layout = layout_of(sizes, factors=[(size,) for size in sizes])
    inner = tuple(
        Leg(f"s0.{place}", min(own, size)) for place, (own, size) in enumerate(zip(ranks, sizes, strict=True))
    )
    outer = tuple(Leg(f"s1.{place}", size) for place, size in enumerate(sizes))
    factors = tuple(
        Core(f"factor{place}", (before.size, after.size), inputs=(0,))
        for place, (before, after) in enumerate(zip(inner, outer, strict=True))
    )
    top = Core("top", tuple(leg.size for leg in inner))
    nodes = tuple(Node(core.name, (before, after)) for core, before, after in zip(factors, inner, outer, strict=True))
    levels = (
        Level((Node("top", inner),), inner, activation_of(activation)),
        Level(nodes, outer, activation_of(last_activation)),
    )
    return Network("Tucker", layout, (top, *factors), levels, batch)
