"""How a weight's dimensions become small legs, and how a tensor of legs becomes the weight again.

A dimension is factorised into *legs* (4096 = 2^12, 25088 = 2^9 * 7^2); one with a large prime factor is padded up to
the next smooth number and the result cropped. The networks that produce the legs live in `network` and `topologies`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from adntn.arrays import Array, Namespace
from adntn.transposing import Transposition, padded, transposition

Order = Literal["split", "interleaved"]

#: The largest prime that becomes a leg of its own; larger prime factors are padded away.
LARGEST_LEG = 7
#: The highest rank of a weight.
LARGEST_RANK = 6


def prime_factors(number: int) -> tuple[int, ...]:
    """Return the prime factors of a positive integer, smallest first.

    >>> prime_factors(25088)
    (2, 2, 2, 2, 2, 2, 2, 2, 2, 7, 7)
    """
    factors = []
    divisor = 2
    while divisor * divisor <= number:
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        divisor += 1
    return (*factors, number) if number > 1 else tuple(factors)


def factorise(size: int, leg: int = 1) -> tuple[int, ...]:
    """Return the legs of a dimension: the prime factors of the least smooth number that is not below `size`.

    Factors are multiplied together while the product is at most `leg`.

    >>> factorise(1000), factorise(1000, leg=4), math.prod(factorise(5087))
    ((2, 2, 2, 5, 5, 5), (4, 2, 5, 5, 5), 5103)
    """
    padded = size
    while max(factors := prime_factors(padded), default=1) > LARGEST_LEG:
        padded += 1
    legs: list[int] = []
    for factor in factors:
        if legs and legs[-1] * factor <= leg:
            legs[-1] *= factor
        else:
            legs.append(factor)
    return tuple(legs)


@dataclass(frozen=True)
class Layout:
    """A weight's shape, the legs of each of its dimensions and the order in which a network produces these legs.

    Attributes:
        shape: the weight's shape.
        factors: for each dimension, the sizes of its legs; their product is the padded size of the dimension.
        order: for each leg, in the network's order, its dimension and its place among the dimension's legs.
    """

    shape: tuple[int, ...]
    factors: tuple[tuple[int, ...], ...]
    order: tuple[tuple[int, int], ...]

    @cached_property
    def leg_sizes(self) -> tuple[int, ...]:
        """Sizes of the legs, in the network's order."""
        return tuple(self.factors[dimension][place] for dimension, place in self.order)

    @cached_property
    def padded_shape(self) -> tuple[int, ...]:
        """The shape before cropping."""
        return tuple(math.prod(legs) for legs in self.factors)

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def padding(self) -> float:
        """Share of the generated numbers that are cropped away, from 0 to 1."""
        return 1.0 - self.size / math.prod(self.padded_shape)

    @cached_property
    def rank_in_weight(self) -> tuple[int, ...]:
        """For each leg, in the network's order, its position in the row-major order of the weight."""
        positions = {leg: rank for rank, leg in enumerate(sorted(self.order))}
        return tuple(positions[leg] for leg in self.order)

    def tile(self, rows: Sequence[int]) -> Layout:
        """Return the layout of some neighbouring rows: those for which the row legs have only so many values."""
        return Layout((math.prod(rows), *self.shape[1:]), (tuple(rows), *self.factors[1:]), self.order)

    def assembly(self, axes: Sequence[int], batch: int | None) -> Assembly:
        """Return how a state becomes the weight.

        Args:
            axes: the legs of the state in its row-major order, as positions in the network's order.
            batch: size of the leading batch axis; None if there is none.
        """
        lead = () if batch is None else (batch,)
        sizes = [self.leg_sizes[axis] for axis in axes]
        ranks = [self.rank_in_weight[axis] for axis in axes]
        in_weight = sorted(range(len(axes)), key=lambda place: ranks[place])
        back = [sizes[place] for place in in_weight]
        return Assembly(
            self,
            len(lead),
            transposition([*lead, *sizes], [-1, *ranks] if lead else ranks, lead + self.padded_shape),
            transposition([*lead, *back], [-1, *in_weight] if lead else in_weight, (*lead, math.prod(sizes))),
        )


