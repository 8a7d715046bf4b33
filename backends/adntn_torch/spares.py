"""Memory for the weight that a layer makes in each step: on a CPU it takes longer to get than the weight to make."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import RLock
from typing import Any

import numpy
import torch
from torch import Tensor, nn


@dataclass
class _Shelf:
    """Memory of one size: what nobody uses, how much is lent, and the most that was lent since nothing was."""

    free: list[numpy.ndarray[Any, Any]] = field(default_factory=list)
    lent: int = 0
    most: int = 0


class Spares:
    """Memory of weights that nobody uses any more, for the next ones of the same size.

    A tensor's memory comes back when the last that refers to it is gone: after the backward pass, unless the graph is
    retained. As much is kept as was in use at the same time in the last pass. On other devices torch itself keeps
    memory.

    >>> spares = Spares()
    >>> tensor = spares.empty((2, 3), torch.zeros(1))
    >>> place = tensor.data_ptr()
    >>> del tensor
    >>> spares.bytes, spares.empty((3, 2), torch.zeros(1)).data_ptr() == place
    (24, True)
    """

    def __init__(self) -> None:
        self._shelves: dict[int, _Shelf] = {}
        self._lock = RLock()  # memory comes back in any thread, also in the middle of `empty`

    @property
    def bytes(self) -> int:
        """What is kept and not in use."""
        with self._lock:
            return sum(size * len(shelf.free) for size, shelf in self._shelves.items())

    def empty(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Return a tensor of any numbers, of the number type and device of another."""
        if like.device.type != "cpu" or type(like) not in {Tensor, nn.Parameter}:  # such as tensors without data
            return like.new_empty(shape)
        size = math.prod(shape) * like.element_size()
        with self._lock:
            shelf = self._shelves.setdefault(size, _Shelf())
            shelf.lent += 1
            shelf.most = max(shelf.most, shelf.lent)
            # NumPy asks the system for large pages
            memory = shelf.free.pop() if shelf.free else numpy.empty(size, "uint8")
        lent = memory.view()  # lives as long as the last tensor that refers to it
        weakref.finalize(lent, self._come_back, shelf, memory).atexit = False
        return torch.frombuffer(lent, dtype=like.dtype).view(shape)

    def _come_back(self, shelf: _Shelf, memory: numpy.ndarray[Any, Any]) -> None:
        with self._lock:
            shelf.lent -= 1
            shelf.free.append(memory)
            if not shelf.lent:  # the pass is over
                del shelf.free[shelf.most :]
                shelf.most = 0

    def clear(self) -> None:
        """Let go what is not in use."""
        with self._lock:
            for shelf in self._shelves.values():
                shelf.free.clear()


#: Those of all layers in this process.
SPARES = Spares()
