"""A weight in equal parts along one dimension, each generated for itself: what the processes of a machine share out.

To take a part is to let the dimension's first legs have some of their values only. Selecting commutes with a pointwise
map and with every contraction that leaves the leg open, so that it goes back to the one core that makes the leg: all
parts are made by *one* generator, from cores that are cut at different places.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from adntn.arrays import Array, namespace_of
from adntn.network import Core, Leg, Level, Network, Node
from adntn.shapes import Layout

if TYPE_CHECKING:
    from adntn.generator import Generator


@dataclass(frozen=True)
class Share:
    """What of an axis belongs to a part: the (part // place % count)-th of `count` equal runs.

    Attributes:
        axis: the axis of the core, without the batch axis.
        place: how many parts have the same share one after another.
        count: the number of shares.
    """

    axis: int
    place: int
    count: int


@dataclass(frozen=True)
class CutCore:
    """A core of the parts' generator, cut from one of the whole weight's.

    Attributes:
        source: the name of the whole core.
        shares: what is cut, axis by axis.
    """

    source: str
    shares: tuple[Share, ...]


@dataclass(frozen=True)
class Parts:
    """The parts of a weight: one generator, and how the cores are cut for each part.

    >>> import adntn, numpy
    >>> generator = adntn.MERA((64, 32), bond=2)
    >>> cores = generator.init(seed=0)
    >>> parts = generator.parts(4)
    >>> lower = parts.generator.weight(parts.cores(cores, 3))
    >>> lower.shape, bool(numpy.allclose(lower, generator.weight(cores)[48:], atol=1e-6))
    ((16, 32), True)

    Attributes:
        generator: makes one part, of the weight's shape but for the dimension that is divided.
        dimension: which is divided, without the batch axis.
        count: the number of parts.
        cuts: where the cores of `generator` that are no whole cores come from, by name.
    """

    generator: Generator
    dimension: int
    count: int
    cuts: tuple[tuple[str, CutCore], ...]

    def cores(self, cores: Mapping[str, Array], number: Any) -> dict[str, Array]:
        """Return the cores for one part: the whole ones, cut; differentiable where their library is.

        Args:
            cores: the whole weight's cores.
            number: of the part, from 0; in JAX it may be traced, such as `jax.lax.axis_index` in `shard_map`.

        Raises:
            IndexError: if there is no such part.
        """
        if isinstance(number, int) and not 0 <= number < self.count:
            raise IndexError(f"number must be that of a part, from 0 to {self.count - 1}, got {number}")
        functions = namespace_of(cores.values())
        lead = 0 if self.generator.network.batch is None else 1
        cuts = dict(self.cuts)
        made = {}
        for name, shape in self.generator.core_shapes.items():
            cut = cuts.get(name)
            core = cores[name if cut is None else cut.source]
            for share in () if cut is None else cut.shares:
                axis = share.axis + lead
                sizes = tuple(core.shape)
                split = (*sizes[:axis], share.count, sizes[axis] // share.count, *sizes[axis + 1 :])
                chosen = (*(slice(None),) * axis, number // share.place % share.count, ...)
                core = functions.reshape(core, split)[chosen]
            made[name] = functions.reshape(core, shape)
        return made


@lru_cache(maxsize=256)
def parts_of(generator: Generator, count: int, dimension: int = 0) -> Parts:
    """Return a weight in equal parts; see `Generator.parts`."""
    network, layout = generator.network, generator.network.layout
    _check(layout, count, dimension)
    counts = _counts(layout, count, dimension)
    legs = dict(zip(layout.order, network.levels[-1].output, strict=True))
    shares: dict[Leg, Share] = {}
    left = count
    for place, own in enumerate(counts):
        left //= own
        if own > 1:
            shares[legs[dimension, place]] = Share(0, left, own)
    divided = _Division(network, shares)
    part = replace(
        network,
        layout=_part_of(layout, counts, dimension),
        cores=divided.cores,
        levels=divided.levels,
    )
    return Parts(replace(generator, network=part), dimension, count, tuple(divided.cuts.items()))


def possible_counts(layout: Layout, dimension: int) -> tuple[int, ...]:
    """Return the numbers of equal parts, of neighbouring rows, that a dimension can be cut into.

    >>> from adntn.shapes import layout_of
    >>> possible_counts(layout_of((12, 64)), 0)
    (1, 2, 4, 12)
    """
    if layout.padded_shape[dimension] != layout.shape[dimension]:
        return (1,)
    found, before = {1}, 1
    for leg in layout.factors[dimension]:
        found |= {before * share for share in range(1, leg + 1) if leg % share == 0}
        before *= leg
    return tuple(sorted(found))


def _check(layout: Layout, count: int, dimension: int) -> None:
    if isinstance(dimension, bool) or not isinstance(dimension, int) or not 0 <= dimension < len(layout.shape):
        raise ValueError(f"dimension must be an integer from 0 to {len(layout.shape) - 1}, got {dimension!r}")
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"count must be a positive integer, got {count!r}")
    possible = possible_counts(layout, dimension)
    if count in possible:
        return
    size, padded = layout.shape[dimension], layout.padded_shape[dimension]
    why = f"it is padded to {padded}" if padded != size else f"its legs are {layout.factors[dimension]}"
    raise ValueError(
        f"dimension {dimension} of size {size} cannot be cut into {count} equal parts: {why}; possible are"
        f" {', '.join(map(str, possible))}"
    )


def _counts(layout: Layout, count: int, dimension: int) -> tuple[int, ...]:
    """Return in how many shares each leg of the dimension is cut."""
    counts = []
    for leg in layout.factors[dimension]:
        counts.append(math.gcd(leg, count))
        count //= counts[-1]
    return tuple(counts)


def _part_of(layout: Layout, counts: tuple[int, ...], dimension: int) -> Layout:
    shape, factors = list(layout.shape), list(layout.factors)
    shape[dimension] //= math.prod(counts)
    factors[dimension] = tuple(leg // own for leg, own in zip(layout.factors[dimension], counts, strict=True))
    return Layout(tuple(shape), tuple(factors), layout.order)


class _Division:
    """A network's levels with the legs of the last state cut, from the last level back to where each leg is made."""

    def __init__(self, network: Network, shares: Mapping[Leg, Share]) -> None:
        self.network = network
        self.cuts: dict[str, CutCore] = {}
        self.made: dict[str, Core] = {}
        levels = []
        for number in reversed(range(len(network.levels))):
            levels.append(self._level(number, network.levels[number], shares))
            nodes = network.levels[number].nodes
            shares = {leg: share for leg, share in shares.items() if not any(leg in node.legs for node in nodes)}
        self.levels: tuple[Level, ...] = tuple(reversed(levels))
        used = dict.fromkeys(node.core for level in self.levels for node in level.nodes)
        self.cores = tuple({**network.core, **self.made}[name] for name in used)

    def _level(self, number: int, level: Level, shares: Mapping[Leg, Share]) -> Level:
        nodes = tuple(self._node(f"{number}:{place}", node, shares) for place, node in enumerate(level.nodes))
        return replace(level, nodes=nodes, output=tuple(_shortened(leg, shares) for leg in level.output))

    def _node(self, where: str, node: Node, shares: Mapping[Leg, Share]) -> Node:
        own = tuple(replace(shares[leg], axis=axis) for axis, leg in enumerate(node.legs) if leg in shares)
        if not own:
            return node
        legs = tuple(_shortened(leg, shares) for leg in node.legs)
        name = f"{node.core} cut at {where}"  # a shared core stays whole at its other places
        whole = self.network.core[node.core]
        self.made[name] = Core(name, tuple(leg.size for leg in legs), whole.inputs)
        self.cuts[name] = CutCore(node.core, own)
        return Node(name, legs)


def _shortened(leg: Leg, shares: Mapping[Leg, Share]) -> Leg:
    return Leg(leg.label, leg.size // shares[leg].count) if leg in shares else leg