@dataclass(frozen=True)
class Assembly:
    """The way from a state to the weight, crop(permute(reshape(state))), and its adjoint.

    Attributes:
        layout: the weight's layout.
        lead: number of batch axes in front, 0 or 1.
        into_weight: from the state's legs to the padded weight.
        into_legs: the reverse.
    """

    layout: Layout
    lead: int
    into_weight: Transposition
    into_legs: Transposition

    def assemble(self, state: Array, functions: Namespace) -> Array:
        """Return the weight, after the batch axis if there is one; `state` may have any shape of the right size."""
        weight = self.into_weight(state, functions)
        if self.layout.padded_shape == self.layout.shape:
            return weight
        return weight[(..., *(slice(0, size) for size in self.layout.shape))]

    def disassemble(self, weight: Array, functions: Namespace) -> Array:
        """Return the adjoint of `assemble`: the numbers put back into legs, zero in the padding."""
        sizes = zip(self.layout.shape, self.layout.padded_shape, strict=True)
        for dimension, (size, whole) in enumerate(sizes, start=self.lead):
            weight = padded(weight, dimension, size, whole, functions)
        return self.into_legs(weight, functions)


def checked_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape as a tuple of positive integers of rank 1 to 6.

    Raises:
        TypeError: if a size is no integer.
        ValueError: if the rank or a size is out of range.
    """
    if isinstance(shape, int):
        raise TypeError(f"shape must be a sequence of sizes such as ({shape}, {shape}), got the integer {shape}")
    sizes = tuple(shape)
    if not all(hasattr(size, "__index__") and not isinstance(size, bool) for size in sizes):
        raise TypeError(f"every size of shape must be an integer, got {sizes}")
    sizes = tuple(size.__index__() for size in sizes)
    if not 1 <= len(sizes) <= LARGEST_RANK:
        raise ValueError(f"shape must have 1 to {LARGEST_RANK} dimensions, got {len(sizes)}: {sizes}")
    for dimension, size in enumerate(sizes):
        if size < 1:
            raise ValueError(f"shape must have positive sizes, got {size} in dimension {dimension} of {sizes}")
    return sizes


def layout_of(
    shape: Sequence[int],
    layout: Order = "split",
    factors: Sequence[Sequence[int]] | None = None,
    leg: int = 1,
) -> Layout:
    """Return the layout of a weight.

    >>> layout_of((4, 6), "interleaved").leg_sizes
    (2, 2, 2, 3)

    Args:
        shape: the weight's shape, rank 1 to 6.
        layout: "split" takes the legs of each dimension in turn (rows, then columns); "interleaved" takes them
            alternately (row, column, row, column ...), so that neighbouring legs belong to different dimensions.
        factors: the sizes of the legs of each dimension, to choose them oneself.
        leg: otherwise, prime factors are multiplied together into legs of at most this size.

    Raises:
        TypeError, ValueError: if the shape, the layout's name or the factors are wrong.
    """
    sizes = checked_shape(shape)
    legs = tuple(factorise(size, leg) for size in sizes) if factors is None else _checked_factors(sizes, factors)
    if not any(legs):
        legs = ((1,), *legs[1:])  # a weight of one number still needs one leg
    order = [(dimension, place) for dimension, group in enumerate(legs) for place in range(len(group))]
    if layout == "interleaved":
        order.sort(key=lambda leg: ((leg[1] + 0.5) / len(legs[leg[0]]), leg[0]))
    elif layout != "split":
        raise ValueError(f'layout must be "split" or "interleaved", got {layout!r}')
    return Layout(sizes, legs, tuple(order))


def _checked_factors(shape: tuple[int, ...], factors: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    if len(factors) != len(shape) or not all(isinstance(group, Sequence) for group in factors):
        raise ValueError(
            f"factors must have one group of sizes for each of the {len(shape)} dimensions of {shape}, got {factors!r}"
        )
    groups = tuple(map(tuple, factors))
    for dimension, (size, group) in enumerate(zip(shape, groups, strict=True)):
        if not all(isinstance(leg, int) and leg > 0 for leg in group) or math.prod(group) < size:
            raise ValueError(
                f"factors of dimension {dimension} must be positive integers with a product of at least {size},"
                f" got {group}"
            )
    return groups
