"""The processes of one training, where torch has been told of several: which one writes, and what each has to keep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.distributed as dist


def processes() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if _is_told_of_several() else 1


def is_first() -> bool:
    """Return whether this is the process that writes files."""
    return not _is_told_of_several() or dist.get_rank() == 0


def gathered(value: Any) -> list[Any]:
    """Return the value of every process, in their order; all must ask, and each waits for the others.

    >>> gathered("state")
    ['state']
    """
    if not _is_told_of_several():
        return [value]
    values: list[Any] = [None] * processes()
    dist.all_gather_object(values, value)
    return values


def own(values: Sequence[Any]) -> Any:
    """Return what this process gave to `gathered`; None if they were another number of processes then."""
    if len(values) != processes():
        return None
    return values[dist.get_rank() if _is_told_of_several() else 0]


def _is_told_of_several() -> bool:
    return dist.is_available() and dist.is_initialized()
