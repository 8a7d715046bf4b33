"""The network of `benchmarks.communication`, the same for every library, and what is recorded of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import adntn


@dataclass(frozen=True)
class Setting:
    """A perceptron of two layers of width x width, and how it is trained."""

    width: int = 1024
    rows: int = 32
    steps: int = 3
    topology: adntn.Options = field(default_factory=lambda: adntn.MERA.options(bond=2))


#: What is measured.
SETTING = Setting()


@dataclass(frozen=True)
class Sent:
    """What a network sends in a step.

    Attributes:
        parameters: its numbers.
        messages: how many.
        size: bytes of all of them.
        largest: bytes of the largest.
        apart: the largest relative difference of its losses to those of one process.
    """

    parameters: int
    messages: int
    size: int
    largest: int
    apart: float


def sent(parameters: int, sizes: Sequence[int], losses: Sequence[float], expected: Sequence[float]) -> Sent:
    """Return the record of a network, from the sizes of its messages and its losses, here and in one process."""
    apart = max(abs(one - other) / abs(other) for one, other in zip(losses, expected, strict=True))
    return Sent(parameters, len(sizes), sum(sizes), max(sizes), apart)
