"""What processes send to each other: a record of the messages of torch's collectives, by whichever engine they go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

#: Where torch keeps its collectives: those of process groups, and those that DTensor uses.
NAMESPACES = ("c10d", "_c10d_functional", "_c10d_functional_autograd")
#: What their names begin with, underscores apart; those of the rest, of waiting and receiving and barriers, do not.
COLLECTIVES = ("all", "broadcast", "gather", "reduce", "scatter", "send")


@dataclass(frozen=True)
class Message:
    """One collective.

    Attributes:
        operation: its name in torch.
        size: bytes of the whole that it makes or takes: of a tensor that is added up, of the parts that are gathered.
    """

    operation: str
    size: int


class Messages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context that records the collectives of this process, forward and backward.

    >>> import torch
    >>> with Messages() as messages:
    ...     torch.ones(3).sum().item()  # of one process, nothing is sent
    3.0
    >>> messages.size, messages.largest
    (0, 0)

    What a machine puts on the wire for a message depends on the algorithm: for one that is added up by a ring of n
    processes, each sends 2 (n - 1) / n of its size.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.all: list[Message] = []

    @property
    def size(self) -> int:
        """Bytes of all messages."""
        return sum(message.size for message in self.all)

    @property
    def largest(self) -> int:
        """Bytes of the largest message; 0 if there was none."""
        return max((message.size for message in self.all), default=0)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation, and record it if it is a collective."""
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # it turns into operations on tensors, which come here again
        result = func(*args, **(kwargs or {}))
        if isinstance(func, torch._ops.OpOverload) and func.namespace in NAMESPACES:
            name = func._schema.name.partition("::")[2]
            if name.lstrip("_").startswith(COLLECTIVES):
                self.all.append(Message(name, max(_bytes(one) for one in (*args, result))))
        return result


def _bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    return sum(map(_bytes, value)) if isinstance(value, Iterable) and not isinstance(value, str) else 0
