"""Multi-scale entanglement renormalisation ansatz (MERA): a tree with disentanglers at every level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from adntn.activations import Activation
from adntn.network import Network
from adntn.shapes import Order
from adntn.topologies.topology import Shape, choice, topology
from adntn.topologies.tree import Share, TreeOptions, grow


@topology("MERA")
def MERA(  # noqa: N802 (a constructor, named as the literature names it)
    shape: Shape,
    *,
    bond: int | Sequence[int] = 2,
    arity: Literal[2, 3] = 2,
    border: Literal["open", "periodic"] = "open",
    activation: str | Activation | Sequence[str | Activation] = "tanh",
    last_activation: str | Activation = "identity",
    mixing_activation: str | Activation = "identity",
    share: Share = None,
    batch: int | None = None,
    layout: Order = "interleaved",
    leg: int | None = None,
    factors: Sequence[Sequence[int]] | None = None,
) -> Network:
    """Return a MERA: at every level isometries, then disentanglers across the borders of neighbouring isometries.

    >>> import adntn
    >>> adntn.MERA((4096, 4096), bond=2, activation="tanh").parameters
    465

    Disentanglers start at the identity, so a MERA starts as the TTN of the same seed.

    Args:
        arity: 2 (binary) or 3 (ternary).
        border: "periodic" also mixes the last leg of each level with the first.
        mixing_activation: a further activation between the isometries and the disentanglers of each level.
        shape, bond, activation, last_activation, share, batch, layout, leg, factors: as for `TTN`.

    Raises:
        TypeError, ValueError: if an argument is wrong; the message names it.

    Source: G. Vidal, PRL 99, 220405 (2007).
    """
    choice(arity, (2, 3), "arity")
    choice(border, ("open", "periodic"), "border")

    def pairs(level: int, groups: tuple[range, ...]) -> list[tuple[int, int]]:
        inner = [(group.stop - 1, group.stop) for group in groups[:-1]]
        width = groups[-1].stop
        return [*inner, (width - 1, 0)] if border == "periodic" and width > 2 else inner

    options = TreeOptions(
        bond, arity, activation, last_activation, mixing_activation, share, batch, layout, leg, factors
    )
    return grow("MERA", options.leaves(shape), options, pairs)
