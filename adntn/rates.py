"""How a learning rate rises and falls, for the training of any framework."""

from __future__ import annotations

from typing import Literal, get_args

#: What the rate does once it has risen.
Decay = Literal["cosine", "constant"]


def rising_steps(steps: int, share: float, decay: str) -> int:
    """Return in how many steps the rate rises, after a look at all that a warm-up is given.

    >>> rising_steps(100, 0.1, "cosine")
    10

    Args:
        steps: how many there will be.
        share: part of these in which the rate rises.
        decay: what the rate does then.

    Raises:
        ValueError: if there is less than one step, or an argument has no such value.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if not 0 <= share <= 1:
        raise ValueError(f"share must be from 0 to 1, got {share}")
    if decay not in get_args(Decay):
        raise ValueError(f"decay must be one of {', '.join(get_args(Decay))}, got {decay!r}")
    return round(share * steps)
