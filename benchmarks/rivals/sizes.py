"""Sizes of a rival's factors such that it has about as many parameters as our generator."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from adntn.shapes import prime_factors

#: The largest rank that is looked at.
LARGEST_RANK = 256


def groups(size: int, count: int) -> tuple[int, ...]:
    """Return `count` factors of a number, as alike as they come: the largest primes are dealt out first.

    >>> groups(4096, 4), groups(25088, 3)
    ((8, 8, 8, 8), (28, 28, 32))

    Raises:
        ValueError: if the number has fewer prime factors.
    """
    primes = prime_factors(size)
    if len(primes) < count:
        raise ValueError(f"{size} has only {len(primes)} prime factors, {count} factors are asked for")
    factors = [1] * count
    for prime in reversed(primes):
        factors[factors.index(min(factors))] *= prime
    return tuple(sorted(factors))


def counts(shape: Sequence[int], most: int) -> range:
    """Return into how many factors each dimension can be split, from 2 to `most`."""
    return range(2, min(most, *(len(prime_factors(size)) for size in shape)) + 1)


def train_size(sizes: Sequence[int], rank: int) -> int:
    """Return the parameters of a tensor train whose sites have these sizes and whose bonds all have one rank.

    >>> train_size((4, 4, 4), 2)
    32
    """
    ranks = (1, *(rank,) * (len(sizes) - 1), 1)
    return sum(left * size * right for size, (left, right) in zip(sizes, pairwise(ranks), strict=True))


def nearest(
    splits: Iterable[int], parameters: Callable[[int, int], int], target: int, *, least_rank: int = 2
) -> tuple[int, int]:
    """Return the split and the rank with the number of parameters nearest to a target; of equals, the fewest factors.

    >>> nearest([2, 3], lambda split, rank: split * rank, 12)
    (2, 6)

    Args:
        splits: into how many factors a dimension can be split.
        parameters: from a split and a rank to a number of parameters.
        target: ours.
        least_rank: the smallest that is looked at; at rank 1 a train is a mere product of its sites.

    Raises:
        ValueError: if there is no split.
    """
    found = [(split, rank) for split in splits for rank in range(least_rank, LARGEST_RANK + 1)]
    if not found:
        raise ValueError("the shape's dimensions cannot be split into at least 2 factors each")
    return min(found, key=lambda one: (abs(math.log(parameters(*one) / target)), one))
