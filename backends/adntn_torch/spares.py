"""Memory for the weight that a layer makes in each step: on a CPU it takes longer to get than the weight to make."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from typing import Any

import numpy
import torch
from torch import Tensor

from adntn.arrays import dtype_name


class Spares:
    """Memory that tensors of one layer had and that nobody uses any more.

    A tensor's memory comes back when the last that refers to it is gone: after the backward pass, unless the graph is
    retained. Copies of a layer have spares of their own. On other devices torch itself keeps memory.

    >>> spares = Spares()
    >>> tensor = spares.empty((2, 3), torch.zeros(1))
    >>> place = tensor.data_ptr()
    >>> del tensor
    >>> spares.empty((3, 2), torch.zeros(1)).data_ptr() == place
    True
    """

    def __init__(self) -> None:
        self._free: dict[int, list[numpy.ndarray[Any, Any]]] = {}

    def empty(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Return a tensor of any numbers, of the number type (none of 16 bits) and device of another."""
        if like.device.type != "cpu":
            return like.new_empty(shape)
        size = math.prod(shape) * like.element_size()
        free = self._free.setdefault(size, [])
        # NumPy asks the system for large pages
        memory = free.pop() if free else numpy.empty(size, "uint8")
        lent = memory.view(dtype_name(like)).reshape(shape)
        weakref.finalize(lent, free.append, memory).atexit = False
        return torch.from_numpy(lent)

    def clear(self) -> None:
        """Let the memory go."""
        self._free.clear()

    def __reduce__(self) -> tuple[type[Spares], tuple[()]]:
        return Spares, ()
