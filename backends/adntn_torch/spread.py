"""What a layer knows of other processes; importing this imports no engine of torch's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from adntn import Generator


class Spread(Protocol):
    """How a layer is spread over processes; `adntn_torch.distributed` makes them.

    Attributes:
        generator: of what this process makes: the weight, or a part of it.
        adds_bias: whether the layer adds its bias itself.
    """

    @property
    def generator(self) -> Generator: ...  # noqa: D102

    @property
    def adds_bias(self) -> bool: ...  # noqa: D102

    def cores(self, cores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the cores that `generator` takes, whose gradients are added up over the processes."""

    def copy(self, value: Tensor, core: Tensor) -> None:
        """Copy the first process's value into a core, in every process."""
