"""Low rank: the product of two matrices, which is what LoRA adds to a weight."""

from __future__ import annotations

from adntn.activations import Activation, activation_of
from adntn.network import Core, Leg, Level, Network, Node
from adntn.shapes import checked_shape, layout_of
from adntn.topologies.topology import Shape, count_of, topology


@topology("LowRank")
def LowRank(  # noqa: N802 (a constructor, named as the literature names it)
    shape: Shape,
    *,
    rank: int = 8,
    last_activation: str | Activation = "identity",
    batch: int | None = None,
) -> Network:
    """Return W = left @ right, with left of shape (out, rank) and right of shape (rank, in, ...).

    >>> import adntn
    >>> adntn.LowRank((4096, 4096), rank=8).core_shapes
    {'left': (4096, 8), 'right': (8, 4096), 'scale': ()}

    Dimensions are not factorised, so nothing is padded. With the identity as activation it is linear: LoRA's B and A.

    Args:
        shape: the weight's shape, rank 2 to 6; the first dimension against all others.
        rank: at least 1.
        last_activation: a pointwise map of the product.
        batch: generate that many weights along a leading axis.

    Raises:
        TypeError, ValueError: if an argument is wrong; the message names it.

    Source: E. Hu et al., arXiv:2106.09685.
    """
    sizes = checked_shape(shape)
    if len(sizes) < 2:
        raise ValueError(f"shape must have at least 2 dimensions for a low rank, got {sizes}")
    layout = layout_of(sizes, factors=[(size,) for size in sizes])
    legs = tuple(Leg(f"s0.{place}", size) for place, size in enumerate(sizes))
    bond = Leg("rank", count_of(rank, "rank"))
    cores = (
        Core("left", (sizes[0], bond.size), inputs=(1,)),
        Core("right", (bond.size, *sizes[1:]), inputs=(0,)),
    )
    nodes = (Node("left", (legs[0], bond)), Node("right", (bond, *legs[1:])))
    return Network("LowRank", layout, cores, (Level(nodes, legs, activation_of(last_activation)),), batch)
